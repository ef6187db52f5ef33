// Moves the bytes that a loss moves, and does nothing else: what no loss can be faster than.
//
// Reads p, and t unless it is null; writes their sum to g, or returns the sum of everything read
// where g is null. The additions are there so that no read can be left out.

#include <omp.h>

#include <cstddef>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

// What a register holds; GCC takes wider ones apart by way of memory.
#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32;
#else
constexpr std::size_t vector_bytes = 16;
#endif
typedef float lanes __attribute__((vector_size(vector_bytes)));
constexpr std::size_t width = sizeof(lanes) / sizeof(float), line = 64 / sizeof(float);

inline lanes load(const float* from) {
  lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// Asks for what is read soon: the processor reads ahead by itself, but begins anew at each page.
constexpr std::size_t page = 4096 / sizeof(float);
template <bool two>
void ask_ahead(const float* t, const float* p, std::size_t i) {
  __builtin_prefetch(p + i + page);
  if constexpr (two) __builtin_prefetch(t + i + page);
}

// Past the cache: the line is not read before it is written.
inline void stream(float* to, lanes x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, x);
#elif defined(__AVX__)
  _mm256_stream_ps(to, x);
#elif defined(__SSE2__)
  _mm_stream_ps(to, x);
#else
  std::memcpy(to, &x, sizeof x);
#endif
}

template <bool two, bool streaming>
void write(const float* t, const float* p, float* g, std::size_t begin, std::size_t end) {
  std::size_t i = begin;
  for (; i + line <= end; i += line) {
    ask_ahead<two>(t, p, i);
    for (std::size_t k = i; k < i + line; k += width) {
      lanes x = load(p + k);
      if constexpr (two) x += load(t + k);
      if constexpr (streaming)
        stream(g + k, x);
      else
        std::memcpy(g + k, &x, sizeof x);
    }
  }
  for (; i < end; ++i) g[i] = two ? p[i] + t[i] : p[i];
#if defined(__SSE2__)
  if constexpr (streaming) _mm_sfence();
#endif
}

template <bool two>
double read(const float* t, const float* p, std::size_t begin, std::size_t end) {
  constexpr std::size_t chains = 8;  // additions in flight, so that none is waited for
  lanes sums[chains] = {};
  std::size_t i = begin;
  for (; i + chains * width <= end; i += chains * width) {
    for (std::size_t k = 0; k < chains * width; k += line) ask_ahead<two>(t, p, i + k);
    for (std::size_t k = 0; k < chains; ++k) {
      sums[k] += load(p + i + k * width);
      if constexpr (two) sums[k] += load(t + i + k * width);
    }
  }
  double total = 0;
  for (const lanes& sum : sums)
    for (std::size_t k = 0; k < width; ++k) total += sum[k];
  for (; i < end; ++i) total += two ? p[i] + t[i] : p[i];
  return total;
}

double part(const float* t, const float* p, float* g, std::size_t begin, std::size_t end,
            bool streaming) {
  if (!g) return t ? read<true>(t, p, begin, end) : read<false>(t, p, begin, end);
  if (t)
    streaming ? write<true, true>(t, p, g, begin, end) : write<true, false>(t, p, g, begin, end);
  else
    streaming ? write<false, true>(t, p, g, begin, end) : write<false, false>(t, p, g, begin, end);
  return 0;
}

}  // namespace

extern "C" double move_bytes(const float* t, const float* p, float* g, std::size_t n, int threads,
                             int streaming) {
  if (threads == 1) return part(t, p, g, 0, n, streaming);
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    std::size_t lines = (n + line - 1) / line, team = omp_get_num_threads();
    std::size_t begin = lines * omp_get_thread_num() / team * line;
    std::size_t end = lines * (omp_get_thread_num() + 1) / team * line;
    total += part(t, p, g, begin, end < n ? end : n, streaming);
  }
  return total;
}
