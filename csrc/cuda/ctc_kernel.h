// CTC: a sample by one block. Frames are described, and their gradients written, by a warp each; in
// between the block walks from frame to frame with its threads on the states. See losses/ctc.h.
#pragma once

#include "cuda/factors.h"
#include "cuda/team.h"
#include "losses/ctc.h"

namespace fastloss::cuda {

// What is kept of a frame. `best` is the first class of the largest logit.
template <class T>
struct ctc_described {
  ctc_frame<T> frame;
  T log_total, slope_of_best;
  int64_t best;
};

// A sample, as one thread of the block that does it sees it.
template <class T, class Block>
struct ctc_sample {
  const arguments& a;
  const ctc_arguments& q;
  Block& block;
  team<Block> all, warp;
  int64_t sample, frames = 0, states = 1;
  T weight, scale = 0;
  bool is_broken = false;  // a length or a label is none: the loss is NaN and the gradient zero

  // The workspace of the block. A state points to the next one with the same symbol, or to -1, and
  // to the first; of the blank that is state 0, which has no chain.
  ctc_described<T>* described;
  int64_t *symbol, *next, *first;
  T* rows;         // of walks from the first frame
  T* backward[2];  // of walks from the last one

  FASTLOSS_DEVICE ctc_sample(const arguments& a, const ctc_arguments& q, Block& b, int64_t sample)
      : a(a),
        q(q),
        block(b),
        all(b, b.threads()),
        warp(b, warp_threads),
        sample(sample),
        weight(row_weight<T>(a, sample)) {
    char* at = q.workspace + block.index() * q.bytes_per_block;
    described = reinterpret_cast<ctc_described<T>*>(at);
    symbol = reinterpret_cast<int64_t*>(described + q.frames);
    next = symbol + q.most_states();
    first = next + q.most_states();
    rows = reinterpret_cast<T*>(first + q.most_states());
    backward[0] = rows + q.kept_rows * q.row_length() + ctc_pads;
    backward[1] = backward[0] + q.row_length();
  }

  // Without a gradient, only two rows are kept.
  FASTLOSS_DEVICE T* row(int64_t t) const {
    return rows + (q.kept_rows == 2 ? t % 2 : t) * q.row_length() + ctc_pads;
  }
  FASTLOSS_DEVICE int64_t first_logit(int64_t t) const {
    return (sample * q.frames + t) * q.classes;
  }
  FASTLOSS_DEVICE T logit(int64_t t, int64_t symbol) const {
    return load_one<T>(a.y_pred, first_logit(t) + symbol);
  }

  // Returns the weighted loss; writes the gradient.
  FASTLOSS_DEVICE T run(double norm) {
    double loss = 0;
    bool has_slope = false;
    if (weight != 0) {
      const int64_t needed = enter_label();
      loss = is_broken          ? math::infinity<double> - math::infinity<double>
             : needed <= frames ? walk_forward()
                                : math::infinity<double>;
      scale = T(norm * a.upstream) * weight;
      if (a.upstream_by_row.data) scale *= load_one<T>(a.upstream_by_row, sample);
      // No change of the logits makes an impossible label possible: its gradient is zero.
      has_slope = scale != 0 && !is_broken && loss != math::infinity<double>;
    }
    if (a.grad_pred.data) write_gradient(has_slope);
    block.barrier();  // the next sample of the block uses the same workspace
    return weight == 0 ? T(0) : T(double(weight) * loss);
  }

  // Fills what is kept of states; returns the number of frames that the label needs.
  FASTLOSS_DEVICE int64_t enter_label() {
    frames = q.logit_length.data ? length(q.logit_length, q.frames) : q.frames;
    int64_t labels = 0;
    if (q.label_length.data) {
      labels = length(q.label_length, q.max_labels);
    } else {
      double own = 0;
      for (int64_t k = all.rank; k < q.max_labels; k += all.size) own += label(k) != q.blank;
      labels = int64_t(all.combine(own));
    }
    if (is_broken) return 0;
    states = 2 * labels + 1;
    double bad = 0;
    for (int64_t s = all.rank; s < states; s += all.size) {
      symbol[s] = s % 2 ? label(s / 2) : q.blank;
      const bool is_whole =
          s % 2 == 0 || double(symbol[s]) == load_one<double>(a.y_true, place_of_label(s / 2));
      bad += !is_whole || symbol[s] < 0 || symbol[s] >= q.classes;
    }
    is_broken = all.combine(bad) != 0;
    block.barrier();  // symbols of others are read from here on
    if (is_broken) return 0;
    double needed = 0;
    for (int64_t s = all.rank; s < states; s += all.size) {
      if (s % 2) needed += ctc_frames_needed(s > 1 && symbol[s] == symbol[s - 2]);
      link(s);
    }
    return int64_t(all.combine(needed));
  }

  FASTLOSS_DEVICE int64_t length(const device_view& lengths, int64_t most) {
    const int64_t n = load_one<int64_t>(lengths, sample);
    if (n < 0 || n > most || double(n) != load_one<double>(lengths, sample)) is_broken = true;
    return n;
  }
  FASTLOSS_DEVICE int64_t place_of_label(int64_t k) const { return sample * q.max_labels + k; }
  FASTLOSS_DEVICE int64_t label(int64_t k) const {
    return load_one<int64_t>(a.y_true, place_of_label(k));
  }

  FASTLOSS_DEVICE void link(int64_t s) const {
    int64_t front = 0, back = -1;
    if (symbol[s] != q.blank) {
      for (front = 1; symbol[front] != symbol[s];) front += 2;
      for (int64_t k = s + 2; k < states && back < 0; k += 2)
        if (symbol[k] == symbol[s]) back = k;
    }
    first[s] = front;
    next[s] = back;
  }

  // Whether a walk may come to state s from two states before, by its place in the walk. States of
  // the label are then `beside` each other; the first of them is entered from before the start.
  FASTLOSS_DEVICE T skip(int64_t place, int64_t s, int64_t beside) const {
    return ctc_skip<T>(place % 2 == 0 || (place > 1 && symbol[s] == symbol[beside]));
  }

  // Before the first frame of a walk stands a state in front of state 0.
  FASTLOSS_DEVICE void begin_walk(T* before) const {
    for (int64_t s = all.rank - ctc_pads; s < states; s += all.size)
      before[s] = s == -1 ? T(0) : -math::infinity<T>;
    block.barrier();
  }

  // One frame of a walk: `visit(place, walks)` gets every state before the frame emits, and returns
  // what it emits. `before` is too large by `offset`; the largest of `now`, which is what `now` is
  // too large by, is returned.
  template <class Skip, class Visit>
  FASTLOSS_DEVICE T step(const T* before, T offset, T* now, Skip skip, Visit visit) {
    T most = -math::infinity<T>;
    for (int64_t s = all.rank; s < states; s += all.size) {
      const T walks =
          ctc_advance(before[s] - offset, before[s - 1] - offset, before[s - 2] - offset, skip(s));
      now[s] = walks + visit(s, walks);
      most = math::max(most, now[s]);
    }
    for (int64_t s = all.rank; s < ctc_pads; s += all.size) now[-1 - s] = -math::infinity<T>;
    return all.largest(most);  // all have written, for the block is more than a warp
  }

  FASTLOSS_DEVICE double walk_forward() {
    describe_frames();
    if (frames == 0) return 0;  // enough for the empty label alone
    begin_walk(row(0));
    T offset = 0;
    double log_scale = 0;
    for (int64_t t = 0; t < frames; ++t) {
      const T peak = described[t].frame.peak;
      offset = step(
          row(t), offset, row(t + 1), [&](int64_t s) { return skip(s, s, s - 2); },
          [&](int64_t s, T) { return logit(t, symbol[s]) - peak; });
      if (offset == -math::infinity<T>) return math::infinity<double>;
      log_scale += double(offset) - double(described[t].log_total);
    }
    const T* end = row(frames) + states;
    return ctc_loss(end[-1] - offset, end[-2] - offset, log_scale);
  }

  // Calls visit(t, exists) for each of n frames, all threads of a warp for the same one.
  template <class Visit>
  FASTLOSS_DEVICE void each_frame(int64_t n, Visit visit) {
    for (int64_t base = 0; base < n; base += warp.per_block())
      visit(base + warp.index(), base + warp.index() < n);
    block.barrier();
  }

  // Calls visit(class, its logit) for the classes of a frame that this thread of the warp has.
  template <class Visit>
  FASTLOSS_DEVICE void each_logit(int64_t t, bool exists, Visit visit) const {
    for (int64_t c = warp.rank * packet; exists && c < q.classes; c += warp.size * packet) {
      const int n = int(q.classes - c < packet ? q.classes - c : packet);
      const numbers<T> x = load<T>(a.y_pred, first_logit(t) + c, n);
#pragma unroll
      for (int i = 0; i < packet; ++i)
        if (i < n) visit(c + i, x.x[i]);
    }
  }

  FASTLOSS_DEVICE void describe_frames() {
    each_frame(frames, [&](int64_t t, bool exists) {
      T peak = -math::infinity<T>;
      each_logit(t, exists, [&](int64_t, T x) { peak = math::max(peak, x); });
      peak = warp.largest(peak);
      sums r{0, 0, 0};  // what the others add, and how many are the peak
      int64_t best = q.classes;
      each_logit(t, exists, [&](int64_t c, T x) {
        r.a += ctc_rest(x, peak);
        if (x != peak) return;
        r.b += 1;
        best = c < best ? c : best;
      });
      r = warp.combine(r);
      best = -warp.largest(-best);
      if (!exists || warp.rank != 0) return;
      const ctc_frame<T> frame = ctc_frame_of(peak, T(r.a), T(r.b));
      described[t] = {frame, frame.log_total(), T(0), best};
    });
  }

  // Softmax minus the probability, given the label, that the frame emits the class.
  FASTLOSS_DEVICE void write_gradient(bool has_slope) {
    if (has_slope) {
      walk_backward();
      find_slopes_of_labels();
    }
    write_softmax(has_slope ? frames : 0);
    if (has_slope) write_slopes_of_labels();
  }

  // Walks through the reversed label from the last frame. Leaves in row t + 1 the log of the
  // posterior of each state in frame t, up to what is the same for all of them.
  FASTLOSS_DEVICE void walk_backward() {
    begin_walk(backward[0]);
    T *before = backward[0], *now = backward[1], offset = 0;
    for (int64_t t = frames - 1; t >= 0; --t) {
      const T peak = described[t].frame.peak;
      T* both = row(t + 1);
      offset = step(
          before, offset, now, [&](int64_t j) { return skip(j, states - 1 - j, states + 1 - j); },
          [&](int64_t j, T walks) {
            const int64_t s = states - 1 - j;
            both[s] += walks;
            return logit(t, symbol[s]) - peak;
          });
      T* const last = before;
      before = now;
      now = last;
    }
  }

  // Replaces the posterior of the first state of every symbol by the slope of that class.
  FASTLOSS_DEVICE void find_slopes_of_labels() {
    each_frame(frames, [&](int64_t t, bool exists) {
      const int64_t n = exists ? states : 0, best = exists ? described[t].best : 0;
      T* walks = row(exists ? t + 1 : 0);
      T most = -math::infinity<T>;
      for (int64_t s = warp.rank; s < n; s += warp.size) most = math::max(most, walks[s]);
      most = warp.largest(most);
      sums r{0, 0, 0};  // all, those of the blank, those of others than the dominating class
      for (int64_t s = warp.rank; s < n; s += warp.size) {
        const double share = math::exp(walks[s] - most);
        r.a += share;
        if (first[s] == 0) r.b += share;
        if (symbol[s] != best) r.c += share;
      }
      r = warp.combine(r);
      if (!exists) return;
      const ctc_frame<T> frame = described[t].frame;
      const T of_best = scale * frame.slope_of_best(T(r.c / r.a));
      const T factor = scale / frame.total();
      for (int64_t s = warp.rank; s < n; s += warp.size) {
        if (first[s] != s) continue;
        double share = s == 0 ? r.b : 0;
        for (int64_t k = s; s != 0 && k >= 0; k = next[k]) share += math::exp(walks[k] - most);
        const T softmax = factor * frame.exponential(logit(t, symbol[s]));
        walks[s] = symbol[s] == best ? of_best : softmax - scale * T(share / r.a);
      }
      if (warp.rank == 0) described[t].slope_of_best = of_best;
    });
  }

  // Of all frames; it is zero from `done` on.
  FASTLOSS_DEVICE void write_softmax(int64_t done) {
    each_frame(q.frames, [&](int64_t t, bool exists) {
      const bool is_zero = t >= done;
      const ctc_described<T> d = is_zero ? ctc_described<T>{} : described[t];
      const T factor = scale / d.frame.total();
      for (int64_t c = warp.rank * packet; exists && c < q.classes; c += warp.size * packet) {
        const int n = int(q.classes - c < packet ? q.classes - c : packet);
        const int64_t at = first_logit(t) + c;
        numbers<T> slope = {};
        if (!is_zero) {
          const numbers<T> x = load<T>(a.y_pred, at, n);
#pragma unroll
          for (int i = 0; i < packet; ++i)
            slope.x[i] = c + i == d.best ? d.slope_of_best : factor * d.frame.exponential(x.x[i]);
        }
        store(run_of<T>(a.grad_pred, at, n), 0, n, slope);
      }
    });
  }

  FASTLOSS_DEVICE void write_slopes_of_labels() const {
    const int64_t firsts = states / 2 + 1;  // state 0, and those of labels
    for (int64_t i = all.rank; i < frames * firsts; i += all.size) {
      const int64_t t = i / firsts, k = i % firsts, s = k == 0 ? 0 : 2 * k - 1;
      if (first[s] == s) store_one(a.grad_pred, first_logit(t) + symbol[s], row(t + 1)[s]);
    }
  }
};

template <class T>
struct ctc_kernel {
  arguments a;
  ctc_arguments q;
  geometry g;

  template <class Block>
  FASTLOSS_DEVICE void operator()(Block& block) const {
    const double norm = normalization(a);
    double total = 0;
    for (int64_t i = block.index(); i < a.rows; i += block.blocks()) {
      ctc_sample<T, Block> sample(a, q, block, i);
      const T loss = sample.run(norm);
      if (block.thread() != 0) continue;
      total += loss;
      if (!a.reduces) store_one(a.values, i, loss);
    }
    if (a.reduces) store_total<T>(block, a, g, total, norm);
  }
};

}  // namespace fastloss::cuda
