// Custom calls of XLA, through which TensorFlow and JAX run a loss: what the handlers for the CPU
// and for CUDA have in common. XLA's foreign function interface, version 0.1, which later versions
// accept; it is declared here, so that nothing of XLA is needed at build time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operation.h"

// The part of xla/ffi/api/c_api.h that is used here.
extern "C" {
struct XLA_FFI_Error;
struct XLA_FFI_Extension_Base {
  size_t struct_size;
  int type;  // 1: metadata
  XLA_FFI_Extension_Base* next;
};
struct XLA_FFI_Api_Version {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int major_version, minor_version;
};
struct XLA_FFI_Error_Create_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  const char* message;
  int code;  // as absl::StatusCode
};
struct XLA_FFI_Error_GetMessage_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Error* error;
  const char* message;
};
struct XLA_FFI_Error_Destroy_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Error* error;
};
struct XLA_FFI_Buffer {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int type;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct XLA_FFI_ByteSpan {
  const char* ptr;
  size_t len;
};
struct XLA_FFI_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int64_t size;
  int* types;
  void** args;
};
struct XLA_FFI_Attrs {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  int64_t size;
  int* types;
  XLA_FFI_ByteSpan** names;
  void** attrs;
};
struct XLA_FFI_Api;
struct XLA_FFI_ExecutionContext;
struct XLA_FFI_CallFrame {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  const XLA_FFI_Api* api;
  XLA_FFI_ExecutionContext* ctx;
  int stage;
  XLA_FFI_Args args;
  XLA_FFI_Args rets;
  XLA_FFI_Attrs attrs;
};
using XLA_FFI_Handler = XLA_FFI_Error*(XLA_FFI_CallFrame*);
struct XLA_FFI_Handler_Register_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_ByteSpan name, platform;
  XLA_FFI_Handler *instantiate, *prepare, *initialize, *execute;
  uint32_t traits;
};
struct XLA_FFI_Metadata {
  size_t struct_size;
  XLA_FFI_Api_Version api_version;
  uint32_t traits;
};
struct XLA_FFI_Metadata_Extension {
  XLA_FFI_Extension_Base base;
  XLA_FFI_Metadata* metadata;
};
struct XLA_FFI_Stream_Get_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_ExecutionContext* ctx;
  void* stream;  // out
};
struct XLA_FFI_DeviceMemory_Allocate_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_ExecutionContext* ctx;
  size_t size, alignment;
  void* data;  // out
};
struct XLA_FFI_DeviceMemory_Free_Args {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_ExecutionContext* ctx;
  size_t size;
  void* data;
};
struct XLA_FFI_Api {
  size_t struct_size;
  XLA_FFI_Extension_Base* extension_start;
  XLA_FFI_Api_Version api_version;
  const void* internal_api;
  XLA_FFI_Error* (*Error_Create)(XLA_FFI_Error_Create_Args*);
  void (*Error_GetMessage)(XLA_FFI_Error_GetMessage_Args*);
  void (*Error_Destroy)(XLA_FFI_Error_Destroy_Args*);
  XLA_FFI_Error* (*Handler_Register)(XLA_FFI_Handler_Register_Args*);
  XLA_FFI_Error* (*Stream_Get)(XLA_FFI_Stream_Get_Args*);
  void *TypeId_Register, *ExecutionContext_Get, *State_Set, *State_Get;
  XLA_FFI_Error* (*DeviceMemory_Allocate)(XLA_FFI_DeviceMemory_Allocate_Args*);
  XLA_FFI_Error* (*DeviceMemory_Free)(XLA_FFI_DeviceMemory_Free_Args*);
};
}

namespace fastloss::xla {

// The call that a frame asks for.
class call {
 public:
  explicit call(const XLA_FFI_CallFrame& frame);

  const operation& what() const { return what_; }
  std::vector<array> inputs() const;
  std::vector<operand> inputs_and_outputs() const;
  // Output i, for operation::run. Throws argument_error unless it has that shape.
  array output(std::size_t i, const shape& sizes) const;

 private:
  const XLA_FFI_CallFrame& frame_;
  const operation& what_;
};

// Answers XLA, which may only ask what the handler is: runs `execute` when a call is to be
// executed, and makes what it throws XLA's error.
XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, void (*execute)(const XLA_FFI_CallFrame&));

// Throws std::runtime_error with the message, if there is an error.
void expect_success(const XLA_FFI_Api* api, XLA_FFI_Error* error);

}  // namespace fastloss::xla
