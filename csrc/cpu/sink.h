// Where a gradient goes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "cpu/kernels.h"
#include "cpu/tiles.h"
#include "cpu/view.h"

namespace fastloss::cpu {

// The array of a gradient or, in a sum of losses, a panel: a part of the grid that stays in the
// cache until every term has been added.
template <class T>
class sink {
 public:
  sink() = default;  // nowhere: the gradient is not wanted
  // `array` must be coalesced. `streams`: it is written past the caches.
  sink(const std::optional<view>& array, bool streams, const memory_loops<T>& loops)
      : array_(array ? &*array : nullptr), streams_(streams), loops_(&loops) {}
  // A panel whose first element is number `first` of the grid.
  sink(T* panel, std::int64_t first) : panel_(panel), first_(first) {}

  explicit operator bool() const { return array_ || panel_; }
  bool streams() const { return streams_; }
  const view* array() const { return array_; }

  // Where the elements [first, first + n) lie, if that can be written to; otherwise `scratch`.
  T* place(std::int64_t first, std::int64_t n, T* scratch) const {
    return panel_ ? panel_ + (first - first_) : output(*array_, first, n, scratch);
  }
  // What a kernel is to fill, and what brings it to its place if that is elsewhere.
  T* begin(std::int64_t first, std::int64_t n, T* scratch) const {
    return !*this ? nullptr : streams_ ? scratch : place(first, n, scratch);
  }
  void end(std::int64_t first, std::int64_t n, T* scratch) const {
    if (!*this) return;
    T* to = place(first, n, scratch);
    if (to == scratch)
      store(*array_, first, n, scratch);
    else if (streams_)
      loops_->stream(scratch, n, to);
  }
  // Asks for the memory of elements that are to be written soon; past the caches, there is no need.
  void ask(std::int64_t first, std::int64_t n) const {
    if (!array_ || streams_) return;
    T none;
    T* to = place(first, n, &none);
    if (to != &none) prefetch(to, n);
  }
  // Of n elements that are streamed in their place, those before the first cache line.
  std::int64_t to_line(std::int64_t first, std::int64_t n) const {
    if (!array_ || !streams_) return 0;
    T none;
    const T* to = place(first, n, &none);
    return to == &none ? 0 : elements_to_line(to);
  }
  // Writes zeros, at most a flat block.
  void clear(std::int64_t first, std::int64_t n) const {
    T scratch[flat_block];
    T* to = place(first, n, scratch);
    std::fill_n(to, n, T(0));
    if (to == scratch) store(*array_, first, n, scratch);
  }

 private:
  const view* array_ = nullptr;
  T* panel_ = nullptr;
  std::int64_t first_ = 0;
  bool streams_ = false;
  const memory_loops<T>* loops_ = nullptr;
};

// The sinks of both gradients.
template <class T>
struct sinks {
  sink<T> pred, truth;
};

}  // namespace fastloss::cpu
