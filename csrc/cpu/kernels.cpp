// Instantiates every formula as loops. Compiled once per instruction set, with FASTLOSS_KERNELS
// naming the table and FASTLOSS_ISA the set. Everything here has internal linkage: see
// core/config.h.
#include "cpu/kernels.h"

#include <new>

#include "cpu/ctc_loops.h"

namespace fastloss::cpu {
namespace {

// Partial sums in the compute type run over this many elements before they are added in double.
constexpr std::int64_t sum_block = 128;

template <class F, class T>
void construct(const double* parameters, void* functor) {
  static_assert(sizeof(F) <= functor_bytes && std::is_trivially_copyable_v<F>);
  new (functor) F(parameters);
}

template <class F, class T, int Wants>
void map_loop(const void* functor, const T* t, const T* p, const T* scale, T* loss, T* d_pred,
              T* d_true, std::int64_t n) {
  const F f = *static_cast<const F*>(functor);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    map_terms<T> r = f(t[i], p[i]);
    T s = scale[i];
    loss[i] = r.loss;
    if constexpr (Wants & wants_pred) d_pred[i] = s == 0 ? T(0) : s * r.d_pred;
    if constexpr (Wants & wants_true) d_true[i] = s == 0 ? T(0) : s * r.d_true;
  }
}

// The target of element i: the dense row, or zero in a sparse row (its label is done apart).
template <class F, class T>
FASTLOSS_HD T target(const T* t, std::int64_t i) {
  if constexpr (F::sparse)
    return T(0);
  else
    return t[i];
}

// Calls body(begin, end) for the elements of a block that share the dense loop, and label(i) for
// the label of a sparse row.
template <class F, class T, class Body, class Label>
FASTLOSS_HD void split_at_label(one_hot<T> hot, std::int64_t n, Body body, Label label) {
  if (F::sparse && hot.position >= 0 && hot.position < n) {
    body(std::int64_t(0), hot.position);
    label(hot.position);
    body(hot.position + 1, n);
  } else {
    body(std::int64_t(0), n);
  }
}

template <class F, class T, int Phase>
void accumulate(const void* functor, const void* stats_, const T* t, one_hot<T> hot, const T* p,
                std::int64_t n, double* sums) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  if constexpr (Phase == 0 && F::first_phase_is_max) {
    T most = T(sums[0]), most_b = T(sums[1]);
    split_at_label<F>(
        hot, n,
        [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
          T m = most, m_b = most_b;
#pragma omp simd reduction(max : m, m_b)
          for (std::int64_t i = begin; i < end; ++i) {
            row_terms<T> r = f.terms(phase<Phase>{}, target<F>(t, i), p[i], stats);
            m = m < r.a ? r.a : m;
            m_b = m_b < r.b ? r.b : m_b;
          }
          most = m;
          most_b = m_b;
        },
        [&](std::int64_t i) __attribute__((always_inline)) {
          row_terms<T> r = f.terms(phase<Phase>{}, hot.value, p[i], stats);
          most = most < r.a ? r.a : most;
          most_b = most_b < r.b ? r.b : most_b;
        });
    sums[0] = most;
    sums[1] = most_b;
  } else {
    split_at_label<F>(
        hot, n,
        [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
          for (std::int64_t first = begin; first < end; first += sum_block) {
            std::int64_t last = first + sum_block < end ? first + sum_block : end;
            T a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
            for (std::int64_t i = first; i < last; ++i) {
              row_terms<T> r = f.terms(phase<Phase>{}, target<F>(t, i), p[i], stats);
              a += r.a;
              b += r.b;
              c += r.c;
            }
            sums[0] += a;
            sums[1] += b;
            sums[2] += c;
          }
        },
        [&](std::int64_t i) __attribute__((always_inline)) {
          row_terms<T> r = f.terms(phase<Phase>{}, hot.value, p[i], stats);
          sums[0] += r.a;
          sums[1] += r.b;
          sums[2] += r.c;
        });
  }
}

template <class F, class T, int Phase>
void finish(const void* functor, const double* sums, void* stats) {
  static_assert(sizeof(typename F::stats) <= stats_bytes);
  const F f = *static_cast<const F*>(functor);
  f.finish(phase<Phase>{}, row_terms<T>{T(sums[0]), T(sums[1]), T(sums[2])},
           *static_cast<typename F::stats*>(stats));
}

template <class F, class T>
T row_loss(const void* functor, const void* stats) {
  return static_cast<const F*>(functor)->loss(*static_cast<const typename F::stats*>(stats));
}

template <class F, class T, int Wants>
void row_gradient(const void* functor, const void* stats_, const T* t, one_hot<T> hot, const T* p,
                  T scale, T* d_pred, T* d_true, std::int64_t n) {
  const F f = *static_cast<const F*>(functor);
  const auto stats = *static_cast<const typename F::stats*>(stats_);
  auto one = [&](std::int64_t i, T target) __attribute__((always_inline)) {
    gradient_terms<T> r = f.gradient(target, p[i], stats);
    if constexpr (Wants & wants_pred) d_pred[i] = scale * r.d_pred;
    if constexpr (Wants & wants_true) d_true[i] = scale * r.d_true;
  };
  split_at_label<F>(
      hot, n,
      [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) one(i, target<F>(t, i));
      },
      [&](std::int64_t i) __attribute__((always_inline)) { one(i, hot.value); });
}

// Sixteen independent double sums: the same bits whatever the vector width.
template <class T>
double weighted_sum(const T* x, const T* w, std::int64_t n) {
  constexpr int lanes = 16;
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma omp simd
    for (int k = 0; k < lanes; ++k) {
      double v = w ? (w[i + k] == 0 ? 0.0 : double(x[i + k]) * double(w[i + k])) : double(x[i + k]);
      sums[k] += v;
    }
  }
  for (; i < n; ++i)
    sums[i % lanes] += w ? (w[i] == 0 ? 0.0 : double(x[i]) * double(w[i])) : double(x[i]);
  double total = 0;
  for (int k = 0; k < lanes; ++k) total += sums[k];
  return total;
}

template <class F, class T>
loss_kernel<T> make_kernel() {
  loss_kernel<T> k{};
  k.construct = construct<F, T>;
  k.averages = F::averages;
  k.label_signs = F::label_signs;
  if constexpr (F::loss_kind == kind::map) {
    k.map[0] = map_loop<F, T, 0>;
    k.map[1] = map_loop<F, T, 1>;
    k.map[2] = map_loop<F, T, 2>;
    k.map[3] = map_loop<F, T, 3>;
  } else {
    static_assert(F::phases <= max_phases);
    k.phases = F::phases;
    k.first_phase_is_max = F::first_phase_is_max;
    k.accumulate[0] = accumulate<F, T, 0>;
    k.finish[0] = finish<F, T, 0>;
    if constexpr (F::phases > 1) {
      k.accumulate[1] = accumulate<F, T, 1>;
      k.finish[1] = finish<F, T, 1>;
    }
    if constexpr (F::phases > 2) {
      k.accumulate[2] = accumulate<F, T, 2>;
      k.finish[2] = finish<F, T, 2>;
    }
    k.row_loss = row_loss<F, T>;
    k.gradient[1] = row_gradient<F, T, 1>;
    if constexpr (!F::sparse) {
      k.gradient[2] = row_gradient<F, T, 2>;
      k.gradient[3] = row_gradient<F, T, 3>;
    }
  }
  if constexpr (!std::is_void_v<typename F::variant>) {
    static const loss_kernel<T> variant = make_kernel<typename F::variant, T>();
    k.variant = &variant;
    k.has_variant_for = F::has_variant_for;
  }
  return k;
}

template <class T, template <class> class... Loss>
kernel_set<T> make_set(loss_list<Loss...>) {
  return {{make_kernel<Loss<T>, T>()...}, weighted_sum<T>, make_ctc_loops<T>()};
}

}  // namespace

const kernel_table& FASTLOSS_KERNELS() {
  static const kernel_table table{FASTLOSS_ISA, make_set<float>(all_losses{}),
                                  make_set<double>(all_losses{})};
  return table;
}

}  // namespace fastloss::cpu
