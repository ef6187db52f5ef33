// A sum of plans, of a single one as a rule, that is called with NumPy arrays.
#pragma once

#include <optional>
#include <string>

#include "bind/arrays.h"
#include "plan.h"

namespace fastloss::bind {

class compiled_plan {
 public:
  explicit compiled_plan(plan p);
  // The sum of the terms of all `terms`, each times its coefficient.
  explicit compiled_plan(const std::vector<std::pair<double, const compiled_plan*>>& terms);

  axis_list axes_of(int rank) const { return sum_[0].loss.axes_of(rank); }
  std::string line() const { return to_text(sum_); }
  void warn_of_one_class(bool warns) { warns_of_one_class_.assign(sum_.size(), warns); }

  // What `run` would throw for the labels of a y_pred with these sizes.
  void check_labels(const py::array& y_true, const shape& sizes,
                    const std::optional<py::array>& sample_weight,
                    const std::optional<py::array>& mask) const;

  // (value, gradient with respect to y_pred or None, that with respect to y_true or None). None if
  // an argument has to be converted first, to an array that kernels load, or upstream to a float;
  // nothing has been done then.
  // `own_weights` is a tuple with an array or None for each term, or None.
  py::object run(py::handle y_true, py::handle y_pred, int reduce, py::handle sample_weight,
                 py::handle mask, py::handle upstream, std::optional<std::string> wrt,
                 py::handle out, py::handle own_weights) const;

 private:
  py::object as_scalar(double value, dtype type) const;

  std::vector<weighted_plan> sum_;
  std::vector<char> warns_of_one_class_;                                          // of the terms
  py::array float32_ = py::array_t<float>(1), float64_ = py::array_t<double>(1);  // see as_scalar
};

}  // namespace fastloss::bind
