// The Python module: checks arrays, describes them as views, calls fastloss::run without the GIL.
// Nothing here knows a loss by name, and no array is copied.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "api.h"
#include "bind/arrays.h"
#include "bind/compiled_plan.h"
#include "bind/small_vector.h"
#include "bind/tensorflow.h"
#include "bind/without_gil.h"
#include "operation.h"
#include "plan.h"

using namespace fastloss;
using namespace fastloss::bind;
using std::int64_t;

namespace {

dtype type_named(const std::string& name) {
  return type_of(py::array(py::dtype(name), shape{0}), "dtype");
}

void expect_writable(const py::array& a, const shape& s, dtype type, const char* argument) {
  if (shape_of(a) != s || type_of(a, argument) != type || !a.writeable())
    throw py::value_error(std::string(argument) + ": expected a writable array of shape " +
                          text(s));
}

using integers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
using reals = py::array_t<double, py::array::c_style | py::array::forcecast>;

// y_true (batch, labels), y_pred (batch, frames, classes); lengths, weight and slope (batch,).
void run_ctc_arrays(const integers& y_true, const integers& label_length, const py::array& y_pred,
                    const integers& logit_length, int64_t blank, const reals& weight,
                    const reals& slope, const py::array& values,
                    const std::optional<py::array>& grad) {
  if (y_true.ndim() != 2 || y_pred.ndim() != 3 || y_true.shape(0) != y_pred.shape(0))
    throw py::value_error(
        "y_true: expected shape (batch, labels) and for y_pred (batch, frames, "
        "classes), got " +
        text(shape_of(y_true)) + " and " + text(shape_of(y_pred)));
  ctc_request r;
  r.batch = y_pred.shape(0);
  r.max_frames = y_pred.shape(1);
  r.classes = y_pred.shape(2);
  r.max_labels = y_true.shape(1);
  if (blank < 0 || blank >= r.classes) throw py::value_error("blank: no such class");
  for (const py::array* a : {(const py::array*)&label_length, (const py::array*)&logit_length,
                             (const py::array*)&weight, (const py::array*)&slope})
    if (shape_of(*a) != shape{r.batch}) throw py::value_error("expected one number per sample");
  const dtype stored = type_of(y_pred, "y_pred");
  if (stored < dtype::f16) throw py::type_error("y_pred: expected a floating dtype");
  r.compute = stored == dtype::f64 ? dtype::f64 : dtype::f32;
  r.blank = blank;
  r.y_pred = as_view(y_pred, "y_pred");
  r.labels = y_true.data();
  r.label_length = label_length.data();
  r.logit_length = logit_length.data();
  r.weight = weight.data();
  r.slope = slope.data();
  expect_writable(values, {r.batch}, r.compute, "values");
  r.values = as_view(values, "values");
  if (grad) {
    expect_writable(*grad, shape_of(y_pred), stored, "out");
    r.grad = as_view(*grad, "out");
  }
  r.threads = num_threads();
  without_gil(r.batch * r.max_frames * r.classes, [&] { run_ctc(r); });
}

// Throws for a length or a label out of range, as run_ctc does.
void check_ctc_arrays(const integers& y_true, const integers& label_length,
                      const integers& logit_length, const reals& weight, int64_t frames,
                      int64_t classes) {
  ctc_request r;
  r.batch = y_true.shape(0);
  r.max_labels = y_true.shape(1);
  r.max_frames = frames;
  r.classes = classes;
  r.labels = y_true.data();
  r.label_length = label_length.data();
  r.logit_length = logit_length.data();
  r.weight = weight.data();
  check_ctc(r);
}

}  // namespace

// No thread of Python changes what another uses, so that none needs the GIL.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of fastloss. Private: use the functions and classes of fastloss.";
  m.def(
      "losses",
      [] {
        std::vector<std::tuple<std::string, std::string, bool, bool, std::vector<std::string>>> out;
        for (const loss_info& l : losses())
          out.emplace_back(l.name, l.kind, l.sparse, l.uses_target, l.parameters);
        return out;
      },
      "(name, kind, takes integer labels, looks at y_true, parameter names) of every compiled "
      "loss, "
      "by index.");
  m.def(
      "instruction_set", [] { return std::string(instruction_set()); },
      "The instruction set that the kernels run on.");
  m.def("instruction_sets", &instruction_sets,
        "Those that the environment variable FASTLOSS_ISA may name on this processor.");
  m.def("num_threads", &num_threads, "How many threads a call may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def(
      "check_operation",
      [](const std::string& line, const std::vector<std::pair<std::string, shape>>& inputs) {
        std::vector<array> arrays;
        for (const auto& [type, sizes] : inputs)
          arrays.push_back(contiguous(nullptr, type_named(type), sizes));
        operation(line).check(arrays);
      },
      py::arg("line"), py::arg("inputs"),
      "Raises what the operation would for inputs of these (dtype, shape).");
  m.def("register_tensorflow_ops", &register_tensorflow_ops, py::arg("path"),
        "Registers the ops with the TensorFlow whose libtensorflow_framework is at that path.");
  m.def(
      "register_xla_handler",
      [](const std::string& path, const std::string& target, const std::string& platform,
         const py::capsule& handler) {
        const auto function = reinterpret_cast<XLA_FFI_Handler*>(handler.get_pointer());
        register_xla_handler(path, target, platform, function);
      },
      py::arg("path"), py::arg("target"), py::arg("platform"), py::arg("handler"),
      "Registers a handler of custom calls with the XLA of the libtensorflow_cc at that path, for "
      "the platform \"Host\" or \"CUDA\".");
  m.attr("XLA_HANDLER") = py::capsule(reinterpret_cast<void*>(&xla_handler));
  m.attr("TENSORFLOW_LOSS_OP") = tensorflow_loss_op;
  m.attr("TENSORFLOW_SCALE_OP") = tensorflow_scale_op;
  m.attr("XLA_TARGET") = xla_target;
  m.def("empty", &empty, py::arg("shape"), py::arg("dtype"),
        "An uninitialized array in C order, at a multiple of 64 bytes.");
  m.def("check_out", &check_out, py::arg("out"), py::arg("y_pred"),
        "Raises what is wrong with `out` as the gradient of `y_pred`.");
  m.def("may_fill", &may_fill, py::arg("out"), py::arg("array"),
        "Whether a kernel may fill `out` while it reads `array`: they are the same elements, or "
        "share no memory.");
  py::class_<compiled_plan>(m, "Plan")
      .def(py::init([](int loss, std::vector<double> parameters, std::optional<axis_list> axes,
                       double label_smoothing, std::vector<double> class_weight,
                       std::string class_weight_name, std::optional<int64_t> ignore_class,
                       bool weight_is_per_class) {
             return compiled_plan({loss, std::move(parameters), std::move(axes), label_smoothing,
                                   std::move(class_weight), std::move(class_weight_name),
                                   ignore_class, weight_is_per_class});
           }),
           py::arg("loss"), py::arg("parameters"), py::arg("axes").none(true),
           py::arg("label_smoothing"), py::arg("class_weight"), py::arg("class_weight_name"),
           py::arg("ignore_class").none(true), py::arg("weight_is_per_class"))
      .def(py::init<const std::vector<std::pair<double, const compiled_plan*>>&>(),
           py::arg("terms"), "The sum of plans, each times its coefficient.")
      .def("axes_of", &compiled_plan::axes_of, py::arg("rank"),
           "The axes of y_pred that one loss value is taken over, as indices from 0.")
      .def("line", &compiled_plan::line, "The plan as one line, for an operation.")
      .def("warn_of_one_class", &compiled_plan::warn_of_one_class, py::arg("warns"))
      .def("check_labels", &compiled_plan::check_labels, py::arg("y_true"), py::arg("shape"),
           py::arg("sample_weight").none(true), py::arg("mask").none(true),
           "Raises what `run` would for a label outside the classes, for y_pred of that shape.")
      .def("run", &compiled_plan::run, py::arg("y_true"), py::arg("y_pred"), py::arg("reduction"),
           py::arg("sample_weight"), py::arg("mask"), py::arg("upstream"),
           py::arg("wrt").none(true), py::arg("out"), py::arg("own_weights") = py::none(),
           "(value, gradient or None, gradient or None); None for arguments that have to be "
           "converted first.");
  m.def("run_ctc", &run_ctc_arrays, py::arg("y_true"), py::arg("label_length"), py::arg("y_pred"),
        py::arg("logit_length"), py::arg("blank"), py::arg("weight"), py::arg("slope"),
        py::arg("values"), py::arg("grad").none(true),
        "Fills the values (times weight) and the gradient (times slope) of every sample.");
  m.def("check_ctc", &check_ctc_arrays, py::arg("y_true"), py::arg("label_length"),
        py::arg("logit_length"), py::arg("weight"), py::arg("frames"), py::arg("classes"),
        "Raises what run_ctc would for a length or a label out of range.");
}
