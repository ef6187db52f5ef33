// The compiled loops over one block of contiguous elements, one table per instruction set.
#pragma once

#include <cstdint>
#include <type_traits>

#include "losses/ctc.h"
#include "losses/list.h"

namespace fastloss::cpu {

enum class cache { first, second };

// The one that keeps so many elements, which are all asked for before the first of them is read,
// beside what is computed meanwhile.
template <class T>
FASTLOSS_HD cache cache_that_keeps(std::int64_t n) {
  return n * std::int64_t(sizeof(T)) <= 8192 ? cache::first : cache::second;
}

// Asks for memory that is read soon, so that it comes while something else is computed. The
// processor does so by itself only along a stream, and begins anew at each page. Need not lie
// inside of an array.
template <cache To = cache::first, class T>
FASTLOSS_HD void prefetch(const T* at, std::int64_t n) {
  constexpr std::int64_t line = 64 / sizeof(T);
  constexpr int locality = To == cache::first ? 3 : 2;
  for (std::int64_t i = 0; i < n; i += line)
    __builtin_prefetch(reinterpret_cast<const char*>(at) + i * std::int64_t(sizeof(T)), 0,
                       locality);
}

// The same, where the cache is not known before; for some lines.
template <class T>
FASTLOSS_HD void prefetch(const T* at, std::int64_t n, cache to) {
  if (to == cache::first)
    prefetch(at, n);
  else
    prefetch<cache::second>(at, n);
}

// What a caller wants beside the value; indexes the arrays of loops below.
enum wants { wants_value = 0, wants_pred = 1, wants_true = 2 };

inline constexpr int max_phases = 3;
inline constexpr int functor_bytes = 64, stats_bytes = 96;
inline constexpr int cache_line = 64;

// Elements before the first one that begins a cache line.
template <class T>
FASTLOSS_HD std::int64_t elements_to_line(const T* at) {
  const auto past = reinterpret_cast<std::uintptr_t>(at) % cache_line;
  return past ? std::int64_t((cache_line - past) / sizeof(T)) : 0;
}

// The rows that are computed side by side, one in each lane of a few vectors.
template <class T>
inline constexpr int lanes = 256 / sizeof(T);

// Independent double sums: the same bits whatever the vector width. Many, because additions to one
// register wait for each other.
inline constexpr int sum_lanes = 32;
struct alignas(cache_line) lane_sums {
  double lane[sum_lanes];
  FASTLOSS_HD double total() {
    for (int half = sum_lanes / 2; half > 0; half /= 2)
      for (int k = 0; k < half; ++k) lane[k] += lane[k + half];
    return lane[0];
  }
};

// The position and value of the label of a sparse row; outside [0, n) there is none in this block.
template <class T>
struct one_hot {
  std::int64_t position;
  T value;
};

// Rows side by side: class c of row k is at [c * stride + k], for k in [0, lanes).
template <class T>
struct lane_block {
  std::int64_t classes;
  const T *t, *p;  // t: dense targets
  std::int64_t t_stride, p_stride;
  const T *next_t, *next_p;   // classes * lanes elements each, which are asked for meanwhile
  const std::int64_t* label;  // of sparse rows; a row with a negative one has none
  const T* label_value;
  T* kept;  // room for classes * lanes elements
  // Multiply the losses and the gradients; a zero gives an exact zero.
  const T *weight, *scale;
  T* loss;
  T *d_pred, *d_true;
  std::int64_t d_pred_stride, d_true_stride;
};

// A map loss, or a term of a sum of such, in the usual case: what all of its gradients are times,
// which is not zero, the lanes that its losses are added to, and how many elements ahead loops ask
// for memory.
template <class T>
struct map_term {
  const void* functor;
  T scale;
  lane_sums sums;
  std::int64_t ahead;
};

// Loops over the elements of one such loss, or of two at once. They write the sum of the gradients
// or, unless `before` is null, add it to the gradients there, which may lie where the sum goes.
// Those that stream write past the caches, to where a cache line begins; see end_of_writes in
// parallel.h.
template <class T>
struct map_sums {
  using loop = void (*)(map_term<T>* terms, const T* t, const T* p, const T* before, T* d_pred,
                        std::int64_t n);
  loop value = nullptr, store = nullptr, stream = nullptr, add = nullptr, add_stream = nullptr;
  void run(map_term<T>* terms, const T* t, const T* p, const T* before, T* d_pred, bool streams,
           std::int64_t n) const {
    const loop chosen = !d_pred   ? value
                        : before  ? streams ? add_stream : add
                        : streams ? stream
                                  : store;
    chosen(terms, t, p, before, d_pred, n);
  }
};

template <class T>
struct loss_kernel {
  void (*construct)(const double* parameters, void* functor);

  // map: loss[i], and gradients times scale[i]; a zero scale gives an exact zero. `ahead` as above.
  using map_loop = void (*)(const void* functor, const T* t, const T* p, const T* scale, T* loss,
                            T* d_pred, T* d_true, std::int64_t n, std::int64_t ahead);
  map_loop map[4] = {};

  map_sums<T> sums;  // map

  // row: `accumulate` combines the terms of a block into `sums` (double[3]), and `summarize` makes
  // the stats of a row that is one block. `kept` has room for what the functor keeps per element.
  // For a d_pred that is streamed, see end_of_writes in parallel.h.
  // `summarize` asks for the row that is `next` elements further on.
  using row_summarize = void (*)(const void* functor, const T* t, one_hot<T> label, const T* p,
                                 T* kept, std::int64_t n, std::int64_t next, void* stats);
  using row_accumulate = void (*)(const void* functor, const void* stats, const T* t,
                                  one_hot<T> label, const T* p, T* kept, std::int64_t n,
                                  double* sums);
  using row_finish = void (*)(const void* functor, const double* sums, void* stats);
  using row_gradient = void (*)(const void* functor, const void* stats, const T* t,
                                one_hot<T> label, const T* p, const T* kept, T scale, T* d_pred,
                                bool streams, T* d_true, std::int64_t n);
  using row_lanes = void (*)(const void* functor, const lane_block<T>& rows);
  row_summarize summarize = nullptr;
  row_accumulate accumulate[max_phases] = {};
  row_finish finish[max_phases] = {};
  T (*row_loss)(const void* functor, const void* stats) = nullptr;
  row_gradient gradient[4] = {};
  row_lanes in_lanes[4] = {};

  int phases = 0;
  bool first_phase_is_max = false;
  bool keeps = false;
  bool reads_label_alone = false;  // of the row of a sparse loss
  bool scales_with_target = false;
  bool averages = false;
  bool label_signs = false;

  // The cheaper kernel for some parameters; see losses/loss.h.
  const loss_kernel* variant = nullptr;
  bool (*has_variant_for)(const double* parameters) = nullptr;
  const loss_kernel& chosen_for(const double* parameters) const {
    return variant && has_variant_for(parameters) ? variant->chosen_for(parameters) : *this;
  }
  // The cheaper kernel of a map loss for targets that are 0 or 1, without d_true.
  const loss_kernel* of_labels = nullptr;
};

// Loops over the logits of a frame or over the n states of a label; see losses/ctc.h.
template <class T>
struct ctc_loops {
  ctc_frame<T> (*describe)(const T* x, std::int64_t n);
  // The states of the next frame, before it emits. `before` has two more states in front.
  void (*advance)(const T* before, const T* skip, std::int64_t n, T* now);
  // Adds what the frame emits, then subtracts the largest state and returns it.
  T (*emit)(const T* emission, std::int64_t n, T* now);
  // The probability of each state in a frame, given the label. `backward` is in reverse order.
  void (*posterior)(const T* forward, const T* backward, std::int64_t n, T* share);
  void (*softmax)(const T* x, std::int64_t n, ctc_frame<T> frame, T scale, T* share);
};

// Converts n adjacent elements, which may be unaligned, from or to what an array holds.
template <class T>
using conversion_from = void (*)(const char* from, std::int64_t n, T* out);
template <class T>
using conversion_to = void (*)(const T* block, std::int64_t n, char* to);

// Loops without a formula.
template <class T>
struct memory_loops {
  // Sum of w[i] x[i] (of x[i] without w) in double; a zero weight hides any x.
  double (*weighted_sum)(const T* x, const T* w, std::int64_t n);
  // The same of each of some adjacent rows.
  void (*row_sums)(const T* x, const T* w, std::int64_t rows, std::int64_t cols, double* sums);
  // Element by element; a zero wins over what is no number.
  void (*multiply)(const T* x, std::int64_t n, T* product);
  void (*scale)(T by, std::int64_t n, T* x);
  bool (*all_zero_or_one)(const T* x, std::int64_t n);
  bool (*all_below)(const std::int64_t* x, std::int64_t n, std::int64_t limit);  // and at least 0
  // A copy that does not go through the caches; see end_of_writes in parallel.h.
  void (*stream)(const T* from, std::int64_t n, T* to);
  // sum[i] += x[i]
  void (*add)(const T* x, std::int64_t n, T* sum);
  // `lanes` adjacent rows of n elements each, as [n][lanes], and back.
  void (*to_lanes)(const T* rows, std::int64_t n, T* out);
  void (*from_lanes)(const T* in, std::int64_t n, T* rows);
  const conversion_from<T>* from;  // of each dtype
  const conversion_to<T>* to;      // of each from float16 on
};

// Two losses whose sum has loops of its own.
template <class T>
struct map_pair {
  int first, second;  // indices into losses()
  map_sums<T> sums;
};

template <class T>
struct kernel_set {
  loss_kernel<T> losses[all_losses::size];
  map_pair<T> pairs[fused_pairs::size];
  memory_loops<T> memory;
  ctc_loops<T> ctc;
};

struct kernel_table {
  const char* isa;
  kernel_set<float> f32;
  kernel_set<double> f64;
  template <class T>
  const kernel_set<T>& get() const {
    if constexpr (std::is_same_v<T, float>)
      return f32;
    else
      return f64;
  }
};

// Defined once per instruction set that kernels.cpp is compiled for.
const kernel_table& kernels_baseline();
const kernel_table& kernels_x86_64_v3();
const kernel_table& kernels_x86_64_v4();

// The table of this processor, chosen at the first call.
const kernel_table& kernels();

}  // namespace fastloss::cpu
