#include "bind/tensorflow.h"

#include <dlfcn.h>

#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "operation.h"

// The part of tensorflow/c/{tf_status,tf_tensor,tf_datatype,ops,kernels}.h that is used here.
extern "C" {
struct TF_Status;
struct TF_Tensor;
struct TF_OpDefinitionBuilder;
struct TF_ShapeInferenceContext;
struct TF_ShapeHandle;
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
}

namespace fastloss {
namespace {

enum TF_Code { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8, TF_INTERNAL = 13 };

using shape_function = void (*)(TF_ShapeInferenceContext*, TF_Status*);
using create_function = void* (*)(TF_OpKernelConstruction*);
using compute_function = void (*)(void*, TF_OpKernelContext*);
using delete_function = void (*)(void*);

// TensorFlow's functions under their own names without the prefix "TF_".
struct c_api {
  TF_Status* (*NewStatus)();
  void (*DeleteStatus)(TF_Status*);
  int (*GetCode)(const TF_Status*);
  const char* (*Message)(const TF_Status*);
  void (*SetStatus)(TF_Status*, int, const char*);

  TF_OpDefinitionBuilder* (*NewOpDefinitionBuilder)(const char*);
  void (*OpDefinitionBuilderAddInput)(TF_OpDefinitionBuilder*, const char*);
  void (*OpDefinitionBuilderAddOutput)(TF_OpDefinitionBuilder*, const char*);
  void (*OpDefinitionBuilderAddAttr)(TF_OpDefinitionBuilder*, const char*);
  void (*OpDefinitionBuilderSetShapeInferenceFunction)(TF_OpDefinitionBuilder*, shape_function);
  void (*RegisterOpDefinition)(TF_OpDefinitionBuilder*, TF_Status*);
  void (*ShapeInferenceContextSetUnknownShape)(TF_ShapeInferenceContext*, TF_Status*);
  TF_ShapeHandle* (*NewShapeHandle)();
  void (*DeleteShapeHandle)(TF_ShapeHandle*);
  void (*ShapeInferenceContextGetInput)(TF_ShapeInferenceContext*, int, TF_ShapeHandle*,
                                        TF_Status*);
  void (*ShapeInferenceContextSetOutput)(TF_ShapeInferenceContext*, int, TF_ShapeHandle*,
                                         TF_Status*);

  TF_KernelBuilder* (*NewKernelBuilder)(const char*, const char*, create_function, compute_function,
                                        delete_function);
  void (*RegisterKernelBuilder)(const char*, TF_KernelBuilder*, TF_Status*);
  void (*OpKernelConstruction_GetAttrSize)(TF_OpKernelConstruction*, const char*, int32_t*,
                                           int32_t*, TF_Status*);
  void (*OpKernelConstruction_GetAttrString)(TF_OpKernelConstruction*, const char*, char*, size_t,
                                             TF_Status*);
  void (*OpKernelConstruction_Failure)(TF_OpKernelConstruction*, TF_Status*);

  int (*NumInputs)(TF_OpKernelContext*);
  void (*GetInput)(TF_OpKernelContext*, int, TF_Tensor**, TF_Status*);
  void (*SetOutput)(TF_OpKernelContext*, int, const TF_Tensor*, TF_Status*);
  int (*ExpectedOutputDataType)(TF_OpKernelContext*, int);
  TF_Tensor* (*AllocateOutput)(TF_OpKernelContext*, int, int, const int64_t*, int, size_t,
                               TF_Status*);
  TF_Tensor* (*ForwardInputOrAllocateOutput)(TF_OpKernelContext*, const int*, int, int,
                                             const int64_t*, int, int*, TF_Status*);
  void (*OpKernelContext_Failure)(TF_OpKernelContext*, TF_Status*);

  int (*TensorType)(const TF_Tensor*);
  int (*NumDims)(const TF_Tensor*);
  int64_t (*Dim)(const TF_Tensor*, int);
  void* (*TensorData)(const TF_Tensor*);
  void (*DeleteTensor)(TF_Tensor*);
};

c_api tf;

template <class Function>
void find(void* library, const char* name, Function*& function, std::string& missing) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (!function) missing += (missing.empty() ? "" : ", ") + std::string(name);
}

void find_all(void* library) {
  std::string missing;
#define FASTLOSS_FIND(name) find(library, "TF_" #name, tf.name, missing)
  FASTLOSS_FIND(NewStatus);
  FASTLOSS_FIND(DeleteStatus);
  FASTLOSS_FIND(GetCode);
  FASTLOSS_FIND(Message);
  FASTLOSS_FIND(SetStatus);
  FASTLOSS_FIND(NewOpDefinitionBuilder);
  FASTLOSS_FIND(OpDefinitionBuilderAddInput);
  FASTLOSS_FIND(OpDefinitionBuilderAddOutput);
  FASTLOSS_FIND(OpDefinitionBuilderAddAttr);
  FASTLOSS_FIND(OpDefinitionBuilderSetShapeInferenceFunction);
  FASTLOSS_FIND(RegisterOpDefinition);
  FASTLOSS_FIND(ShapeInferenceContextSetUnknownShape);
  FASTLOSS_FIND(NewShapeHandle);
  FASTLOSS_FIND(DeleteShapeHandle);
  FASTLOSS_FIND(ShapeInferenceContextGetInput);
  FASTLOSS_FIND(ShapeInferenceContextSetOutput);
  FASTLOSS_FIND(NewKernelBuilder);
  FASTLOSS_FIND(RegisterKernelBuilder);
  FASTLOSS_FIND(OpKernelConstruction_GetAttrSize);
  FASTLOSS_FIND(OpKernelConstruction_GetAttrString);
  FASTLOSS_FIND(OpKernelConstruction_Failure);
  FASTLOSS_FIND(NumInputs);
  FASTLOSS_FIND(GetInput);
  FASTLOSS_FIND(SetOutput);
  FASTLOSS_FIND(ExpectedOutputDataType);
  FASTLOSS_FIND(AllocateOutput);
  FASTLOSS_FIND(ForwardInputOrAllocateOutput);
  FASTLOSS_FIND(OpKernelContext_Failure);
  FASTLOSS_FIND(TensorType);
  FASTLOSS_FIND(NumDims);
  FASTLOSS_FIND(Dim);
  FASTLOSS_FIND(TensorData);
  FASTLOSS_FIND(DeleteTensor);
#undef FASTLOSS_FIND
  if (!missing.empty()) throw std::runtime_error("this TensorFlow lacks " + missing);
}

struct status {
  TF_Status* const s = tf.NewStatus();
  status() = default;
  status(const status&) = delete;
  ~status() { tf.DeleteStatus(s); }
  void check() const {
    if (tf.GetCode(s) != TF_OK) throw std::runtime_error(tf.Message(s));
  }
};

struct delete_tensor {
  void operator()(TF_Tensor* t) const { tf.DeleteTensor(t); }
};
using tensor = std::unique_ptr<TF_Tensor, delete_tensor>;

dtype type_of(int tf_type) {
  switch (tf_type) {
    case 1: return dtype::f32;
    case 2: return dtype::f64;
    case 3: return dtype::i32;
    case 4: return dtype::u8;
    case 5: return dtype::i16;
    case 6: return dtype::i8;
    case 9: return dtype::i64;
    case 10: return dtype::boolean;
    case 14: return dtype::bf16;
    case 17: return dtype::u16;
    case 19: return dtype::f16;
    case 22: return dtype::u32;
    case 23: return dtype::u64;
  }
  throw argument_error("expected tensors of real numbers");
}

int64_t size_of(dtype type) { return contiguous(nullptr, type, {1}).strides[0]; }

array as_array(const tensor& t) {
  shape sizes(tf.NumDims(t.get()));
  for (std::size_t d = 0; d < sizes.size(); ++d) sizes[d] = tf.Dim(t.get(), static_cast<int>(d));
  return contiguous(tf.TensorData(t.get()), type_of(tf.TensorType(t.get())), std::move(sizes));
}

class context {
 public:
  explicit context(TF_OpKernelContext* c) : c_(c) {}

  tensor input(int i) const {
    TF_Tensor* t = nullptr;
    tf.GetInput(c_, i, &t, status_.s);
    status_.check();
    return tensor(t);
  }
  tensor allocate(int i, const shape& sizes) const {
    const int type = tf.ExpectedOutputDataType(c_, i);
    int64_t bytes = size_of(type_of(type));
    for (int64_t n : sizes) bytes *= n;
    tensor t(tf.AllocateOutput(c_, i, type, sizes.data(), static_cast<int>(sizes.size()), bytes,
                               status_.s));
    status_.check();
    return t;
  }
  // Output i in the memory of an input of its size and type, if nobody else needs that: no handle
  // on the input may be left. Otherwise newly allocated.
  tensor forward_or_allocate(int input, int i, const shape& sizes) const {
    int forwarded = -1;
    tensor t(tf.ForwardInputOrAllocateOutput(
        c_, &input, 1, i, sizes.data(), static_cast<int>(sizes.size()), &forwarded, status_.s));
    status_.check();
    return t;
  }
  void set_output(int i, const tensor& t) const {
    tf.SetOutput(c_, i, t.get(), status_.s);
    status_.check();
  }
  int expected_type(int i) const { return tf.ExpectedOutputDataType(c_, i); }
  int input_count() const { return tf.NumInputs(c_); }

  // Runs `body`; what it throws becomes the op's failure. Nothing may be thrown into TensorFlow.
  template <class Body>
  void run(Body body) const {
    const auto fail = [this](int code, const char* message) {
      tf.SetStatus(status_.s, code, message);
      tf.OpKernelContext_Failure(c_, status_.s);
    };
    try {
      body();
    } catch (const std::invalid_argument& e) {
      fail(TF_INVALID_ARGUMENT, e.what());
    } catch (const std::bad_alloc&) {
      fail(TF_RESOURCE_EXHAUSTED, "fastloss: not enough memory");
    } catch (const std::exception& e) {
      fail(TF_INTERNAL, e.what());
    }
  }

 private:
  TF_OpKernelContext* c_;
  status status_;
};

std::string string_attribute(TF_OpKernelConstruction* c, const char* name) {
  status s;
  int32_t list_size = 0, total_size = 0;
  tf.OpKernelConstruction_GetAttrSize(c, name, &list_size, &total_size, s.s);
  s.check();
  std::string value(total_size, '\0');
  tf.OpKernelConstruction_GetAttrString(c, name, value.data(), value.size(), s.s);
  s.check();
  return value;
}

// Makes the state of a kernel from its string attribute `name`.
template <class State, class Parse>
void* create(TF_OpKernelConstruction* c, const char* name, Parse parse) {
  try {
    return new State(parse(string_attribute(c, name)));
  } catch (const std::exception& e) {
    status s;
    tf.SetStatus(s.s, TF_INVALID_ARGUMENT, e.what());
    tf.OpKernelConstruction_Failure(c, s.s);
    return nullptr;
  }
}

// ---- the loss ----

void* create_loss(TF_OpKernelConstruction* c) {
  return create<operation>(c, "call", [](const std::string& line) { return operation(line); });
}
void delete_loss(void* state) { delete static_cast<operation*>(state); }

void compute_loss(void* state, TF_OpKernelContext* tf_context) {
  const context c(tf_context);
  c.run([&] {
    std::vector<array> inputs;
    // TensorFlow holds the inputs until the op has run.
    for (int i = 0; i < c.input_count(); ++i) inputs.push_back(as_array(c.input(i)));
    std::vector<tensor> outputs;
    static_cast<const operation*>(state)->run(inputs, [&](std::size_t i, const shape& sizes) {
      const int index = static_cast<int>(i);
      // A kernel may write the gradient over y_pred: it reads each element before.
      const array& y_pred = inputs[1];
      const bool fits = sizes == y_pred.sizes && type_of(c.expected_type(index)) == y_pred.type;
      outputs.push_back(fits ? c.forward_or_allocate(1, index, sizes) : c.allocate(index, sizes));
      return as_array(outputs.back());
    });
  });
}

// What the shapes of the outputs are depends on the call, which a shape function cannot see.
// Python, which wrote the call, sets them.
void unknown_shapes(TF_ShapeInferenceContext* c, TF_Status* s) {
  tf.ShapeInferenceContextSetUnknownShape(c, s);
}

// ---- gradient times upstream ----

void* create_scale(TF_OpKernelConstruction* c) {
  return create<axis_list>(c, "axes", [](const std::string& line) {
    axis_list axes;
    std::istringstream words(line);
    for (int a; words >> a;) axes.push_back(a);
    return axes;
  });
}
void delete_scale(void* state) { delete static_cast<axis_list*>(state); }

bool is_one(const array& a) {
  return a.sizes.empty() && ((a.type == dtype::f32 && *reinterpret_cast<float*>(a.data) == 1) ||
                             (a.type == dtype::f64 && *reinterpret_cast<double*>(a.data) == 1));
}

void compute_scale(void* state, TF_OpKernelContext* tf_context) {
  const context c(tf_context);
  c.run([&] {
    tensor grad = c.input(0), upstream = c.input(1);
    const array g = as_array(grad), u = as_array(upstream);
    const bool same_type = type_of(c.expected_type(0)) == g.type;
    if (same_type && is_one(u)) {
      c.set_output(0, grad);
      return;
    }
    // A second reference would keep the memory from being forwarded; TensorFlow holds its own.
    if (same_type) grad.reset();
    const tensor out = same_type ? c.forward_or_allocate(0, 0, g.sizes) : c.allocate(0, g.sizes);
    scale_gradient(g, u, *static_cast<const axis_list*>(state), as_array(out));
  });
}

void shape_of_first_input(TF_ShapeInferenceContext* c, TF_Status* s) {
  TF_ShapeHandle* first = tf.NewShapeHandle();
  tf.ShapeInferenceContextGetInput(c, 0, first, s);
  if (tf.GetCode(s) == TF_OK) tf.ShapeInferenceContextSetOutput(c, 0, first, s);
  tf.DeleteShapeHandle(first);
}

void register_op(const char* name, const std::vector<const char*>& inputs,
                 const std::vector<const char*>& outputs,
                 const std::vector<const char*>& attributes, shape_function shapes,
                 create_function create, compute_function compute, delete_function destroy) {
  const status s;
  TF_OpDefinitionBuilder* op = tf.NewOpDefinitionBuilder(name);
  for (const char* x : inputs) tf.OpDefinitionBuilderAddInput(op, x);
  for (const char* x : outputs) tf.OpDefinitionBuilderAddOutput(op, x);
  for (const char* x : attributes) tf.OpDefinitionBuilderAddAttr(op, x);
  tf.OpDefinitionBuilderSetShapeInferenceFunction(op, shapes);
  tf.RegisterOpDefinition(op, s.s);
  s.check();
  TF_KernelBuilder* kernel = tf.NewKernelBuilder(name, "CPU", create, compute, destroy);
  tf.RegisterKernelBuilder(name, kernel, s.s);
  s.check();
}

bool register_ops(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (!library) throw std::runtime_error("TensorFlow's library is not loaded: " + path);
  find_all(library);
  register_op(tensorflow_loss_op, {"inputs: Tin"}, {"outputs: Tout"},
              {"call: string", "Tin: list(type)", "Tout: list(type)"}, unknown_shapes, create_loss,
              compute_loss, delete_loss);
  register_op(tensorflow_scale_op, {"grad: T", "upstream: U"}, {"scaled: S"},
              {"axes: string", "T: type", "U: type", "S: type"}, shape_of_first_input, create_scale,
              compute_scale, delete_scale);
  return true;
}

}  // namespace

void register_tensorflow_ops(const std::string& path) {
  [[maybe_unused]] static const bool once = register_ops(path);
}

}  // namespace fastloss
