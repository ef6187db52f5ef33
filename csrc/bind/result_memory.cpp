#include "bind/result_memory.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <vector>

namespace fastloss::bind {

// Those of Python.h, which some versions declare for C alone.
extern "C" int PyTraceMalloc_Track(unsigned int domain, std::uintptr_t memory, std::size_t bytes);
extern "C" int PyTraceMalloc_Untrack(unsigned int domain, std::uintptr_t memory);

namespace {

namespace py = pybind11;

// What can be read without copies by those who want aligned memory, such as TensorFlow.
constexpr std::size_t alignment = 64;

// What is kept, and has huge pages; and what the system may take back, which has a price. Of less
// malloc gives nothing back, either.
constexpr std::size_t kept_from = std::size_t(4) << 20, given_back_from = std::size_t(32) << 20;

struct block {
  void* memory;
  std::size_t bytes;
};

// In the order in which they were freed. Enough for a loop with two losses and both gradients of
// each. Never destroyed, because arrays may outlive what is static.
constexpr std::size_t most_kept = 4;
std::vector<block>& kept() {
  static std::vector<block>& blocks = *[] {
    auto* const made = new std::vector<block>;
    made->reserve(most_kept);  // to keep one never throws
    return made;
  }();
  return blocks;
}

[[maybe_unused]] void advise(const block& b, int advice) {
#if defined(MADV_HUGEPAGE) || defined(MADV_FREE)
  constexpr std::uintptr_t page = 65536;  // a whole number of pages on any system
  const auto address = reinterpret_cast<std::uintptr_t>(b.memory);
  const auto first = (address + page - 1) & -page, end = (address + b.bytes) & -page;
  madvise(reinterpret_cast<void*>(first), end - first, advice);
#endif
}

// Python's allocator, because tracemalloc sees it; what is kept, it is not to see.
constexpr unsigned tracked_as_memory_of_python = 0;

void keep(void* released) {
  const auto* b = static_cast<block*>(released);
  auto& blocks = kept();
  if (blocks.size() == most_kept) {
    PyMem_RawFree(blocks.front().memory);
    blocks.erase(blocks.begin());
  }
#ifdef MADV_FREE
  if (b->bytes >= given_back_from) advise(*b, MADV_FREE);
#endif
  PyTraceMalloc_Untrack(tracked_as_memory_of_python, reinterpret_cast<std::uintptr_t>(b->memory));
  blocks.push_back(*b);
  delete b;
}

// The smallest that was kept and is large enough, but not twice as large; of two, the one that was
// freed last, of which most is in the caches.
std::optional<block> take(std::size_t bytes) {
  auto& blocks = kept();
  auto best = blocks.end();
  for (auto b = blocks.begin(); b != blocks.end(); ++b)
    if (b->bytes >= bytes && b->bytes / 2 < bytes &&
        (best == blocks.end() || b->bytes <= best->bytes))
      best = b;
  if (best == blocks.end()) return {};
  const block found = *best;
  blocks.erase(best);
  PyTraceMalloc_Track(tracked_as_memory_of_python, reinterpret_cast<std::uintptr_t>(found.memory),
                      found.bytes);
  return found;
}

block make(std::size_t bytes) {
  block made{PyMem_RawMalloc(bytes), bytes};
  if (!made.memory) {
    for (const block& b : kept()) PyMem_RawFree(b.memory);
    kept().clear();
    made.memory = PyMem_RawMalloc(bytes);
  }
  if (!made.memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // As NumPy does: they are got at a fraction of the cost.
  if (bytes >= kept_from) advise(made, MADV_HUGEPAGE);
#endif
  return made;
}

}  // namespace

result_memory allocate_result(std::size_t bytes) {
  const std::size_t padded = bytes + alignment - 1;
  const auto aligned = [](void* memory) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(memory) + alignment - 1) &
                                   -alignment);
  };
  if (bytes < kept_from) {
    const block b = make(padded);
    return {aligned(b.memory), py::capsule(b.memory, PyMem_RawFree)};
  }
  auto b = std::make_unique<block>();
  const std::optional<block> found = take(padded);
  *b = found ? *found : make(padded);
  void* const first = aligned(b->memory);
  return {first, py::capsule(b.release(), keep)};
}

}  // namespace fastloss::bind
