// Strided arrays of any dtype in device memory, as packets of the compute type.
//
// A packet is what one thread moves at once. Which dtype it is converted from is decided once per
// packet, by a branch that all threads take alike, so that no kernel is compiled per dtype. Packets
// of floating numbers that are adjacent and aligned move in words of 16 bytes; all others are
// gathered by a function, which is not inlined: kernels are many, and compile for many devices.
#pragma once

#include <cstring>

#include "core/storage.h"
#include "cuda/arguments.h"

namespace fastloss::cuda {

// Where element e is, how far from its neighbour, and how many follow along the last axis.
struct place {
  char* data;
  int64_t stride, run;
};

FASTLOSS_DEVICE_CALL place find_in_axes(const device_view& v, int64_t e) {
  char* at = v.data;
  const int last = v.rank - 1;
  const int64_t inner = e % v.size[last];
  int64_t rest = e / v.size[last];
  at += inner * v.stride[last];
#pragma unroll 1
  for (int d = last; d-- > 0; rest /= v.size[d]) at += rest % v.size[d] * v.stride[d];
  return {at, v.stride[last], v.size[last] - inner};
}

FASTLOSS_DEVICE place find(const device_view& v, int64_t e) {
  if (v.rank == 1) return {v.data + e * v.stride[0], v.stride[0], v.size[0] - e};
  return find_in_axes(v, e);
}

template <class T, class Stored>
FASTLOSS_DEVICE T load_stored(const char* at) {
  return from_storage<T>(*reinterpret_cast<const Stored*>(at));
}

template <class T>
FASTLOSS_DEVICE_CALL T load_at(const char* at, dtype type) {
  switch (type) {
    case dtype::boolean:
    case dtype::u8: return load_stored<T, std::uint8_t>(at);
    case dtype::i8: return load_stored<T, std::int8_t>(at);
    case dtype::i16: return load_stored<T, std::int16_t>(at);
    case dtype::u16: return load_stored<T, std::uint16_t>(at);
    case dtype::i32: return load_stored<T, std::int32_t>(at);
    case dtype::u32: return load_stored<T, std::uint32_t>(at);
    case dtype::i64: return load_stored<T, std::int64_t>(at);
    case dtype::u64: return load_stored<T, std::uint64_t>(at);
    case dtype::f16: return load_stored<T, float16>(at);
    case dtype::bf16: return load_stored<T, bfloat16>(at);
    case dtype::f32: return load_stored<T, float>(at);
    default: return load_stored<T, double>(at);
  }
}

template <class T>
FASTLOSS_DEVICE T load_one(const device_view& v, int64_t e) {
  return load_at<T>(find(v, e).data, v.type);
}

template <class T>
FASTLOSS_DEVICE void store_at(char* at, dtype type, T x) {
  switch (type) {
    case dtype::f16: *reinterpret_cast<float16*>(at) = to_storage<float16>(x); break;
    case dtype::bf16: *reinterpret_cast<bfloat16*>(at) = to_storage<bfloat16>(x); break;
    case dtype::f32: *reinterpret_cast<float*>(at) = to_storage<float>(x); break;
    default: *reinterpret_cast<double*>(at) = to_storage<double>(x); break;
  }
}

template <class T>
FASTLOSS_DEVICE_CALL void store_one(const device_view& v, int64_t e, T x) {
  store_at(find(v, e).data, v.type, x);
}

// What a thread moves at once.
struct alignas(16) word {
  unsigned bits[4];
};

template <class T>
struct numbers {
  T x[packet];
};

// The elements [first, first + n), n <= packet, of any array; zeros after them.
template <class T>
FASTLOSS_DEVICE_CALL numbers<T> gather(const device_view& v, int64_t first, int n) {
  numbers<T> out = {};
  const place at = find(v, first);
#pragma unroll 1
  for (int i = 0; i < n; ++i)
    out.x[i] = i < at.run ? load_at<T>(at.data + i * at.stride, v.type) : load_one<T>(v, first + i);
  return out;
}

template <class T>
FASTLOSS_DEVICE_CALL void scatter(const device_view& v, int64_t first, int n, numbers<T> block) {
  const place at = find(v, first);
#pragma unroll 1
  for (int i = 0; i < n; ++i)
    store_at(i < at.run ? at.data + i * at.stride : find(v, first + i).data, v.type, block.x[i]);
}

// ---- Packets that are adjacent and aligned ----

// Bits of a packet on their way. They are fetched before they are converted, so that the loads of
// several arrays are under way together.
template <class T>
struct fetched {
  word words[packet * sizeof(T) / sizeof(word)];
  bool is_adjacent;
};

template <class Stored>
struct alignas(16) stored_packet {
  Stored x[packet];
};

// The elements [first, first + n) of an array. If all are adjacent floating numbers, the first of
// which is aligned, packets of them move in words of 16 bytes; not so doubles where T is float,
// which is rare.
template <class T>
struct run_of {
  const device_view& v;
  int64_t first;
  char* at = nullptr;  // null if packets have to be gathered

  FASTLOSS_DEVICE run_of(const device_view& v, int64_t first, int64_t n) : v(v), first(first) {
    if (!v.data || v.floating_bytes == 0 || v.floating_bytes > int(sizeof(T))) return;
    const place p = find(v, first);
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(p.data) % sizeof(word) == 0;
    if (p.stride == v.floating_bytes && p.run >= n && is_aligned) at = p.data;
  }

  // Of the packet that begins i elements after the first and has so many; or null.
  FASTLOSS_DEVICE char* packet_at(int64_t i, int n) const {
    return at && n == packet ? at + i * v.floating_bytes : nullptr;
  }
};

template <class Stored, class T>
FASTLOSS_DEVICE void fetch_words(const char* at, fetched<T>& out) {
  const auto stored = *reinterpret_cast<const stored_packet<Stored>*>(at);
  std::memcpy(out.words, &stored, sizeof stored);
}

template <class T>
FASTLOSS_DEVICE fetched<T> fetch(const run_of<T>& r, int64_t i, int n) {
  fetched<T> out = {};
  const device_view& v = r.v;
  const char* at = r.packet_at(i, n);
  out.is_adjacent = at != nullptr;
  if (!at) return out;
  if constexpr (sizeof(T) == 8)
    if (v.type == dtype::f64) {
      fetch_words<double>(at, out);
      return out;
    }
  if (v.type == dtype::f32)
    fetch_words<float>(at, out);
  else
    fetch_words<bfloat16>(at, out);
  return out;
}

template <class Stored, class T>
FASTLOSS_DEVICE numbers<T> convert_from(const fetched<T>& bits) {
  stored_packet<Stored> stored;
  std::memcpy(&stored, bits.words, sizeof stored);
  numbers<T> out;
#pragma unroll
  for (int i = 0; i < packet; ++i) out.x[i] = from_storage<T>(stored.x[i]);
  return out;
}

// What `fetch` of the same elements has begun.
template <class T>
FASTLOSS_DEVICE numbers<T> loaded(const fetched<T>& f, const run_of<T>& r, int64_t i, int n) {
  const device_view& v = r.v;
  if (!f.is_adjacent) return gather<T>(v, r.first + i, n);
  if constexpr (sizeof(T) == 8)
    if (v.type == dtype::f64) return convert_from<double>(f);
  if (v.type == dtype::f32) return convert_from<float>(f);
  if (v.type == dtype::f16) return convert_from<float16>(f);
  return convert_from<bfloat16>(f);
}

// A packet alone, from element `first` on.
template <class T>
FASTLOSS_DEVICE numbers<T> load(const device_view& v, int64_t first, int n) {
  const run_of<T> r(v, first, n);
  return loaded<T>(fetch<T>(r, 0, n), r, 0, n);
}

template <class Stored, class T>
FASTLOSS_DEVICE void store_adjacent(char* at, const numbers<T>& block) {
  stored_packet<Stored> stored;
#pragma unroll
  for (int i = 0; i < packet; ++i) stored.x[i] = to_storage<Stored>(block.x[i]);
  *reinterpret_cast<stored_packet<Stored>*>(at) = stored;
}

// Writes a packet of an array of a floating dtype.
template <class T>
FASTLOSS_DEVICE void store(const run_of<T>& r, int64_t i, int n, const numbers<T>& block) {
  const device_view& v = r.v;
  char* at = r.packet_at(i, n);
  if (!at) return scatter(v, r.first + i, n, block);
  if constexpr (sizeof(T) == 8)
    if (v.type == dtype::f64) return store_adjacent<double>(at, block);
  if (v.type == dtype::f32) return store_adjacent<float>(at, block);
  if (v.type == dtype::f16) return store_adjacent<float16>(at, block);
  store_adjacent<bfloat16>(at, block);
}

}  // namespace fastloss::cuda
