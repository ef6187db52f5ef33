// The Python module: checks arrays, describes them as views, calls fastloss::run without the GIL.
// Nothing here knows a loss by name, and no array is copied.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "api.h"

namespace py = pybind11;
using namespace fastloss;
using std::int64_t;

namespace {

using shape = std::vector<int64_t>;

std::string text(const shape& s) {
  std::string out = "(";
  for (std::size_t i = 0; i < s.size(); ++i) out += (i ? ", " : "") + std::to_string(s[i]);
  return out + (s.size() == 1 ? ",)" : ")");
}

shape shape_of(const py::array& a) { return {a.shape(), a.shape() + a.ndim()}; }

dtype type_of(const py::array& a, const char* argument) {
  const py::dtype d = a.dtype();
  if (d.byteorder() != '>') switch (d.kind()) {
      case 'b': return dtype::boolean;
      case 'i':
        switch (d.itemsize()) {
          case 1: return dtype::i8;
          case 2: return dtype::i16;
          case 4: return dtype::i32;
          case 8: return dtype::i64;
        }
        break;
      case 'u':
        switch (d.itemsize()) {
          case 1: return dtype::u8;
          case 2: return dtype::u16;
          case 4: return dtype::u32;
          case 8: return dtype::u64;
        }
        break;
      case 'V':  // ml_dtypes registers it so
        if (d.itemsize() == 2 && py::str(d).cast<std::string>() == "bfloat16") return dtype::bf16;
        break;
      case 'f':
        if (d.itemsize() == 2) return dtype::f16;
        if (d.itemsize() == 4) return dtype::f32;
        if (d.itemsize() == 8) return dtype::f64;
    }
  throw py::type_error(std::string(argument) + ": dtype " + py::str(d).cast<std::string>() +
                       " is not supported; expected float16, bfloat16, float32 or float64, or for "
                       "targets and weights also bool or an integer, in native byte order");
}

// y_pred as rows x cols; tells where the other arrays of a call live on it.
class grid {
 public:
  grid(const py::array& y_pred, const std::vector<int>& axes) {
    std::vector<bool> is_col(y_pred.ndim(), false);
    for (int a : axes) {
      if (a < 0 || a >= y_pred.ndim()) throw py::value_error("axis out of range for y_pred");
      if (is_col[a]) throw py::value_error("axis names a dimension of y_pred twice");
      is_col[a] = true;
    }
    for (int d = 0; d < y_pred.ndim(); ++d) (is_col[d] ? col_dims_ : row_dims_).push_back(d);
    full_ = shape_of(y_pred);
    for (int d : row_dims_) rows_.push_back(full_[d]);
    for (int d : col_dims_) cols_.push_back(full_[d]);
  }
  int64_t rows() const { return product(rows_); }
  int64_t cols() const { return product(cols_); }
  int64_t inner_rows() const {
    int64_t n = 1;
    for (int d : row_dims_)
      if (!col_dims_.empty() && d > col_dims_.back()) n *= full_[d];
    return n;
  }
  const shape& row_shape() const { return rows_; }

  view on_grid(const py::array& a, const char* argument) const {
    expect(a, full_, argument);
    view v = start(a, argument);
    for (int d : row_dims_) v.axes.push_back({full_[d], a.strides(d)});
    for (int d : col_dims_) v.axes.push_back({full_[d], a.strides(d)});
    return v;
  }
  view on_rows(const py::array& a, const char* argument) const {
    expect(a, rows_, argument);
    return in_order(a, argument);
  }
  view on_cols(const py::array& a, const char* argument) const {
    expect(a, cols_, argument);
    return in_order(a, argument);
  }
  factor on_either(const py::array& a, const char* argument) const {
    if (shape_of(a) == rows_) return {on_rows(a, argument), false};
    return {on_grid(a, argument), true};
  }

 private:
  static int64_t product(const shape& s) {
    int64_t n = 1;
    for (int64_t x : s) n *= x;
    return n;
  }
  static void expect(const py::array& a, const shape& expected, const char* argument) {
    if (shape_of(a) != expected)
      throw py::value_error(std::string(argument) + ": expected shape " + text(expected) +
                            ", got " + text(shape_of(a)));
  }
  static view start(const py::array& a, const char* argument) {
    return {static_cast<char*>(const_cast<void*>(a.data())), type_of(a, argument), {}};
  }
  static view in_order(const py::array& a, const char* argument) {
    view v = start(a, argument);
    for (int d = 0; d < a.ndim(); ++d) v.axes.push_back({a.shape(d), a.strides(d)});
    return v;
  }
  std::vector<int> row_dims_, col_dims_;
  shape full_, rows_, cols_;
};

void expect_writable(const py::array& a, dtype type, const char* argument) {
  if (!a.writeable()) throw py::value_error(std::string(argument) + ": the array is read-only");
  if (type_of(a, argument) != type)
    throw py::type_error(std::string(argument) + ": expected another dtype, got " +
                         py::str(a.dtype()).cast<std::string>());
}

// "y_true[3, 1]: <rule>, got <label>"
std::string label_message(const py::array& y_true, int64_t row, const std::string& rule) {
  std::vector<py::ssize_t> index(y_true.ndim());
  for (std::size_t d = index.size(); d-- > 0; row /= y_true.shape(d))
    index[d] = row % y_true.shape(d);
  std::string where;
  for (py::ssize_t i : index) where += (where.empty() ? "" : ", ") + std::to_string(i);
  const py::object label = y_true.attr("item")(py::tuple(py::cast(index)));
  return "y_true" + (index.empty() ? "" : "[" + where + "]") + ": " + rule + ", got " +
         py::str(label).cast<std::string>();
}

double run_arrays(int loss, std::vector<double> parameters, const py::array& y_true,
                  const py::array& y_pred, const std::vector<int>& axes, double target_scale,
                  double target_shift, const std::optional<py::array>& class_weight,
                  std::optional<int64_t> ignore_class,
                  const std::optional<py::array>& sample_weight,
                  const std::optional<py::array>& mask, int reduce, double upstream,
                  const std::optional<py::array>& row_upstream,
                  const std::optional<py::array>& values, const std::optional<py::array>& grad_pred,
                  const std::optional<py::array>& grad_true, int threads) {
  if (loss < 0 || loss >= static_cast<int>(losses().size()))
    throw py::value_error("loss: no such index");
  const loss_info& info = losses()[loss];
  if (parameters.size() != info.parameters.size())
    throw py::value_error("parameters: " + info.name + " takes " +
                          std::to_string(info.parameters.size()) + ", got " +
                          std::to_string(parameters.size()));
  if (reduce < 0 || reduce > 3) throw py::value_error("reduction: must be 0 to 3");

  const grid g(y_pred, axes);
  request r;
  r.loss = loss;
  r.parameters = std::move(parameters);
  r.rows = g.rows();
  r.cols = g.cols();
  r.inner_rows = g.inner_rows();
  if (r.cols == 0) throw py::value_error("y_pred: the axes of the loss are empty");
  const dtype stored = type_of(y_pred, "y_pred");
  if (stored < dtype::f16)
    throw py::type_error("y_pred: expected a floating dtype, got " +
                         py::str(y_pred.dtype()).cast<std::string>());
  r.compute = stored == dtype::f64 ? dtype::f64 : dtype::f32;
  r.y_pred = g.on_grid(y_pred, "y_pred");
  r.y_true = info.sparse ? g.on_rows(y_true, "y_true") : g.on_grid(y_true, "y_true");
  r.target_scale = target_scale;
  r.target_shift = target_shift;
  if (class_weight) r.class_weight = g.on_cols(*class_weight, "class_weight");
  if (info.sparse) r.ignore_class = ignore_class;
  if (sample_weight) r.sample_weight = g.on_either(*sample_weight, "sample_weight");
  if (mask) r.mask = g.on_either(*mask, "mask");
  if (info.kind != "map" &&
      ((r.sample_weight && r.sample_weight->per_element) || (r.mask && r.mask->per_element)))
    throw py::value_error("sample_weight: " + info.name + " takes one weight per loss value");
  r.reduce = static_cast<reduction>(reduce);
  r.scalar_value = g.row_shape().empty();
  r.upstream = upstream;
  if (row_upstream) {
    if (r.reduce != reduction::none)
      throw py::value_error("upstream: an array needs reduction=None");
    r.row_upstream = g.on_rows(*row_upstream, "upstream");
  }
  if (values.has_value() != (r.reduce == reduction::none))
    throw py::value_error("values: wanted exactly when nothing is reduced");
  if (values) {
    expect_writable(*values, r.compute, "values");
    r.values = g.on_rows(*values, "values");
  }
  if (grad_pred) {
    expect_writable(*grad_pred, stored, "out");
    r.grad_pred = g.on_grid(*grad_pred, "out");
  }
  if (grad_true) {
    if (info.sparse) throw py::value_error("wrt: integer labels have no gradient");
    expect_writable(*grad_true, stored, "grad_true");
    r.grad_true = g.on_grid(*grad_true, "grad_true");
  }
  r.threads = threads;

  try {
    py::gil_scoped_release release;
    return run(r);
  } catch (const label_error& e) {
    // The GIL is back: `release` was destroyed before the handler runs.
    throw py::value_error(label_message(y_true, e.row, e.what()));
  }
}

using integers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
using reals = py::array_t<double, py::array::c_style | py::array::forcecast>;

// y_true (batch, labels), y_pred (batch, frames, classes); lengths, weight and slope (batch,).
void run_ctc_arrays(const integers& y_true, const integers& label_length, const py::array& y_pred,
                    const integers& logit_length, int64_t blank, const reals& weight,
                    const reals& slope, const py::array& values,
                    const std::optional<py::array>& grad, int threads) {
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
  r.y_pred = grid(y_pred, {2}).on_grid(y_pred, "y_pred");
  r.labels = y_true.data();
  r.label_length = label_length.data();
  r.logit_length = logit_length.data();
  r.weight = weight.data();
  r.slope = slope.data();
  expect_writable(values, r.compute, "values");
  r.values = grid(y_pred, {1, 2}).on_rows(values, "values");
  if (grad) {
    expect_writable(*grad, stored, "out");
    r.grad = grid(y_pred, {2}).on_grid(*grad, "out");
  }
  r.threads = threads;
  py::gil_scoped_release release;
  run_ctc(r);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled kernels of fastloss. Private: use the functions and classes of fastloss.";
  m.def(
      "losses",
      [] {
        std::vector<std::tuple<std::string, std::string, bool, std::vector<std::string>>> out;
        for (const loss_info& l : losses())
          out.emplace_back(l.name, l.kind, l.sparse, l.parameters);
        return out;
      },
      "(name, kind, takes integer labels, parameter names) of every compiled loss, by index.");
  m.def(
      "instruction_set", [] { return std::string(instruction_set()); },
      "The instruction set that the kernels run on.");
  m.def("max_threads", &max_threads, "The number of threads that OpenMP would use.");
  m.def("run", &run_arrays, py::arg("loss"), py::arg("parameters"), py::arg("y_true"),
        py::arg("y_pred"), py::arg("axes"), py::arg("target_scale"), py::arg("target_shift"),
        py::arg("class_weight").none(true), py::arg("ignore_class").none(true),
        py::arg("sample_weight").none(true), py::arg("mask").none(true), py::arg("reduction"),
        py::arg("upstream"), py::arg("row_upstream").none(true), py::arg("values").none(true),
        py::arg("grad_pred").none(true), py::arg("grad_true").none(true), py::arg("threads"),
        "Computes one loss; returns the reduced value and fills the given output arrays.");
  m.def("run_ctc", &run_ctc_arrays, py::arg("y_true"), py::arg("label_length"), py::arg("y_pred"),
        py::arg("logit_length"), py::arg("blank"), py::arg("weight"), py::arg("slope"),
        py::arg("values"), py::arg("grad").none(true), py::arg("threads"),
        "Fills the values (times weight) and the gradient (times slope) of every sample.");
}
