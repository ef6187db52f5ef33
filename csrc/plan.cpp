#include "plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "cpu/view.h"

namespace fastloss {
namespace {

using std::int64_t;

int64_t product(const shape& s) {
  int64_t n = 1;
  for (int64_t x : s) n *= x;
  return n;
}

bool broadcasts(const shape& from, const shape& to) {
  if (from.size() > to.size()) return false;
  const std::size_t skip = to.size() - from.size();
  for (std::size_t d = 0; d < from.size(); ++d)
    if (from[d] != 1 && from[d] != to[d + skip]) return false;
  return true;
}

array broadcast(const array& a, const shape& to) {
  array out{a.data, a.type, to, shape(to.size(), 0)};
  const std::size_t skip = to.size() - a.sizes.size();
  for (std::size_t d = 0; d < a.sizes.size(); ++d)
    if (a.sizes[d] != 1) out.strides[d + skip] = a.strides[d];
  return out;
}

bool begins(const shape& s, const shape& whole) {
  return s.size() < whole.size() && std::equal(s.begin(), s.end(), whole.begin());
}

std::string hexadecimal(double x) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%a", x);
  return buffer;
}

template <class List, class Format>
std::string joined(const List& values, Format format) {
  std::string out;
  for (const auto& x : values) out += (out.empty() ? "" : ",") + format(x);
  return out;
}

template <class List, class Parse>
List split(const std::string& line, Parse parse) {
  List out;
  std::istringstream parts(line);
  for (std::string part; std::getline(parts, part, ',');) out.push_back(parse(part));
  return out;
}

}  // namespace

std::string text(const shape& s) {
  std::string out = "(";
  for (std::size_t i = 0; i < s.size(); ++i) out += (i ? ", " : "") + std::to_string(s[i]);
  return out + (s.size() == 1 ? ",)" : ")");
}

array contiguous(void* data, dtype type, shape sizes) {
  shape strides(sizes.size());
  int64_t step = cpu::item_size(type);
  for (std::size_t d = sizes.size(); d-- > 0; step *= sizes[d]) strides[d] = step;
  return {static_cast<char*>(data), type, std::move(sizes), std::move(strides)};
}

view as_view(const array& a) {
  view v{a.data, a.type, {}};
  for (std::size_t d = 0; d < a.sizes.size(); ++d) v.axes.push_back({a.sizes[d], a.strides[d]});
  return v;
}

// ---- plan ----

axis_list plan::axes_of(int rank) const {
  if (rank == 0) throw argument_error("y_pred: expected at least one dimension, got a scalar");
  axis_list out;
  if (!axes) {
    for (int d = 0; d < rank; ++d) out.push_back(d);
    return out;
  }
  for (int a : *axes) {
    if (a < -rank || a >= rank)
      throw argument_error("axis: " + std::to_string(a) + " is out of range for y_pred with " +
                           std::to_string(rank) + " dimensions");
    out.push_back(a < 0 ? a + rank : a);
  }
  std::sort(out.begin(), out.end());
  if (std::adjacent_find(out.begin(), out.end()) != out.end())
    throw argument_error("axis: expected distinct axes, got " +
                         text(shape(axes->begin(), axes->end())));
  return out;
}

std::string to_text(const plan& p) {
  std::string out = p.info().name;
  const auto add = [&out](const char* key, const std::string& value) {
    out += std::string(" ") + key + "=" + value;
  };
  add("parameters", joined(p.parameters, hexadecimal));
  if (p.axes) add("axes", joined(*p.axes, [](int a) { return std::to_string(a); }));
  if (p.label_smoothing != 0) add("label_smoothing", hexadecimal(p.label_smoothing));
  if (!p.class_weight.empty())
    add(p.weight_is_per_class ? p.class_weight_name.c_str() : "weight",
        joined(p.class_weight, hexadecimal));
  if (p.ignore_class) add("ignore_class", std::to_string(*p.ignore_class));
  return out;
}

plan plan_from_text(const std::string& line) {
  const auto real = [](const std::string& s) { return std::strtod(s.c_str(), nullptr); };
  const auto whole = [](const std::string& s) { return std::stoll(s); };
  std::istringstream words(line);
  std::string word;
  words >> word;
  plan p;
  for (std::size_t i = 0; i < losses().size(); ++i)
    if (losses()[i].name == word) p.loss = static_cast<int>(i);
  if (p.loss < 0) throw argument_error("this build of fastloss has no loss " + word);
  while (words >> word) {
    const std::size_t sign = word.find('=');
    const std::string key = word.substr(0, sign);
    const std::string value = sign == std::string::npos ? "" : word.substr(sign + 1);
    if (key == "parameters") {
      p.parameters = split<std::vector<double>>(value, real);
    } else if (key == "axes") {
      p.axes = split<axis_list>(value, whole);
    } else if (key == "label_smoothing") {
      p.label_smoothing = real(value);
    } else if (key == "class_weight" || key == "alpha" || key == "weight") {
      p.class_weight = split<std::vector<double>>(value, real);
      p.class_weight_name = key;
      p.weight_is_per_class = key != "weight";
    } else if (key == "ignore_class") {
      p.ignore_class = whole(value);
    } else {
      throw argument_error("this build of fastloss does not know " + word);
    }
  }
  if (p.parameters.size() != p.info().parameters.size())
    throw argument_error("this build of fastloss has another " + p.info().name);
  return p;
}

std::string to_text(const std::vector<weighted_plan>& sum) {
  if (sum.size() == 1 && sum[0].coefficient == 1) return to_text(sum[0].loss);
  std::string out;
  for (const weighted_plan& term : sum)
    out += (out.empty() ? "" : " + ") + hexadecimal(term.coefficient) + " " + to_text(term.loss);
  return out;
}

std::vector<weighted_plan> sum_from_text(const std::string& line) {
  std::vector<weighted_plan> sum;
  const std::string plus = " + ";
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(plus, begin), line.size());
    const std::string term = line.substr(begin, end - begin);
    const std::size_t space = term.find(' ');
    char* rest = nullptr;
    const double coefficient = std::strtod(term.c_str(), &rest);
    const bool is_number = space != std::string::npos && rest == term.c_str() + space;
    if (is_number)
      sum.push_back({coefficient, plan_from_text(term.substr(space + 1))});
    else
      sum.push_back({1, plan_from_text(term)});
    begin = end + plus.size();
  }
  return sum;
}

// ---- fitted ----

fitted::fitted(const plan& p, const array& y_true, const array& y_pred)
    : plan_(p), y_true_(y_true) {
  array t = y_true, q = y_pred;
  p.axes_of(static_cast<int>(q.sizes.size()));
  if (!p.info().uses_target)
    t = q;
  else if (p.info().sparse)
    fit_labels(t, q);
  else
    fit_target(t, q);
  grid_ = q.sizes;
  col_dims_ = p.axes_of(static_cast<int>(grid_.size()));
  for (int d = 0; d < static_cast<int>(grid_.size()); ++d)
    if (!std::binary_search(col_dims_.begin(), col_dims_.end(), d)) {
      row_dims_.push_back(d);
      rows_.push_back(grid_[d]);
    }
  request& r = request_;
  r.loss = p.loss;
  r.parameters = p.parameters;
  r.rows = product(rows_);
  r.cols = 1;
  for (int d : col_dims_) r.cols *= grid_[d];
  for (int d : row_dims_)
    if (d > col_dims_.back()) r.inner_rows *= grid_[d];
  if (r.cols == 0)
    throw argument_error("y_pred: the axes of the loss are empty, got shape " + text(grid_));
  r.compute = q.type == dtype::f64 ? dtype::f64 : dtype::f32;
  r.y_pred = on_grid(q);
  r.y_true = p.info().sparse ? on_rows(t) : on_grid(t);
  r.scalar_value = rows_.empty();
  if (p.info().sparse) r.ignore_class = p.ignore_class;
  transform_targets();
}

array fitted::adjusted(array a, rank_rule rule) {
  if (rule == rank_rule::add_last) {
    a.sizes.push_back(1);
    a.strides.push_back(0);
  } else if (rule == rank_rule::drop_last) {
    a.sizes.pop_back();
    a.strides.pop_back();
  }
  return a;
}

void fitted::fit_target(array& y_true, array& y_pred) {
  const shape &t = y_true.sizes, &p = y_pred.sizes;
  if (t == p) return;
  const bool one_more = t.size() == p.size() + 1 && t.back() == 1 && begins(p, t);
  const bool one_less = p.size() == t.size() + 1 && p.back() == 1 && begins(t, p);
  if (!one_more && !one_less)
    throw argument_error("y_true: expected the shape of y_pred, " + text(p) + ", got " + text(t));
  // The longer loses its last dimension, unless the other is a vector, which gains one: a vector
  // of predictions is a batch of single ones.
  const bool vector = std::min(t.size(), p.size()) == 1;
  if (one_more)
    (vector ? pred_rule_ : true_rule_) = vector ? rank_rule::add_last : rank_rule::drop_last;
  else
    (vector ? true_rule_ : pred_rule_) = vector ? rank_rule::add_last : rank_rule::drop_last;
  y_true = adjusted(std::move(y_true), true_rule_);
  y_pred = adjusted(std::move(y_pred), pred_rule_);
}

// Labels may keep a class axis of size 1.
void fitted::fit_labels(array& y_true, const array& y_pred) const {
  const shape& p = y_pred.sizes;
  const int axis = plan_.axes_of(static_cast<int>(p.size())).front();
  shape rows = p;
  rows.erase(axis);
  shape with_axis = p;
  with_axis[axis] = 1;
  if (y_true.sizes == with_axis) {
    y_true.sizes.erase(axis);
    y_true.strides.erase(axis);
  }
  if (y_true.sizes != rows)
    throw argument_error("y_true: expected labels of shape " + text(rows) +
                         " for y_pred of shape " + text(p) + " with its classes on axis " +
                         std::to_string(axis) + ", got shape " + text(y_true_.sizes));
}

// The formula sees (target_scale t + target_shift) times the class weight.
void fitted::transform_targets() {
  const int64_t classes = class_count();
  if (plan_.label_smoothing != 0) {
    request_.target_scale = 1 - plan_.label_smoothing;
    request_.target_shift =
        plan_.label_smoothing / (plan_.info().kind == "map" ? 2 : double(classes));
  }
  const std::vector<double>& w = plan_.class_weight;
  if (w.empty()) return;
  const bool one_for_all = w.size() == 1 && !plan_.weight_is_per_class;
  if (!one_for_all && int64_t(w.size()) != classes)
    throw argument_error(plan_.class_weight_name + ": expected one number per class, " +
                         std::to_string(classes) + ", got " + std::to_string(w.size()));
  char* data = reinterpret_cast<char*>(const_cast<double*>(w.data()));
  const int64_t stride = one_for_all ? 0 : int64_t(sizeof(double));
  request_.class_weight = view{data, dtype::f64, {{classes, stride}}};
}

view fitted::on_grid(const array& a) const {
  view v{a.data, a.type, {}};
  for (const axis_list* dims : {&row_dims_, &col_dims_})
    for (int d : *dims) v.axes.push_back({a.sizes[d], a.strides[d]});
  return v;
}

view fitted::on_grid(const array& a, rank_rule rule) const {
  return rule == rank_rule::as_is ? on_grid(a) : on_grid(adjusted(a, rule));
}

view fitted::on_rows(const array& a) const { return as_view(a); }

std::string fitted::one_class_warning() const {
  return "y_pred: " + plan_.info().name +
         " expects more than one class on its class axis, got shape " + text(grid_) +
         "; for two classes given as one number use binary_crossentropy";
}

// A weight whose shape begins the shape of the values weighs samples, whatever else would fit.
factor fitted::fit_weight(const array& w, const char* argument) const {
  if (begins(w.sizes, rows_)) {
    array samples = w;
    samples.sizes.resize(rows_.size(), 1);
    samples.strides.resize(rows_.size(), 0);
    return {on_rows(broadcast(samples, rows_)), false};
  }
  if (w.sizes.size() == rows_.size() + 1 && w.sizes.back() == 1) {
    const array dropped = adjusted(w, rank_rule::drop_last);
    if (broadcasts(dropped.sizes, rows_)) return {on_rows(broadcast(dropped, rows_)), false};
  }
  if (broadcasts(w.sizes, rows_)) return {on_rows(broadcast(w, rows_)), false};
  const bool per_element = plan_.info().kind == "map";
  if (per_element && broadcasts(w.sizes, grid_)) return {on_grid(broadcast(w, grid_)), true};
  throw argument_error(std::string(argument) +
                       ": expected a shape that broadcasts to the loss values, " + text(rows_) +
                       (per_element ? " or to y_pred, " + text(grid_) : "") + ", got " +
                       text(w.sizes));
}

void fitted::sample_weight(const array& w) {
  request_.sample_weight = fit_weight(w, "sample_weight");
}

void fitted::own_weight(const array& w) { request_.own_weight = fit_weight(w, "weight"); }

void fitted::mask(const array& m) { request_.mask = fit_weight(m, "mask"); }

void fitted::upstream(const array& u) {
  if (u.sizes.empty()) {
    request_.upstream = cpu::number(on_rows(u));
    return;
  }
  if (request_.reduce != reduction::none)
    throw argument_error(
        "upstream: expected a number, or an array with reduction=None, got shape " + text(u.sizes));
  if (u.sizes != rows_)
    throw argument_error("upstream: expected the shape of the loss values, " + text(rows_) +
                         ", got " + text(u.sizes));
  request_.row_upstream = on_rows(u);
}

void fitted::upstream_on_device(const array& u) {
  if (u.sizes.empty())
    request_.row_upstream = on_rows(broadcast(u, rows_));
  else
    upstream(u);
}

void fitted::values(const array& a) { request_.values = on_rows(a); }
void fitted::grad_pred(const array& a) { request_.grad_pred = on_grid(a, pred_rule_); }
void fitted::grad_true(const array& a) {
  if (!plan_.info().uses_target && a.sizes != grid_)
    throw argument_error("wrt: " + plan_.info().name +
                         " does not depend on y_true, whose gradient is zero; expected 'y_pred'");
  request_.grad_true = on_grid(a, true_rule_);
}

void fitted::move_to(const addresses& at) {
  request& r = request_;
  y_true_.data = at.y_true;
  r.y_true.data = plan_.info().uses_target ? at.y_true : at.y_pred;
  r.y_pred.data = at.y_pred;
  if (r.sample_weight) r.sample_weight->values.data = at.sample_weight;
  if (r.mask) r.mask->values.data = at.mask;
  if (r.values) r.values->data = at.values;
  if (r.grad_pred) r.grad_pred->data = at.grad_pred;
  if (r.grad_true) r.grad_true->data = at.grad_true;
}

}  // namespace fastloss
