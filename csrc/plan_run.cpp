// Runs a call of a plan on the CPU. Apart from plan.cpp, whose rules other devices share.
#include <charconv>

#include "cpu/view.h"
#include "plan.h"

namespace fastloss {
namespace {

// The shortest decimals that read back as the number.
template <class T>
std::string decimals(T x) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, x).ptr;
  return {buffer, end};
}

}  // namespace

double fitted::run() {
  request_.threads = num_threads();
  try {
    return fastloss::run(request_);
  } catch (const label_error& e) {
    explain(e);
  }
}

void fitted::check_labels() const {
  if (!plan_.info().sparse) return;
  try {
    fastloss::check_labels(request_);
  } catch (const label_error& e) {
    explain(e);
  }
}

// "y_true[3, 1]: <rule>, got <label>"
void fitted::explain(const label_error& e) const {
  shape index(y_true_.sizes.size());
  int64_t rest = e.row;
  array one = y_true_;
  for (std::size_t d = index.size(); d-- > 0; rest /= y_true_.sizes[d]) {
    index[d] = rest % y_true_.sizes[d];
    one.data += index[d] * y_true_.strides[d];
  }
  one.sizes.clear();
  one.strides.clear();
  const view label = on_rows(one);
  std::string got;
  if (one.type == dtype::f64) {
    double scratch;
    got = decimals(*cpu::load(label, 0, 1, &scratch));
  } else if (one.type >= dtype::f16) {
    float scratch;
    got = decimals(*cpu::load(label, 0, 1, &scratch));
  } else if (one.type == dtype::u64) {
    got = std::to_string(*reinterpret_cast<const std::uint64_t*>(one.data));
  } else {
    int64_t scratch;
    got = std::to_string(*cpu::load(label, 0, 1, &scratch));
  }
  std::string where;
  for (int64_t i : index) where += (where.empty() ? "" : ", ") + std::to_string(i);
  throw argument_error("y_true" + (index.empty() ? "" : "[" + where + "]") + ": " + e.what() +
                       ", got " + got);
}

}  // namespace fastloss
