// The loops of CTC. Part of kernels.cpp, so compiled once per instruction set.
#pragma once

#include "cpu/kernels.h"

namespace fastloss::cpu {
namespace {

template <class T>
ctc_frame<T> ctc_describe(const T* x, std::int64_t n) {
  T peak = -math::infinity<T>;
#pragma omp simd reduction(max : peak)
  for (std::int64_t i = 0; i < n; ++i) peak = peak < x[i] ? x[i] : peak;
  T rest = 0, ties = 0;
#pragma omp simd reduction(+ : rest, ties)
  for (std::int64_t i = 0; i < n; ++i) {
    rest += ctc_rest(x[i], peak);
    ties += x[i] == peak ? T(1) : T(0);
  }
  return ctc_frame_of(peak, rest, ties);
}

template <class T>
void ctc_advance_all(const T* before, const T* skip, std::int64_t n, T* now) {
#pragma omp simd
  for (std::int64_t s = 0; s < n; ++s)
    now[s] = ctc_advance(before[s], before[s - 1], before[s - 2], skip[s]);
}

template <class T>
T ctc_emit(const T* emission, std::int64_t n, T* now) {
  T most = -math::infinity<T>;
#pragma omp simd reduction(max : most)
  for (std::int64_t s = 0; s < n; ++s) {
    now[s] += emission[s];
    most = most < now[s] ? now[s] : most;
  }
#pragma omp simd
  for (std::int64_t s = 0; s < n; ++s) now[s] -= most;
  return most;
}

template <class T>
void ctc_posterior(const T* forward, const T* backward, std::int64_t n, T* share) {
  T most = -math::infinity<T>;
#pragma omp simd reduction(max : most)
  for (std::int64_t s = 0; s < n; ++s) {
    share[s] = forward[s] + backward[n - 1 - s];
    most = most < share[s] ? share[s] : most;
  }
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t s = 0; s < n; ++s) {
    share[s] = math::exp(share[s] - most);
    total += share[s];
  }
#pragma omp simd
  for (std::int64_t s = 0; s < n; ++s) share[s] /= total;
}

template <class T>
void ctc_softmax(const T* x, std::int64_t n, ctc_frame<T> frame, T scale, T* share) {
  const T factor = scale / frame.total();
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) share[i] = factor * frame.exponential(x[i]);
}

template <class T>
ctc_loops<T> make_ctc_loops() {
  return {ctc_describe<T>, ctc_advance_all<T>, ctc_emit<T>, ctc_posterior<T>, ctc_softmax<T>};
}

}  // namespace
}  // namespace fastloss::cpu
