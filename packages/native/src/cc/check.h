// Argument checks and errno reporting, in one place. What fails here is a TypeError, a RangeError or a SysError
// thrown into JavaScript; no function goes on with a value that was not checked.
#pragma once

#include <napi.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include <unistd.h>

namespace tsvmm {

class Ring;

/** Per isolate; there are no other variables that outlive a call, except the SIGBUS table in mapping.cc. */
struct Instance {
  Napi::FunctionReference error_class;
  Napi::FunctionReference mapping_class;
  /** See ring.h; nullptr before it is first wanted, and where there is none. */
  Ring* ring = nullptr;
  bool ring_tried = false;
  /** The user wants none. */
  bool ring_refused = false;
};

/** An fd that is closed unless released. */
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }
  int Get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

/** The bytes of a view or buffer: valid until JavaScript runs again. */
struct Bytes {
  uint8_t* data;
  size_t length;
};

/** Throws SysError(error, syscall, detail). */
[[noreturn]] void ThrowErrno(Napi::Env env, int error, const char* syscall, const char* detail = nullptr);

/** Throws SysError for errno if `result` is negative. */
template <typename T>
T Check(Napi::Env env, T result, const char* syscall) {
  if (result < 0) ThrowErrno(env, errno, syscall);
  return result;
}

/** A duplicate, close-on-exec. */
UniqueFd Duplicate(Napi::Env env, int fd);

/** Calls again while a signal interrupts the system call. */
template <typename Call>
auto Retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

[[noreturn]] void ThrowType(Napi::Env env, const char* name, const char* expected);

/** An integer in [least, most]; both at most 2^53. */
double CheckInteger(Napi::Value value, const char* name, double least, double most);
int CheckFd(Napi::Value value);
bool CheckBoolean(Napi::Value value, const char* name);
/** UTF-8 without a NUL byte. */
std::string CheckString(Napi::Value value, const char* name);
/** Any ArrayBufferView of at least one byte. */
Bytes CheckView(Napi::Value value, const char* name);
/** An ArrayBuffer; one that is detached has no bytes. */
Bytes CheckArrayBuffer(Napi::Env env, napi_value value, const char* name);
Napi::Function CheckFunction(Napi::Value value, const char* name);
Napi::Array CheckArray(Napi::Value value, const char* name, uint32_t most);

/** Calls into JavaScript from the event loop. What the callback throws becomes an uncaughtException. */
void CallBack(napi_async_context context, const Napi::FunctionReference& callback,
              std::initializer_list<napi_value> arguments);

/** After a call into JavaScript: what it threw, if it did, becomes an uncaughtException. */
void ReportThrown(Napi::Env env, napi_status called);

/** An array of numbers. */
Napi::Array MakeRow(Napi::Env env, std::initializer_list<double> values);

void RegisterFds(Napi::Env env, Napi::Object exports);
void RegisterFiles(Napi::Env env, Napi::Object exports);
void RegisterMapping(Napi::Env env, Napi::Object exports);
void RegisterPoller(Napi::Env env, Napi::Object exports);
void RegisterReservation(Napi::Env env, Napi::Object exports);
void RegisterSockets(Napi::Env env, Napi::Object exports);
void RegisterIo(Napi::Env env, Napi::Object exports);
void RegisterExitTable(Napi::Env env, Napi::Object exports);
void RegisterVcpu(Napi::Env env, Napi::Object exports);

/** Adds one function, which returns a Napi::Value or nothing, to the addon. */
template <auto callback>
void Export(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<callback>(env, name));
}

}  // namespace tsvmm
