// The Python module of the CUDA kernels: describes arrays by their addresses, and enqueues. It owns
// no memory of a device and waits for none.
#include <pybind11/pybind11.h>

#include "bind/small_vector.h"
#include "bind/without_gil.h"
#include "bind/xla_cuda.h"
#include "cuda/device.h"
#include "cuda/driver.h"
#include "plan.h"

namespace py = pybind11;
using namespace fastloss;
using std::int64_t;

namespace {

constexpr std::pair<const char*, dtype> type_names[] = {
    {"bool", dtype::boolean}, {"int8", dtype::i8},       {"uint8", dtype::u8},
    {"int16", dtype::i16},    {"uint16", dtype::u16},    {"int32", dtype::i32},
    {"uint32", dtype::u32},   {"int64", dtype::i64},     {"uint64", dtype::u64},
    {"float16", dtype::f16},  {"bfloat16", dtype::bf16}, {"float32", dtype::f32},
    {"float64", dtype::f64},
};

// (address, name of the dtype, shape, strides in bytes)
using description = std::tuple<std::uintptr_t, std::string, shape, shape>;

array as_array(const description& d, const char* argument) {
  const auto& [address, name, sizes, strides] = d;
  for (const auto& [known, type] : type_names)
    if (name == known) return {reinterpret_cast<char*>(address), type, sizes, strides};
  throw py::type_error(std::string(argument) + ": dtype " + name + " is not supported");
}

view as_view(const description& d, const char* argument, const shape& sizes) {
  const array a = as_array(d, argument);
  if (a.sizes != sizes)
    throw py::value_error(std::string(argument) + ": expected shape " + text(sizes) + ", got " +
                          text(a.sizes));
  return as_view(a);
}

// Where results go: `allocate(shape, dtype)` returns the address of an array of the device.
struct target {
  const py::function& allocate;
  int device;
  std::uintptr_t stream;

  void* get(const shape& sizes, const char* type) const {
    return reinterpret_cast<void*>(
        allocate(py::tuple(py::cast(sizes)), type).cast<std::uintptr_t>());
  }
  void* get(const shape& sizes, dtype type) const {
    return get(sizes, type == dtype::f64 ? "float64" : "float32");
  }

  // Asks for the workspace, and enqueues; `samples` are those of CTC, or nothing.
  template <class... Samples>
  void enqueue(const request& r, void* value, const Samples&... samples) const {
    cuda::use_device(device);
    void* workspace = get({static_cast<int64_t>(cuda::workspace_bytes(r, samples...))}, "uint8");
    bind::without_gil([&] {
      cuda::use_device(device);  // `allocate` is anyone's
      cuda::enqueue(r, samples..., value, workspace, reinterpret_cast<cuda::stream_handle>(stream));
    });
  }
};

// y_true (batch, labels), y_pred (batch, frames, classes); all others (batch,), or a number.
void enqueue_ctc(const description& y_true, const std::optional<description>& label_length,
                 const description& y_pred, const std::optional<description>& logit_length,
                 int64_t blank, int reduce, const std::optional<description>& sample_weight,
                 const std::optional<description>& mask,
                 const std::variant<double, description>& upstream,
                 const std::optional<description>& grad, const py::function& allocate, int device,
                 std::uintptr_t stream) {
  const array logits = as_array(y_pred, "y_pred"), labels = as_array(y_true, "y_true");
  if (logits.sizes.size() != 3 || labels.sizes.size() != 2)
    throw py::value_error("y_pred: expected shape (batch, frames, classes), got " +
                          text(logits.sizes));
  const int64_t batch = logits.sizes[0];
  cuda::ctc_samples samples;
  samples.frames = logits.sizes[1];
  samples.classes = logits.sizes[2];
  samples.max_labels = labels.sizes[1];
  samples.blank = blank;
  if (label_length) samples.label_length = as_view(*label_length, "label_length", {batch});
  if (logit_length) samples.logit_length = as_view(*logit_length, "logit_length", {batch});
  request r;
  r.rows = batch;
  r.cols = samples.frames * samples.classes;
  r.compute = logits.type == dtype::f64 ? dtype::f64 : dtype::f32;
  r.y_pred = as_view(logits);
  r.y_true = as_view(y_true, "y_true", {batch, samples.max_labels});
  if (sample_weight) r.sample_weight = {as_view(*sample_weight, "sample_weight", {batch}), false};
  if (mask) r.mask = {as_view(*mask, "mask", {batch}), false};
  r.reduce = batch ? reduction(reduce) : reduction::none;
  if (const double* number = std::get_if<double>(&upstream))
    r.upstream = *number;
  else
    r.row_upstream = as_view(std::get<description>(upstream), "upstream", {batch});
  if (grad) r.grad_pred = as_view(*grad, "out", logits.sizes);
  const target to{allocate, device, stream};
  const shape sizes = r.reduce == reduction::none ? shape{batch} : shape{};
  void* value = to.get(sizes, r.compute);
  if (r.reduce == reduction::none) r.values = as_view(contiguous(value, r.compute, sizes));
  to.enqueue(r, value, samples);
}

class device_plan {
 public:
  device_plan(const std::string& line, bool warns_of_one_class)
      : plan_(plan_from_text(line)), warns_of_one_class_(warns_of_one_class) {}

  const std::vector<double>& class_weight() const { return plan_.class_weight; }

  // `allocate` is asked for the value, then for the workspace.
  void run(const description& y_true, const description& y_pred, int reduce,
           const std::optional<description>& sample_weight, const std::optional<description>& mask,
           const std::variant<double, description>& upstream,
           const std::optional<description>& grad_pred, const std::optional<description>& grad_true,
           std::uintptr_t class_weight, const py::function& allocate, int device,
           std::uintptr_t stream) const {
    fitted call(plan_, as_array(y_true, "y_true"), as_array(y_pred, "y_pred"));
    if (sample_weight) call.sample_weight(as_array(*sample_weight, "sample_weight"));
    if (mask) call.mask(as_array(*mask, "mask"));
    const auto how = call.value_shape() == shape{0} ? reduction::none : reduction(reduce);
    call.reduce(how);
    if (const double* number = std::get_if<double>(&upstream)) {
      call.upstream(*number);
    } else {
      call.upstream_on_device(as_array(std::get<description>(upstream), "upstream"));
    }
    if (warns_of_one_class_ && call.class_count() == 1 &&
        PyErr_WarnEx(PyExc_SyntaxWarning, call.one_class_warning().c_str(), 4) != 0)
      throw py::error_already_set();
    if (grad_pred) call.grad_pred(as_array(*grad_pred, "out"));
    if (grad_true) call.grad_true(as_array(*grad_true, "grad_true"));
    call.class_weight_on_device(reinterpret_cast<void*>(class_weight));

    const target to{allocate, device, stream};
    const shape sizes = how == reduction::none ? call.value_shape() : shape{};
    void* value = to.get(sizes, call.compute_type());
    if (how == reduction::none) call.values(contiguous(value, call.compute_type(), sizes));
    to.enqueue(call.as_request(), value);
  }

 private:
  plan plan_;
  bool warns_of_one_class_;
};

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA kernels of fastloss. Private: pass GPU arrays to the functions of fastloss.";
  m.def("driver_version", &cuda::driver_version,
        "As CUDA writes it (13020 is 13.2); 0 without one.");
  m.def("runtime_version", &cuda::runtime_version, "Of the runtime that is linked in.");
  m.attr("ARCHITECTURES") = FASTLOSS_CUDA_ARCHITECTURES;
  m.attr("XLA_HANDLER") = py::capsule(reinterpret_cast<void*>(&cuda::xla_handler));
  m.def(
      "devices",
      [] {
        std::vector<std::tuple<std::string, std::pair<int, int>, int, std::size_t>> out;
        for (const cuda::device_info& d : cuda::devices())
          out.emplace_back(d.name, std::pair(d.major, d.minor), d.multiprocessors, d.memory);
        return out;
      },
      "(name, compute capability, multiprocessors, bytes of memory) of every device.");
  py::class_<device_plan>(m, "Plan")
      .def(py::init<const std::string&, bool>(), py::arg("line"), py::arg("warns_of_one_class"))
      .def_property_readonly("class_weight", &device_plan::class_weight)
      .def("run", &device_plan::run, py::arg("y_true"), py::arg("y_pred"), py::arg("reduction"),
           py::arg("sample_weight").none(true), py::arg("mask").none(true), py::arg("upstream"),
           py::arg("grad_pred").none(true), py::arg("grad_true").none(true),
           py::arg("class_weight"), py::arg("allocate"), py::arg("device"), py::arg("stream"),
           "Enqueues the loss. Arrays are (address, dtype, shape, strides).");
  m.def("run_ctc", &enqueue_ctc, py::arg("y_true"), py::arg("label_length").none(true),
        py::arg("y_pred"), py::arg("logit_length").none(true), py::arg("blank"),
        py::arg("reduction"), py::arg("sample_weight").none(true), py::arg("mask").none(true),
        py::arg("upstream"), py::arg("grad").none(true), py::arg("allocate"), py::arg("device"),
        py::arg("stream"), "The same for CTC.");
}
