// Runs CTC on the CPU: one sample per task. No two samples share a sum, so the bits do not depend
// on the number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"
#include "cpu/float_mode.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/view.h"

namespace fastloss {
namespace cpu {
namespace {

using std::int64_t;

constexpr int64_t serial_below = 32768;  // logits for which waking a team costs more than it saves

std::string place_in(const char* argument, int64_t i) {
  return std::string(argument) + "[" + std::to_string(i) + "]: ";
}

void check_length(const char* argument, int64_t sample, int64_t length, int64_t most) {
  if (length < 0 || length > most)
    throw std::invalid_argument(place_in(argument, sample) + "expected a length in [0, " +
                                std::to_string(most) + "], got " + std::to_string(length));
}

template <class T>
constexpr T no_walk = -std::numeric_limits<T>::infinity();  // the log of probability zero

// Rows of states have two impossible ones in front, which the first states look back at.
constexpr int64_t pads = 2;

template <class T>
class call {
 public:
  explicit call(const ctc_request& r)
      : r_(r),
        loops_(kernels().get<T>().ctc),
        p_(coalesced(r.y_pred)),
        values_(coalesced(r.values)) {
    if (r.grad) grad_ = coalesced(*r.grad);
  }

  void run() const {
    const int64_t size = r_.batch * r_.max_frames * r_.classes;
    parallel_for(r_.batch, size < serial_below ? 1 : r_.threads, [&](int64_t b) { run_sample(b); });
  }

 private:
  // The states of a label, and the walks through them.
  struct walks {
    int64_t frames, states;
    std::vector<int64_t> symbol;
    std::vector<T> skip, emission, scratch;
    std::vector<ctc_frame<T>> described;
    std::vector<T> forward;  // a row before the first frame, and a row after each
    T* row(int64_t t) { return forward.data() + t * (states + pads) + pads; }
  };

  void run_sample(int64_t b) const {
    double loss = 0;
    int64_t done = 0;  // frames whose gradient is not zero
    if (r_.weight[b] != 0) {
      walks w{r_.logit_length[b], 2 * r_.label_length[b] + 1, {}, {}, {}, {}, {}, {}};
      loss = enter_label(b, w) <= w.frames ? walk_forward(b, w) : math::infinity<double>;
      // No change of the logits makes an impossible label possible: its gradient is zero.
      if (grad_ && r_.slope[b] != 0 && loss != math::infinity<double>) {
        std::isnan(loss) ? fill_gradient(b, 0, w.frames, T(loss)) : walk_backward(b, w);
        done = w.frames;
      }
    }
    const T value = r_.weight[b] == 0 ? T(0) : T(r_.weight[b] * loss);
    store(values_, b, 1, &value);
    if (grad_) fill_gradient(b, done, r_.max_frames, T(0));
  }

  // Fills symbol and skip; returns the number of frames that the label needs.
  int64_t enter_label(int64_t b, walks& w) const {
    const int64_t* labels = r_.labels + b * r_.max_labels;
    w.symbol.assign(w.states, r_.blank);
    w.skip.assign(w.states, no_walk<T>);
    int64_t needed = 0;
    for (int64_t s = 1; s < w.states; s += 2) {
      w.symbol[s] = labels[s / 2];
      const bool repeats = s > 1 && w.symbol[s] == w.symbol[s - 2];
      w.skip[s] = ctc_skip<T>(repeats);
      needed += ctc_frames_needed(repeats);
    }
    return needed;
  }

  // Fills everything else; returns the loss.
  double walk_forward(int64_t b, walks& w) const {
    w.forward.assign((w.frames + 1) * (w.states + pads), no_walk<T>);
    w.described.resize(w.frames);
    w.emission.resize(w.states);
    w.scratch.resize(r_.classes);
    // Before the first frame stands a state in front of state 0, so that the walk begins on 0 or 1.
    w.row(0)[-1] = 0;
    double log_probability = 0;
    for (int64_t t = 0; t < w.frames; ++t) {
      const T* x = logits(b, t, w);
      w.described[t] = loops_.describe(x, r_.classes);
      if (std::isnan(w.described[t].rest)) return std::numeric_limits<double>::quiet_NaN();
      loops_.advance(w.row(t), w.skip.data(), w.states, w.row(t + 1));
      const T most = emit(x, w.described[t].peak, w, w.row(t + 1));
      if (most == no_walk<T>) return math::infinity<double>;
      log_probability += double(most) - double(w.described[t].log_total());
    }
    if (w.frames == 0) return 0;  // enough for the empty label alone
    const T* end = w.row(w.frames) + w.states;
    return ctc_loss(end[-1], end[-2], log_probability);
  }

  // Walks through the reversed label from the last frame, and writes the gradient of every frame:
  // softmax minus the probability, given the label, that the frame emits the class.
  void walk_backward(int64_t b, walks& w) const {
    std::reverse(w.symbol.begin(), w.symbol.end());
    for (int64_t s = 3; s < w.states; s += 2)
      w.skip[s] = ctc_skip<T>(w.symbol[s] == w.symbol[s - 2]);
    std::vector<T> rows(2 * (w.states + pads), no_walk<T>), posterior(w.states), d(r_.classes);
    T *before = rows.data() + pads, *now = before + w.states + pads;
    before[-1] = 0;
    for (int64_t t = w.frames - 1; t >= 0; --t) {
      const T* x = logits(b, t, w);
      loops_.advance(before, w.skip.data(), w.states, now);
      loops_.posterior(now, w.row(t + 1), w.states, posterior.data());
      const T peak = w.described[t].peak;
      emit(x, peak, w, now);
      before[-1] = no_walk<T>;
      std::swap(before, now);

      const T scale = T(r_.slope[b]);
      const int64_t best = std::find(x, x + r_.classes, peak) - x;
      loops_.softmax(x, r_.classes, w.described[t], scale, d.data());
      // The dominating class is formed from what the others have, which does not cancel.
      T others = 0;
      for (int64_t s = 0; s < w.states; ++s) {
        d[w.symbol[s]] -= scale * posterior[s];
        others += w.symbol[s] == best ? T(0) : posterior[s];
      }
      if (best < r_.classes) d[best] = scale * w.described[t].slope_of_best(others);
      store(*grad_, first_logit(b, t), r_.classes, d.data());
    }
  }

  int64_t first_logit(int64_t b, int64_t t) const { return (b * r_.max_frames + t) * r_.classes; }
  const T* logits(int64_t b, int64_t t, walks& w) const {
    return load(p_, first_logit(b, t), r_.classes, w.scratch.data());
  }

  T emit(const T* x, T peak, walks& w, T* now) const {
    for (int64_t s = 0; s < w.states; ++s) w.emission[s] = x[w.symbol[s]] - peak;
    return loops_.emit(w.emission.data(), w.states, now);
  }

  void fill_gradient(int64_t b, int64_t first_frame, int64_t end, T x) const {
    const std::vector<T> frame(r_.classes, x);
    for (int64_t t = first_frame; t < end; ++t)
      store(*grad_, first_logit(b, t), r_.classes, frame.data());
  }

  const ctc_request& r_;
  const ctc_loops<T>& loops_;
  view p_, values_;
  std::optional<view> grad_;
};

}  // namespace
}  // namespace cpu

void check_ctc(const ctc_request& r) {
  for (int64_t b = 0; b < r.batch; ++b) {
    cpu::check_length("label_length", b, r.label_length[b], r.max_labels);
    cpu::check_length("logit_length", b, r.logit_length[b], r.max_frames);
    if (r.weight[b] == 0) continue;
    for (int64_t k = 0; k < r.label_length[b]; ++k) {
      const int64_t label = r.labels[b * r.max_labels + k];
      if (label < 0 || label >= r.classes)
        throw std::invalid_argument("y_true[" + std::to_string(b) + ", " + std::to_string(k) +
                                    "]: labels must be in [0, " + std::to_string(r.classes) +
                                    "), got " + std::to_string(label));
    }
  }
}

void run_ctc(const ctc_request& r) {
  check_ctc(r);
  const cpu::float_mode mode;
  if (r.compute == dtype::f64)
    cpu::call<double>(r).run();
  else
    cpu::call<float>(r).run();
}

}  // namespace fastloss
