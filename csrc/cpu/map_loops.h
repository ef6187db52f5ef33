// Loops over the elements of map losses. Part of kernels.cpp, so compiled once per instruction set.
#pragma once

#include <tuple>
#include <utility>

#include "cpu/memory_loops.h"

namespace fastloss::cpu {
namespace {

template <class F, class T, int Wants>
void map_loop(const void* functor, const T* t, const T* p, const T* scale, T* loss, T* d_pred,
              T* d_true, std::int64_t n, std::int64_t ahead) {
  const F f = *static_cast<const F*>(functor);
  auto some = [&](std::int64_t first, auto size) __attribute__((always_inline)) {
    prefetch(t + first + ahead, size);
    prefetch(p + first + ahead, size);
#pragma omp simd
    for (std::int64_t i = first; i < first + size; ++i) {
      map_terms<T> r = f(t[i], p[i]);
      T s = scale[i];
      loss[i] = r.loss;
      if constexpr (Wants & wants_pred) d_pred[i] = s == 0 ? T(0) : s * r.d_pred;
      if constexpr (Wants & wants_true) d_true[i] = s == 0 ? T(0) : s * r.d_true;
    }
  };
  constexpr int width = sum_lanes;
  std::int64_t i = 0;
  for (; i + width <= n; i += width) some(i, std::integral_constant<int, width>{});
  if (i < n) some(i, n - i);
}

enum class gradients { none, stored, streamed, added, added_streamed };

// A term while a loop runs over it.
template <class F, class T>
struct running_term {
  const F f;
  const T scale;
  sums_in_registers sums;
  FASTLOSS_HD explicit running_term(const map_term<T>& from)
      : f(*static_cast<const F*>(from.functor)), scale(from.scale), sums(from.sums) {}
};

// See map_sums.
template <class T, gradients Gradients, class... F, std::size_t... I>
FASTLOSS_HD void run_map_terms(std::index_sequence<I...>, map_term<T>* terms, const T* t,
                               const T* p, const T* before, T* d_pred, std::int64_t n) {
  constexpr int width = sum_lanes;
  constexpr bool writes = Gradients != gradients::none,
                 adds = Gradients == gradients::added || Gradients == gradients::added_streamed,
                 streams =
                     Gradients == gradients::streamed || Gradients == gradients::added_streamed;
  std::tuple<running_term<F, T>...> running{running_term<F, T>(terms[I])...};
  const std::int64_t ahead = terms[0].ahead;
  // `size` elements from number i on. It is a constant but for the last ones, so that nothing but
  // the sums is kept from one call to the next.
  auto some = [&](std::int64_t i, auto size) __attribute__((always_inline)) {
    alignas(cache_line) T loss[sizeof...(F)][width], out[width];
    prefetch(t + i + ahead, size);
    prefetch(p + i + ahead, size);
    auto one = [&](auto index, int k) __attribute__((always_inline)) {
      constexpr std::size_t term = decltype(index)::value;
      const auto& own = std::get<term>(running);
      map_terms<T> r = own.f(t[i + k], p[i + k]);
      loss[term][k] = r.loss;
      if constexpr (term > 0 && writes)
        out[k] = math::add_product(out[k], own.scale, r.d_pred);
      else if constexpr (adds)
        out[k] = math::add_product(before[i + k], own.scale, r.d_pred);
      else if constexpr (writes)
        out[k] = own.scale * r.d_pred;
    };
    auto all = [&](int first, int count) __attribute__((always_inline)) {
#pragma omp simd
      for (int k = first; k < first + count; ++k)
        (one(std::integral_constant<std::size_t, I>{}, k), ...);
    };
    if (size == width) {
      // A few vectors in a row, so that the compiler mixes their instructions: those of one wait
      // for each other.
      constexpr int step = vector_bytes / sizeof(T);
#pragma GCC unroll 4
      for (int k = 0; k < width; k += step) all(k, step);
    } else {
      all(0, size);
    }
    for (auto& losses : loss)
      for (int k = size; k < width; ++k) losses[k] = 0;
    (std::get<I>(running).sums.add(loss[I]), ...);
    if constexpr (streams) {
      if (size == width) {
        for (int k = 0; k < width; k += line<T>) stream_line(out + k, d_pred + i + k);
        return;
      }
    }
    if constexpr (writes) {
      // Not std::memcpy, for which GCC takes out of wide registers what it stores in narrower ones.
#pragma omp simd
      for (int k = 0; k < size; ++k) d_pred[i + k] = out[k];
    }
  };
  std::int64_t i = 0;
  for (; i + width <= n; i += width) some(i, std::integral_constant<int, width>{});
  if (i < n) some(i, static_cast<int>(n - i));
  (std::get<I>(running).sums.store(terms[I].sums), ...);
}

template <class T, gradients Gradients, class... F>
void map_sum_loop(map_term<T>* terms, const T* t, const T* p, const T* before, T* d_pred,
                  std::int64_t n) {
  run_map_terms<T, Gradients, F...>(std::index_sequence_for<F...>{}, terms, t, p, before, d_pred,
                                    n);
}

template <class T, class... F>
map_sums<T> make_map_sums() {
  return {map_sum_loop<T, gradients::none, F...>, map_sum_loop<T, gradients::stored, F...>,
          map_sum_loop<T, gradients::streamed, F...>, map_sum_loop<T, gradients::added, F...>,
          map_sum_loop<T, gradients::added_streamed, F...>};
}

}  // namespace
}  // namespace fastloss::cpu
