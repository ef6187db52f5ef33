#include "bind/compiled_plan.h"

#include <algorithm>
#include <cmath>

#include "bind/without_gil.h"

namespace fastloss::bind {
namespace {

using std::int64_t;

// The array, if it can be given to kernels as it is.
std::optional<py::array> loadable(py::handle x) {
  if (!is_array(x)) return std::nullopt;
  auto a = py::reinterpret_borrow<py::array>(x);
  if (!known_type(a)) return std::nullopt;
  return a;
}

double run_unlocked(fitted_sum& call) {
  // Over in microseconds; to get the GIL back from a busy thread takes milliseconds.
  constexpr int64_t quick = 2048;
  if (call.element_count() <= quick) return call.run();
  double value = 0;
  without_gil(call.element_count(), [&] { value = call.run(); });
  return value;
}

}  // namespace

compiled_plan::compiled_plan(plan p) : warns_of_one_class_{false} {
  if (p.loss < 0 || p.loss >= static_cast<int>(losses().size()))
    throw py::value_error("loss: no such index");
  if (p.parameters.size() != p.info().parameters.size())
    throw py::value_error("parameters: " + p.info().name + " takes " +
                          std::to_string(p.info().parameters.size()) + ", got " +
                          std::to_string(p.parameters.size()));
  if (p.axes && p.axes->empty()) throw py::value_error("axes: expected at least one, got none");
  sum_.push_back({1, std::move(p)});
}

compiled_plan::compiled_plan(const std::vector<std::pair<double, const compiled_plan*>>& terms) {
  if (terms.empty()) throw py::value_error("terms: expected at least one");
  for (const auto& [coefficient, plan] : terms)
    for (std::size_t k = 0; k < plan->sum_.size(); ++k) {
      sum_.push_back({coefficient * plan->sum_[k].coefficient, plan->sum_[k].loss});
      warns_of_one_class_.push_back(plan->warns_of_one_class_[k]);
    }
}

void compiled_plan::check_labels(const py::array& y_true, const shape& sizes,
                                 const std::optional<py::array>& sample_weight,
                                 const std::optional<py::array>& mask) const {
  fitted call(sum_[0].loss, as_array(y_true, "y_true"), contiguous(nullptr, dtype::f64, sizes));
  if (sample_weight) call.sample_weight(as_array(*sample_weight, "sample_weight"));
  if (mask) call.mask(as_array(*mask, "mask"));
  call.check_labels();
}

py::object compiled_plan::run(py::handle y_true, py::handle y_pred, int reduce,
                              py::handle sample_weight, py::handle mask, py::handle upstream,
                              std::optional<std::string> wrt, py::handle out,
                              py::handle own_weights) const {
  const auto t = loadable(y_true), p = loadable(y_pred);
  if (!t || !p || known_type(*p) < dtype::f16) return py::none();
  std::optional<py::array> w, m, u;
  if (!sample_weight.is_none() && !(w = loadable(sample_weight))) return py::none();
  if (!mask.is_none() && (!(m = loadable(mask)) || m->dtype().kind() != 'b')) return py::none();
  const bool scalar_upstream = PyFloat_CheckExact(upstream.ptr());
  if (!scalar_upstream && !(u = loadable(upstream))) return py::none();

  std::vector<std::optional<py::array>> own;
  if (!own_weights.is_none())
    for (const py::handle x : py::reinterpret_borrow<py::tuple>(own_weights)) {
      own.push_back(loadable(x));
      if (!x.is_none() && !own.back()) return py::none();
    }

  fitted_sum call(sum_, as_array(*t, "y_true"), as_array(*p, "y_pred"));
  if (!own.empty()) {
    std::vector<std::optional<fastloss::array>> weights(own.size());
    for (std::size_t k = 0; k < own.size(); ++k)
      if (own[k]) weights[k] = as_array(*own[k], "weight");
    call.own_weights(weights);
  }
  if (w) call.sample_weight(as_array(*w, "sample_weight"));
  if (m) call.mask(as_array(*m, "mask"));
  if (!out.is_none()) check_out(out, *p);
  // As in Keras, an empty batch of values comes back as it is.
  const shape& unreduced = call.value_shape();
  const bool empty_batch = unreduced.size() == 1 && unreduced[0] == 0;
  const auto how = empty_batch ? reduction::none : reduction(reduce);
  call.reduce(how);
  if (u)
    call.upstream(as_array(*u, "upstream"));
  else
    call.upstream(PyFloat_AS_DOUBLE(upstream.ptr()));
  for (std::size_t k = 0; k < sum_.size(); ++k)
    if (warns_of_one_class_[k] && call.terms()[k].class_count() == 1) {
      const std::string message = call.terms()[k].one_class_warning();
      if (PyErr_WarnEx(PyExc_SyntaxWarning, message.c_str(), 3) != 0) throw py::error_already_set();
    }

  const bool wants_pred = wrt == "y_pred" || wrt == "both";
  const bool wants_true = wrt == "y_true" || wrt == "both";
  for (const weighted_plan& term : sum_)
    if (wants_true && term.loss.info().sparse)
      throw py::value_error("wrt: integer labels have no gradient");
  py::object grad_pred = py::none(), grad_true = py::none();
  if (wants_pred) {
    grad_pred = py::reinterpret_borrow<py::object>(out);
    const auto may_fill_out = [&](const std::optional<py::array>& a) {
      return !a || may_fill(py::reinterpret_borrow<py::array>(out), *a);
    };
    if (out.is_none() || !may_fill_out(t) || !may_fill_out(p) || !may_fill_out(w) ||
        !may_fill_out(m) || !may_fill_out(u) || !std::all_of(own.begin(), own.end(), may_fill_out))
      grad_pred = empty(shape_of(*p), p->dtype());
    call.grad_pred(as_array(py::reinterpret_borrow<py::array>(grad_pred), "out"));
  }
  if (wants_true) {
    grad_true = empty(shape_of(*t), p->dtype());
    call.grad_true(as_array(py::reinterpret_borrow<py::array>(grad_true), "grad_true"));
  }
  const dtype compute = call.compute_type();
  py::object value;
  if (how == reduction::none) {
    const py::array values =
        empty(call.value_shape(), (compute == dtype::f64 ? float64_ : float32_).dtype());
    call.values(as_array(values, "values"));
    run_unlocked(call);
    value = values.ndim() ? py::object(values) : py::object(values[py::tuple()]);
  } else {
    value = as_scalar(run_unlocked(call), compute);
  }
  if (wants_pred && !out.is_none() && !grad_pred.is(out)) {
    out[py::ellipsis()] = grad_pred;
    grad_pred = py::reinterpret_borrow<py::object>(out);
  }
  return py::make_tuple(std::move(value), std::move(grad_pred), std::move(grad_true));
}

// A NumPy scalar, which is got fastest by reading an element of an array.
py::object compiled_plan::as_scalar(double value, dtype type) const {
#ifdef Py_GIL_DISABLED  // other threads would write to the same place
  return (type == dtype::f64 ? float64_ : float32_).dtype().attr("type")(value);
#endif
  const auto through = [](py::array place, auto number) {
    *static_cast<decltype(number)*>(place.mutable_data()) = number;
    return py::reinterpret_steal<py::object>(PySequence_GetItem(place.ptr(), 0));
  };
  if (type == dtype::f64) return through(float64_, value);
  const float narrow = static_cast<float>(value);
  // NumPy's own conversion warns of an overflow.
  if (std::isinf(narrow) && !std::isinf(value)) return float32_.dtype().attr("type")(value);
  return through(float32_, narrow);
}

}  // namespace fastloss::bind
