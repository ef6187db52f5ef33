// Elements of arrays from and to memory.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/convert_loops.h"
#include "cpu/view.h"

namespace fastloss::cpu {
namespace {

// Calls visit(address, stride, count, position) for each run along the last axis within
// [first, first + n).
template <class Visit>
void for_each_run(const view& v, std::int64_t first, std::int64_t n, Visit visit) {
  const std::size_t rank = v.axes.size();
  if (rank == 0) {
    if (n > 0) visit(v.data, std::int64_t(0), n, std::int64_t(0));
    return;
  }
  constexpr std::size_t max_rank = 64;  // NumPy's limit
  std::int64_t index[max_rank];
  char* at = v.data;
  std::int64_t rest = first;
  for (std::size_t d = rank; d-- > 0;) {
    index[d] = rest % v.axes[d].size;
    rest /= v.axes[d].size;
    at += index[d] * v.axes[d].stride;
  }
  const axis inner = v.axes[rank - 1];
  for (std::int64_t done = 0; done < n;) {
    std::int64_t count = inner.size - index[rank - 1];
    if (count > n - done) count = n - done;
    visit(at, inner.stride, count, done);
    done += count;
    if (done == n) break;
    at -= index[rank - 1] * inner.stride;
    index[rank - 1] = 0;
    for (std::size_t d = rank - 1; d-- > 0;) {
      at += v.axes[d].stride;
      if (++index[d] < v.axes[d].size) break;
      at -= v.axes[d].size * v.axes[d].stride;
      index[d] = 0;
    }
  }
}

template <int Size>
void copy_items(const char* from, std::int64_t step, char* to, std::int64_t to_step,
                std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(to + i * to_step, from + i * step, Size);
}

// n items of so many bytes that lie `step` and `to_step` bytes apart.
void copy_items(std::int64_t size, const char* from, std::int64_t step, char* to,
                std::int64_t to_step, std::int64_t n) {
  const auto copy = size == 1   ? copy_items<1>
                    : size == 2 ? copy_items<2>
                    : size == 4 ? copy_items<4>
                                : copy_items<8>;
  copy(from, step, to, to_step, n);
}

// Items of an array, side by side, on their way from or to places that are apart.
struct side_by_side {
  static constexpr std::int64_t count = 128;
  char bytes[count * sizeof(double)];
};

template <class T>
conversion_from<T> conversion(dtype from) {
  if constexpr (std::is_same_v<T, std::int64_t>)
    return conversions_from<T>[static_cast<int>(from)];
  else
    return kernels().get<T>().memory.from[static_cast<int>(from)];
}

// The address of [first, first + n) if those elements are adjacent and of type T.
template <class T>
T* direct(const view& v, std::int64_t first, std::int64_t n) {
  constexpr dtype own = std::is_same_v<T, float>    ? dtype::f32
                        : std::is_same_v<T, double> ? dtype::f64
                                                    : dtype::i64;
  if (v.type != own || v.axes.empty() || v.axes.back().stride != std::int64_t(sizeof(T)))
    return nullptr;
  T* found = nullptr;
  if (v.axes.size() == 1) {
    found = reinterpret_cast<T*>(v.data) + first;
  } else {
    const std::int64_t inner = v.axes.back().size;
    if (first % inner + n > inner) return nullptr;
    for_each_run(v, first, 1, [&](char* at, std::int64_t, std::int64_t, std::int64_t) {
      found = reinterpret_cast<T*>(at);
    });
  }
  return reinterpret_cast<std::uintptr_t>(found) % alignof(T) == 0 ? found : nullptr;
}

}  // namespace

template <class T>
const T* load(const view& v, std::int64_t first, std::int64_t n, T* scratch) {
  if (const T* in_place = direct<T>(v, first, n)) return in_place;
  const std::int64_t size = item_size(v.type);
  const conversion_from<T> convert = conversion<T>(v.type);
  for_each_run(v, first, n,
               [&](const char* at, std::int64_t stride, std::int64_t count, std::int64_t where) {
                 if (stride == size) return convert(at, count, scratch + where);
                 side_by_side items;
                 for (std::int64_t i = 0; i < count; i += items.count) {
                   const std::int64_t m = std::min(items.count, count - i);
                   copy_items(size, at + i * stride, stride, items.bytes, size, m);
                   convert(items.bytes, m, scratch + where + i);
                 }
               });
  return scratch;
}

template <class T>
T* output(const view& v, std::int64_t first, std::int64_t n, T* scratch) {
  T* in_place = direct<T>(v, first, n);
  return in_place ? in_place : scratch;
}

template <class T>
void store(const view& v, std::int64_t first, std::int64_t n, const T* block) {
  const std::int64_t size = item_size(v.type);
  const conversion_to<T> convert =
      kernels().get<T>().memory.to[static_cast<int>(v.type) - static_cast<int>(dtype::f16)];
  for_each_run(v, first, n,
               [&](char* at, std::int64_t stride, std::int64_t count, std::int64_t where) {
                 if (stride == size) return convert(block + where, count, at);
                 side_by_side items;
                 for (std::int64_t i = 0; i < count; i += items.count) {
                   const std::int64_t m = std::min(items.count, count - i);
                   convert(block + where + i, m, items.bytes);
                   copy_items(size, items.bytes, size, at + i * stride, stride, m);
                 }
               });
}

template const float* load(const view&, std::int64_t, std::int64_t, float*);
template const double* load(const view&, std::int64_t, std::int64_t, double*);
template const std::int64_t* load(const view&, std::int64_t, std::int64_t, std::int64_t*);
template float* output(const view&, std::int64_t, std::int64_t, float*);
template double* output(const view&, std::int64_t, std::int64_t, double*);
template void store(const view&, std::int64_t, std::int64_t, const float*);
template void store(const view&, std::int64_t, std::int64_t, const double*);

}  // namespace fastloss::cpu
