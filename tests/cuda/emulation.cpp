// The kernels of csrc/cuda on the host: each thread of a block is a fiber, which runs until it
// waits for others. What a GPU would make a hang or a race is an error here where it can be seen: a
// thread that leaves while others wait, and threads that wait at different places. Blocks run one
// after the other, in an order that changes from launch to launch. For tests only.
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda/device.h"
#include "cuda/make_kernels.h"

namespace fastloss::cuda {
namespace {

enum class place_of_wait { running, barrier, exchange, finished };

class fibers;

// See cuda/team.h.
struct host_block {
  fibers& all;
  int own;

  int thread() const { return own; }
  int threads() const;
  int64_t index() const;
  int64_t blocks() const;
  void barrier() const;
  sums* scratch() const;
  template <class X>
  X exchange(X x, int mask) const;
  bool is_last(unsigned* counter) const;
};

// The threads of one block at a time.
class fibers {
 public:
  static constexpr std::size_t stack_bytes = 256 << 10;

  explicit fibers(int threads) : threads_(threads) {
    for (int i = 0; i < threads; ++i) states_.push_back(std::make_unique<state>());
  }

  void run(int64_t index, int64_t blocks, const std::function<void(host_block&)>& body) {
    index_ = index;
    blocks_ = blocks;
    body_ = &body;
    for (int i = 0; i < threads_; ++i) {
      state& s = *states_[i];
      s.wait = place_of_wait::running;
      getcontext(&s.context);
      s.context.uc_stack.ss_sp = s.stack.get();
      s.context.uc_stack.ss_size = stack_bytes;
      s.context.uc_link = &scheduler_;
      starting_ = i;
      makecontext(&s.context, reinterpret_cast<void (*)()>(&fibers::start), 0);
    }
    std::memset(scratch_, 0xff, sizeof scratch_);  // NaN: nothing is left from the block before
    while (step()) {
    }
  }

  void wait(int thread, place_of_wait where) {
    state& s = *states_[thread];
    s.wait = where;
    swapcontext(&s.context, &scheduler_);
  }

  int threads_;
  int64_t index_ = 0, blocks_ = 0;
  sums scratch_[warp_threads];
  unsigned char slots_[1024][32];
  bool last_ = false;

 private:
  struct state {
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    ucontext_t context;
    place_of_wait wait;
  };

  // Lets every thread that runs go on to where it waits; then opens the barrier of the block, or
  // the exchanges of warps, that all have reached.
  bool step() {
    for (int i = 0; i < threads_; ++i)
      if (states_[i]->wait == place_of_wait::running) {
        current_ = this;
        starting_ = i;
        swapcontext(&scheduler_, &states_[i]->context);
      }
    const auto all_at = [this](int begin, int end, place_of_wait where) {
      for (int i = begin; i < end; ++i)
        if (states_[i]->wait != where) return false;
      return true;
    };
    if (all_at(0, threads_, place_of_wait::finished)) return false;
    bool progress = false;
    const auto release = [&](int begin, int end) {
      for (int i = begin; i < end; ++i) states_[i]->wait = place_of_wait::running;
      progress = true;
    };
    if (all_at(0, threads_, place_of_wait::barrier)) release(0, threads_);
    for (int w = 0; w < threads_; w += warp_threads)
      if (all_at(w, w + warp_threads, place_of_wait::exchange)) release(w, w + warp_threads);
    if (!progress) throw std::logic_error("threads of a block wait for each other at two places");
    return true;
  }

  static void start() {
    fibers& self = *current_;
    const int own = self.starting_;
    host_block block{self, own};
    (*self.body_)(block);
    self.states_[own]->wait = place_of_wait::finished;
  }

  static inline fibers* current_ = nullptr;
  std::vector<std::unique_ptr<state>> states_;
  ucontext_t scheduler_;
  int starting_ = 0;
  const std::function<void(host_block&)>* body_ = nullptr;
};

int host_block::threads() const { return all.threads_; }
int64_t host_block::index() const { return all.index_; }
int64_t host_block::blocks() const { return all.blocks_; }
void host_block::barrier() const { all.wait(own, place_of_wait::barrier); }
sums* host_block::scratch() const { return all.scratch_; }

template <class X>
X host_block::exchange(X x, int mask) const {
  static_assert(sizeof x <= sizeof all.slots_[0]);
  std::memcpy(all.slots_[own], &x, sizeof x);
  all.wait(own, place_of_wait::exchange);
  std::memcpy(&x, all.slots_[own ^ mask], sizeof x);
  all.wait(own, place_of_wait::exchange);
  return x;
}

bool host_block::is_last(unsigned* counter) const {
  barrier();
  if (all.blocks_ == 1) return true;
  if (own == 0) all.last_ = ++*counter == all.blocks_;
  barrier();
  return all.last_;
}

}  // namespace

stream_handle last_stream = nullptr;  // of a launch; for tests of who hands it over

namespace {

std::size_t enqueued = 0;

struct host_device {
  template <class Body>
  static void launch(const Body& body, const geometry& g, stream_handle stream) {
    last_stream = stream;
    ++enqueued;
    static std::mt19937 order(1);
    std::vector<int64_t> indices(g.blocks);
    std::iota(indices.begin(), indices.end(), 0);
    std::shuffle(indices.begin(), indices.end(), order);
    fibers block(g.threads);
    const std::function<void(host_block&)> run = [&body](host_block& b) { body(b); };
    for (int64_t i : indices) block.run(i, g.blocks, run);
  }
  static void clear(void* memory, std::size_t bytes, stream_handle) {
    ++enqueued;
    std::memset(memory, 0, bytes);
  }
};

}  // namespace

const kernel_set& kernels_f32() {
  static const kernel_set set = make_kernels<host_device, float>(all_losses{});
  return set;
}
const kernel_set& kernels_f64() {
  static const kernel_set set = make_kernels<host_device, double>(all_losses{});
  return set;
}

// Kernels, and memory that was cleared.
extern "C" __attribute__((visibility("default"))) std::size_t emulated_launches() {
  return enqueued;
}

std::vector<device_info> devices() { return {{"emulated", 0, 0, 1, 0}, {"emulated", 0, 0, 1, 0}}; }
int driver_version() { return 0; }
int runtime_version() { return 0; }
void use_device(int) {}
void copy_to_device(void* to, const void* from, std::size_t bytes, void*) {
  std::memcpy(to, from, bytes);
}

}  // namespace fastloss::cuda
