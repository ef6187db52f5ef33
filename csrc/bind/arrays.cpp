#include "bind/arrays.h"

#include <algorithm>
#include <atomic>

#include "bind/result_memory.h"

namespace fastloss::bind {
namespace {

using std::int64_t;

std::string name_of(const py::dtype& d) { return py::str(d).cast<std::string>(); }

// ml_dtypes registers bfloat16 as a void dtype of its own number.
bool is_bfloat16(const py::dtype& d) {
  static std::atomic<int> number{-1};
  if (d.num() == number.load(std::memory_order_relaxed)) return true;
  if (d.itemsize() != 2 || name_of(d) != "bfloat16") return false;
  number = d.num();
  return true;
}

// The bytes from the first to one past the last that belong to an array.
struct extent {
  std::uintptr_t first, end;
  explicit extent(const py::array& a) {
    first = end = reinterpret_cast<std::uintptr_t>(a.data());
    if (a.size() == 0) return;
    end += a.itemsize();
    for (py::ssize_t d = 0; d < a.ndim(); ++d) {
      const py::ssize_t reach = (a.shape(d) - 1) * a.strides(d);
      (reach < 0 ? first : end) += reach;
    }
  }
};

bool same_elements(const py::array& a, const py::array& b) {
  return a.data() == b.data() && a.ndim() == b.ndim() && a.dtype().num() == b.dtype().num() &&
         std::equal(a.shape(), a.shape() + a.ndim(), b.shape()) &&
         std::equal(a.strides(), a.strides() + a.ndim(), b.strides());
}

}  // namespace

shape shape_of(const py::array& a) { return {a.shape(), a.shape() + a.ndim()}; }

std::optional<dtype> known_type(const py::array& a) {
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
      case 'V':
        if (is_bfloat16(d)) return dtype::bf16;
        break;
      case 'f':
        if (d.itemsize() == 2) return dtype::f16;
        if (d.itemsize() == 4) return dtype::f32;
        if (d.itemsize() == 8) return dtype::f64;
    }
  return std::nullopt;
}

dtype type_of(const py::array& a, const char* argument) {
  if (const auto type = known_type(a)) return *type;
  throw py::type_error(std::string(argument) + ": dtype " + name_of(a.dtype()) +
                       " is not supported; expected float16, bfloat16, float32 or float64, or for "
                       "targets and weights also bool or an integer, in native byte order");
}

fastloss::array as_array(const py::array& a, const char* argument) {
  return {static_cast<char*>(const_cast<void*>(a.data())),
          type_of(a, argument),
          shape_of(a),
          {a.strides(), a.strides() + a.ndim()}};
}

view as_view(const py::array& a, const char* argument) {
  view v{static_cast<char*>(const_cast<void*>(a.data())), type_of(a, argument), {}};
  for (py::ssize_t d = 0; d < a.ndim(); ++d) v.axes.push_back({a.shape(d), a.strides(d)});
  return v;
}

bool is_array(py::handle x) { return Py_TYPE(x.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

void check_out(py::handle out, const py::array& y_pred) {
  if (!is_array(out))
    throw py::type_error(std::string("out: expected a NumPy array, got ") +
                         Py_TYPE(out.ptr())->tp_name);
  const auto a = py::reinterpret_borrow<py::array>(out);
  if (a.ndim() != y_pred.ndim() || !std::equal(a.shape(), a.shape() + a.ndim(), y_pred.shape()))
    throw py::value_error("out: expected the shape of y_pred, " + text(shape_of(y_pred)) +
                          ", got " + text(shape_of(a)));
  if (known_type(a) != known_type(y_pred))
    throw py::type_error("out: expected the dtype of y_pred, " + name_of(y_pred.dtype()) +
                         ", got " + name_of(a.dtype()));
  if (!a.writeable()) throw py::value_error("out: expected a writable array, got a read-only one");
  for (py::ssize_t d = 0; d < a.ndim(); ++d)
    if (a.strides(d) == 0 && a.shape(d) > 1 && a.size() > 0)
      throw py::value_error("out: expected an array whose elements do not share memory");
}

py::array empty(const shape& s, const py::dtype& d) {
  std::size_t bytes = d.itemsize();
  for (int64_t n : s) bytes *= n;
  const result_memory memory = allocate_result(bytes);
  return py::array(d, s, memory.first, memory.owner);
}

bool may_fill(const py::array& out, const py::array& a) {
  const extent x(out), y(a);
  return x.end <= y.first || y.end <= x.first || same_elements(out, a);
}

}  // namespace fastloss::bind
