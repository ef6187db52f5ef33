// The kernels of csrc/cuda on the host: each thread of a block is a fiber, which runs until it
// waits for others. What a GPU would make a hang or a race is an error here where it can be seen: a
// thread that leaves while others wait, and threads that wait at different places. Copies that are
// begun arrive when they are waited for. Clusters of blocks run one after the other, in an order
// that changes from launch to launch. For tests only.
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda/device.h"
#include "cuda/make_kernels.h"

namespace fastloss::cuda {
namespace {

std::size_t copied = 0;

enum class place_of_wait { running, barrier, exchange, cluster_barrier, finished };

class fibers;

// See cuda/team.h.
struct host_block {
  fibers& all;
  int own;  // of the cluster

  int thread() const;
  int threads() const;
  int64_t index() const;
  int64_t blocks() const;
  void barrier() const;
  void cluster_barrier() const;
  sums* scratch() const;
  sums* scratch_of(int block) const;
  word* memory() const;
  void copy(word* to, const void* from) const;
  void wait_for_copies() const;
  template <class X>
  X exchange(X x, int mask) const;
  bool is_last(unsigned* counter) const;
};

struct copy_under_way {
  word* to;
  const void* from;
};

// The threads of one cluster of blocks at a time.
class fibers {
 public:
  static constexpr std::size_t stack_bytes = 256 << 10;

  fibers(const geometry& g, int64_t most_clusters)
      : threads_(g.threads),
        cluster_(std::max(g.team / g.threads, 1)),
        blocks_(std::min(g.blocks, most_clusters * cluster_)) {
    for (int i = 0; i < cluster_ * threads_; ++i) states_.push_back(std::make_unique<state>());
    for (int i = 0; i < cluster_; ++i) {
      own_.emplace_back();
      own_.back().memory.reset(new word[g.memory / sizeof(word)]);
      own_.back().words = g.memory / sizeof(word);
    }
  }
  void run(int64_t first_block, const std::function<void(host_block&)>& body) {
    first_block_ = first_block;
    body_ = &body;
    for (int i = 0; i < int(states_.size()); ++i) {
      state& s = *states_[i];
      s.wait = place_of_wait::running;
      getcontext(&s.context);
      s.context.uc_stack.ss_sp = s.stack.get();
      s.context.uc_stack.ss_size = stack_bytes;
      s.context.uc_link = &scheduler_;
      starting_ = i;
      makecontext(&s.context, reinterpret_cast<void (*)()>(&fibers::start), 0);
    }
    for (of_block& own : own_) {  // NaN: nothing is left from the block before
      std::memset(own.scratch, 0xff, sizeof own.scratch);
      std::memset(own.memory.get(), 0xff, own.words * sizeof(word));
    }
    while (step()) {
    }
    for (const auto& s : states_)
      if (!s->copies.empty()) throw std::logic_error("a thread leaves copies under way");
  }

  void wait(int thread, place_of_wait where) {
    state& s = *states_[thread];
    s.wait = where;
    swapcontext(&s.context, &scheduler_);
  }

  struct of_block {
    sums scratch[warp_threads];
    std::unique_ptr<word[]> memory;
    std::size_t words;
    bool last = false;
  };
  struct state {
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    ucontext_t context;
    place_of_wait wait;
    unsigned char slot[32];
    std::vector<copy_under_way> copies;
  };

  const int threads_, cluster_;
  const int64_t blocks_;
  int64_t first_block_ = 0;
  std::vector<of_block> own_;
  std::vector<std::unique_ptr<state>> states_;

 private:
  // Lets every thread that runs go on to where it waits; then opens the barrier of the block, or
  // the exchanges of warps, that all have reached.
  bool step() {
    const int threads = int(states_.size());
    for (int i = 0; i < threads; ++i)
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
    if (all_at(0, threads, place_of_wait::finished)) return false;
    bool progress = false;
    const auto release = [&](int begin, int end) {
      for (int i = begin; i < end; ++i) states_[i]->wait = place_of_wait::running;
      progress = true;
    };
    if (all_at(0, threads, place_of_wait::cluster_barrier)) release(0, threads);
    for (int b = 0; b < threads; b += threads_)
      if (all_at(b, b + threads_, place_of_wait::barrier)) release(b, b + threads_);
    for (int w = 0; w < threads; w += warp_threads)
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
  ucontext_t scheduler_;
  int starting_ = 0;
  const std::function<void(host_block&)>* body_ = nullptr;
};

int host_block::thread() const { return own % all.threads_; }
int host_block::threads() const { return all.threads_; }
int64_t host_block::index() const { return all.first_block_ + own / all.threads_; }
int64_t host_block::blocks() const { return all.blocks_; }
void host_block::barrier() const { all.wait(own, place_of_wait::barrier); }
void host_block::cluster_barrier() const { all.wait(own, place_of_wait::cluster_barrier); }
sums* host_block::scratch() const { return scratch_of(own / all.threads_); }
sums* host_block::scratch_of(int block) const { return all.own_.at(block).scratch; }
word* host_block::memory() const { return all.own_[own / all.threads_].memory.get(); }
void host_block::copy(word* to, const void* from) const {
  all.states_[own]->copies.push_back({to, from});
}
void host_block::wait_for_copies() const {
  copied += all.states_[own]->copies.size();
  for (const copy_under_way& c : all.states_[own]->copies)
    *c.to = *static_cast<const word*>(c.from);
  all.states_[own]->copies.clear();
}

template <class X>
X host_block::exchange(X x, int mask) const {
  static_assert(sizeof x <= sizeof all.states_[own]->slot);
  std::memcpy(all.states_[own]->slot, &x, sizeof x);
  all.wait(own, place_of_wait::exchange);
  std::memcpy(&x, all.states_[own ^ mask]->slot, sizeof x);
  all.wait(own, place_of_wait::exchange);
  return x;
}

bool host_block::is_last(unsigned* counter) const {
  barrier();
  if (all.blocks_ == 1) return true;
  bool& last = all.own_[own / all.threads_].last;
  if (thread() == 0) last = ++*counter == all.blocks_;
  barrier();
  return last;
}

}  // namespace

stream_handle last_stream = nullptr;  // of a launch; for tests of who hands it over

namespace {

std::size_t enqueued = 0;
constexpr int64_t no_limit = std::numeric_limits<int>::max();
int64_t most_clusters = no_limit;  // of a launch
int emulated_capability = 90;

struct host_device {
  template <class Body>
  static void launch(const Body& body, const geometry& g, stream_handle stream) {
    last_stream = stream;
    ++enqueued;
    static std::mt19937 order(1);
    fibers cluster(g, most_clusters);
    std::vector<int64_t> indices(cluster.blocks_ / cluster.cluster_);
    std::iota(indices.begin(), indices.end(), 0);
    std::shuffle(indices.begin(), indices.end(), order);
    const std::function<void(host_block&)> run = [&body](host_block& b) { body(b); };
    for (int64_t i : indices) cluster.run(i * cluster.cluster_, run);
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

// Words that threads have copied to keep them.
extern "C" __attribute__((visibility("default"))) std::size_t emulated_copies() { return copied; }

// A device of that compute capability, where no launch has more clusters than so many (0: any
// number), or blocks, if it has no clusters.
extern "C" __attribute__((visibility("default"))) void emulate(int capability, int clusters) {
  emulated_capability = capability;
  most_clusters = clusters > 0 ? clusters : no_limit;
}

std::vector<device_info> devices() { return {{"emulated", 0, 0, 1, 0}, {"emulated", 0, 0, 1, 0}}; }
int driver_version() { return 0; }
int runtime_version() { return 0; }
void use_device(int) {}

int capability() { return emulated_capability; }
void copy_to_device(void* to, const void* from, std::size_t bytes, void*) {
  std::memcpy(to, from, bytes);
}

}  // namespace fastloss::cuda
