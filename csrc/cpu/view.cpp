#include "cpu/view.h"

#include <utility>

#include "cpu/convert_loops.h"

namespace fastloss::cpu {

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

double number(const view& v) {
  const conversion_from<double> convert = conversions_from<double>[static_cast<int>(v.type)];
  double x;
  convert(v.data, 1, &x);
  return x;
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

}  // namespace fastloss::cpu
