// How launches are cut, by the shape of the work, and for long rows by the compute capability: so
// the order of every sum, and with it every bit of a result, is the same on all devices of a kind.
// The numbers are guesses until a device has been measured.
#pragma once

#include "cuda/arguments.h"

namespace fastloss::cuda {

// For `segments` of `length` elements, each with a value of its own.
geometry cut_map(int64_t segments, int64_t length);
// For one sum over `length` elements.
geometry cut_sum(int64_t length);
// For whole rows. `kept_bytes` is what keeping them takes per column; zero if nothing reads a row
// twice. The capability is 90 for 9.0.
geometry cut_rows(int64_t rows, int64_t cols, int kept_bytes, int capability);
// Whether `cut_parts_of_rows` is to be preferred to this cut of whole rows.
bool has_few_long_rows(const geometry& whole_rows);
geometry cut_parts_of_rows(int64_t rows, int64_t cols);

// For CTC: whole samples, by blocks that each need memory.
geometry cut_samples(int64_t samples);

}  // namespace fastloss::cuda
