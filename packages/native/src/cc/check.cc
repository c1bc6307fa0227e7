#include "check.h"

#include <cmath>
#include <cstdio>

#include <fcntl.h>

namespace tsvmm {

void ThrowErrno(Napi::Env env, int error, const char* syscall, const char* detail) {
  auto* instance = env.GetInstanceData<Instance>();
  if (instance->error_class.IsEmpty()) throw Napi::Error::New(env, "setErrorClass was not called");
  Napi::Value tail = detail == nullptr ? env.Undefined() : Napi::Value(Napi::String::New(env, detail));
  Napi::Object made = instance->error_class.New(
      {Napi::Number::New(env, error), Napi::String::New(env, syscall), tail});
  throw Napi::Error(env, made);
}

UniqueFd Duplicate(Napi::Env env, int fd) { return UniqueFd(Check(env, fcntl(fd, F_DUPFD_CLOEXEC, 3), "fcntl")); }

void ThrowType(Napi::Env env, const char* name, const char* expected) {
  throw Napi::TypeError::New(env, std::string(name) + " must be " + expected);
}

[[noreturn]] static void ThrowRange(Napi::Env env, const char* name, double least, double most) {
  char text[160];
  snprintf(text, sizeof text, "%s must be an integer from %.0f to %.0f", name, least, most);
  throw Napi::RangeError::New(env, text);
}

double CheckInteger(Napi::Value value, const char* name, double least, double most) {
  double number;
  if (napi_get_value_double(value.Env(), value, &number) != napi_ok) ThrowType(value.Env(), name, "a number");
  if (!(number >= least && number <= most) || std::trunc(number) != number) {
    ThrowRange(value.Env(), name, least, most);
  }
  return number;
}

int CheckFd(Napi::Value value) { return static_cast<int>(CheckInteger(value, "fd", 0, INT32_MAX)); }

bool CheckBoolean(Napi::Value value, const char* name) {
  if (!value.IsBoolean()) ThrowType(value.Env(), name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string CheckString(Napi::Value value, const char* name) {
  if (!value.IsString()) ThrowType(value.Env(), name, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) ThrowType(value.Env(), name, "a string without a NUL character");
  return text;
}

Bytes CheckView(Napi::Value value, const char* name) {
  bool is_view = false;
  // Node answers true for every ArrayBufferView, and gives its bytes, also for a DataView.
  napi_is_buffer(value.Env(), value, &is_view);
  void* data = nullptr;
  size_t length = 0;
  if (is_view) is_view = napi_get_buffer_info(value.Env(), value, &data, &length) == napi_ok;
  if (!is_view) ThrowType(value.Env(), name, "an ArrayBufferView");
  if (length == 0) throw Napi::RangeError::New(value.Env(), std::string(name) + " must not be empty");
  // SAFETY: V8 keeps these bytes in place until JavaScript runs again; callers use them before they return.
  return {static_cast<uint8_t*>(data), length};
}

Bytes CheckArrayBuffer(Napi::Env env, napi_value value, const char* name) {
  void* data = nullptr;
  size_t length = 0;
  if (napi_get_arraybuffer_info(env, value, &data, &length) != napi_ok) ThrowType(env, name, "an ArrayBuffer");
  // SAFETY: V8 keeps these bytes in place until JavaScript runs again; callers use them before they return.
  return {static_cast<uint8_t*>(data), length};
}

Napi::Function CheckFunction(Napi::Value value, const char* name) {
  if (!value.IsFunction()) ThrowType(value.Env(), name, "a function");
  return value.As<Napi::Function>();
}

Napi::Array CheckArray(Napi::Value value, const char* name, uint32_t most) {
  if (!value.IsArray()) ThrowType(value.Env(), name, "an array");
  Napi::Array array = value.As<Napi::Array>();
  if (array.Length() > most) ThrowRange(value.Env(), (std::string(name) + ".length").c_str(), 0, most);
  return array;
}

void CallBack(napi_async_context context, const Napi::FunctionReference& callback,
              std::initializer_list<napi_value> arguments) {
  Napi::Env env = callback.Env();
  napi_value receiver = env.Global();
  ReportThrown(env, napi_make_callback(env, context, receiver, callback.Value(), arguments.size(), arguments.begin(),
                                       nullptr));
}

void ReportThrown(Napi::Env env, napi_status called) {
  napi_value error;
  if (called == napi_pending_exception && napi_get_and_clear_last_exception(env, &error) == napi_ok) {
    napi_fatal_exception(env, error);
  }
}

Napi::Array MakeRow(Napi::Env env, std::initializer_list<double> values) {
  auto row = Napi::Array::New(env, values.size());
  uint32_t index = 0;
  for (double value : values) row.Set(index++, Napi::Number::New(env, value));
  return row;
}

}  // namespace tsvmm
