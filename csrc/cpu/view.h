// Blocks of strided arrays of any dtype, as contiguous blocks of the compute type.
#pragma once

#include <cstdint>

#include "api.h"

namespace fastloss::cpu {

// Merges axes that are contiguous with each other and drops those of size one, so that a
// contiguous array becomes a single axis.
view coalesced(const view& v);

std::int64_t item_size(dtype type);

// The first element.
double number(const view& v);

// The elements [first, first + n) of `v` as T (float, double or std::int64_t): a pointer into the
// array where it already holds them so, otherwise `scratch`, filled. `v` must be coalesced.
template <class T>
const T* load(const view& v, std::int64_t first, std::int64_t n, T* scratch);

// Where to write the elements [first, first + n): a pointer into the array where that is possible,
// otherwise `scratch`, to be passed to `store` when filled.
template <class T>
T* output(const view& v, std::int64_t first, std::int64_t n, T* scratch);
template <class T>
void store(const view& v, std::int64_t first, std::int64_t n, const T* block);

// Whether two arrays may share memory, judged by their first and last bytes.
bool overlap(const view& a, const view& b);

}  // namespace fastloss::cpu
