#include "cpu/view.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/storage.h"

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

// Adjacent elements are converted in vectors; they go through a part of an array, because they may
// be unaligned.
constexpr std::int64_t part = 128;

template <class Stored, class T>
void gather_adjacent(const char* from, std::int64_t n, T* out) {
  for (std::int64_t first = 0; first < n; first += part) {
    const std::int64_t count = std::min(part, n - first);
    Stored x[part];
    std::memcpy(x, from + first * sizeof(Stored), count * sizeof(Stored));
    for (std::int64_t i = 0; i < count; ++i) out[first + i] = from_storage<T>(x[i]);
  }
}

template <class Stored, class T>
void scatter_adjacent(const T* block, std::int64_t n, char* to) {
  for (std::int64_t first = 0; first < n; first += part) {
    const std::int64_t count = std::min(part, n - first);
    Stored x[part];
    for (std::int64_t i = 0; i < count; ++i) x[i] = to_storage<Stored>(block[first + i]);
    std::memcpy(to + first * sizeof(Stored), x, count * sizeof(Stored));
  }
}

template <class Stored, class T>
void gather(const view& v, std::int64_t first, std::int64_t n, T* out) {
  for_each_run(v, first, n,
               [out](const char* at, std::int64_t stride, std::int64_t count, std::int64_t where) {
                 if (stride == sizeof(Stored))
                   return gather_adjacent<Stored>(at, count, out + where);
                 for (std::int64_t i = 0; i < count; ++i) {
                   Stored x;
                   std::memcpy(&x, at + i * stride, sizeof x);
                   out[where + i] = from_storage<T>(x);
                 }
               });
}

template <class Stored, class T>
void scatter(const view& v, std::int64_t first, std::int64_t n, const T* block) {
  for_each_run(v, first, n,
               [block](char* at, std::int64_t stride, std::int64_t count, std::int64_t where) {
                 if (stride == sizeof(Stored))
                   return scatter_adjacent<Stored>(block + where, count, at);
                 for (std::int64_t i = 0; i < count; ++i) {
                   const Stored x = to_storage<Stored>(block[where + i]);
                   std::memcpy(at + i * stride, &x, sizeof x);
                 }
               });
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

std::int64_t item_size(dtype type) {
  switch (type) {
    case dtype::boolean:
    case dtype::i8:
    case dtype::u8: return 1;
    case dtype::i16:
    case dtype::u16:
    case dtype::f16:
    case dtype::bf16: return 2;
    case dtype::i32:
    case dtype::u32:
    case dtype::f32: return 4;
    default: return 8;
  }
}

view coalesced(const view& v) {
  view out{v.data, v.type, {}};
  for (const axis& a : v.axes) {
    if (a.size == 1) continue;
    if (!out.axes.empty() && out.axes.back().stride == a.stride * a.size) {
      out.axes.back().size *= a.size;
      out.axes.back().stride = a.stride;
    } else {
      out.axes.push_back(a);
    }
  }
  // A single element is a run of one: it then has an address like any other.
  if (out.axes.empty()) out.axes.push_back({1, item_size(v.type)});
  return out;
}

bool overlap(const view& a, const view& b) {
  auto extent = [](const view& v) {
    std::pair<const char*, const char*> ends{v.data, v.data + item_size(v.type)};
    for (const axis& x : v.axes)
      (x.stride < 0 ? ends.first : ends.second) += (x.size - 1) * x.stride;
    return ends;
  };
  const auto [a_first, a_end] = extent(a);
  const auto [b_first, b_end] = extent(b);
  return a_first < b_end && b_first < a_end;
}

template <class T>
const T* load(const view& v, std::int64_t first, std::int64_t n, T* scratch) {
  if (const T* in_place = direct<T>(v, first, n)) return in_place;
  switch (v.type) {
    case dtype::boolean:
    case dtype::u8: gather<std::uint8_t>(v, first, n, scratch); break;
    case dtype::i8: gather<std::int8_t>(v, first, n, scratch); break;
    case dtype::i16: gather<std::int16_t>(v, first, n, scratch); break;
    case dtype::u16: gather<std::uint16_t>(v, first, n, scratch); break;
    case dtype::i32: gather<std::int32_t>(v, first, n, scratch); break;
    case dtype::u32: gather<std::uint32_t>(v, first, n, scratch); break;
    case dtype::i64: gather<std::int64_t>(v, first, n, scratch); break;
    case dtype::u64: gather<std::uint64_t>(v, first, n, scratch); break;
    case dtype::f16: gather<float16>(v, first, n, scratch); break;
    case dtype::bf16: gather<bfloat16>(v, first, n, scratch); break;
    case dtype::f32: gather<float>(v, first, n, scratch); break;
    case dtype::f64: gather<double>(v, first, n, scratch); break;
  }
  return scratch;
}

template <class T>
T* output(const view& v, std::int64_t first, std::int64_t n, T* scratch) {
  T* in_place = direct<T>(v, first, n);
  return in_place ? in_place : scratch;
}

template <class T>
void store(const view& v, std::int64_t first, std::int64_t n, const T* block) {
  switch (v.type) {
    case dtype::f16: scatter<float16>(v, first, n, block); break;
    case dtype::bf16: scatter<bfloat16>(v, first, n, block); break;
    case dtype::f32: scatter<float>(v, first, n, block); break;
    default: scatter<double>(v, first, n, block); break;
  }
}

template const float* load(const view&, std::int64_t, std::int64_t, float*);
template const double* load(const view&, std::int64_t, std::int64_t, double*);
template const std::int64_t* load(const view&, std::int64_t, std::int64_t, std::int64_t*);
template float* output(const view&, std::int64_t, std::int64_t, float*);
template double* output(const view&, std::int64_t, std::int64_t, double*);
template void store(const view&, std::int64_t, std::int64_t, const float*);
template void store(const view&, std::int64_t, std::int64_t, const double*);

}  // namespace fastloss::cpu
