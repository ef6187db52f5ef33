// NumPy arrays as the rest of the module sees them, and those that results go to.
#pragma once

#include <pybind11/numpy.h>

#include <optional>

#include "api.h"
#include "plan.h"

namespace fastloss::bind {

namespace py = pybind11;

shape shape_of(const py::array& a);

// Nothing for a dtype that the kernels do not load.
std::optional<dtype> known_type(const py::array& a);
// The same, but raises TypeError for it.
dtype type_of(const py::array& a, const char* argument);

fastloss::array as_array(const py::array& a, const char* argument);
view as_view(const py::array& a, const char* argument);

// Of exactly that type: subclasses may mean something else by their elements.
bool is_array(py::handle x);

// Raises what is wrong with `out` as the gradient of `y_pred`.
void check_out(py::handle out, const py::array& y_pred);

// An array for results: in C order, at a multiple of 64 bytes, with any contents.
py::array empty(const shape& s, const py::dtype& d);

// Whether a kernel may fill `out` while it reads `a`. It reads each element before it writes the
// element at the same place, so an input itself will do, but not one that may overlap it otherwise.
bool may_fill(const py::array& out, const py::array& a);

}  // namespace fastloss::bind
