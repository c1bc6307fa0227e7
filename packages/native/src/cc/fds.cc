// eventfd, pipe, signalling, ioctl, locks: one system call each.
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

namespace tsvmm {
namespace {

/** As much as a pipe holds by default. */
constexpr size_t kDrainMost = 65536;
/** More than any request without an encoded size moves. */
constexpr size_t kLegacyIoctlSize = 8192;
/** Below the kernel's mmap_min_addr nothing is ever mapped, so such an integer cannot be an address. */
constexpr uint64_t kFirstAddress = 65536;

Napi::Value EventFd(const Napi::CallbackInfo& info) {
  auto initial = static_cast<unsigned>(CheckInteger(info[0], "initial", 0, UINT32_MAX));
  return Napi::Number::New(info.Env(), Check(info.Env(), eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd2"));
}

Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int ends[2];
  Check(info.Env(), pipe2(ends, O_CLOEXEC | O_NONBLOCK), "pipe2");
  return MakeRow(info.Env(), {double(ends[0]), double(ends[1])});
}

/** Sets or clears O_NONBLOCK; false with errno on failure. */
bool SetNonBlocking(int fd, bool on) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return false;
  int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  return wanted == flags || fcntl(fd, F_SETFL, wanted) == 0;
}

/** One transfer that cannot wait. Files without RWF_NOWAIT (eventfd writes) fall back to O_NONBLOCK. */
ssize_t TransferNoWait(int fd, bool out, void* data, size_t length, bool fall_back = false) {
  // SAFETY: data and length are the caller's local buffer in full, here and below.
  iovec part{data, length};
  if (!fall_back) {
    auto* transfer = out ? pwritev2 : preadv2;
    ssize_t moved = Retry([&] { return transfer(fd, &part, 1, -1, RWF_NOWAIT); });
    if (moved >= 0 || errno != EOPNOTSUPP) return moved;
  }
  if (!SetNonBlocking(fd, true)) return -1;
  return Retry([&] { return out ? write(fd, data, length) : read(fd, data, length); });
}

Napi::Value Signal(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  bool is_event_fd = CheckBoolean(info[1], "isEventFd");
  uint64_t one = 1;
  if (TransferNoWait(fd, true, &one, sizeof one, is_event_fd) >= 0) return Napi::Boolean::New(info.Env(), true);
  if (errno != EAGAIN) ThrowErrno(info.Env(), errno, "write");
  return Napi::Boolean::New(info.Env(), false);
}

Napi::Value Drain(const Napi::CallbackInfo& info) {
  uint8_t scratch[kDrainMost];
  ssize_t got = TransferNoWait(CheckFd(info[0]), false, scratch, sizeof scratch);
  if (got < 0 && errno != EAGAIN) ThrowErrno(info.Env(), errno, "read");
  // Nothing yet is 0, so the end of the file is -1.
  return Napi::Number::New(info.Env(), got < 0 ? 0 : got == 0 ? -1 : static_cast<double>(got));
}

void CloseFd(const Napi::CallbackInfo& info) {
  // Linux releases the number even when close reports EINTR, so it is never tried again.
  if (close(CheckFd(info[0])) != 0 && errno != EINTR) ThrowErrno(info.Env(), errno, "close");
}

Napi::Value DuplicateFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Duplicate(info.Env(), CheckFd(info[0])).Release());
}

void SetNonBlockingFd(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  if (!SetNonBlocking(fd, CheckBoolean(info[1], "on"))) ThrowErrno(info.Env(), errno, "fcntl");
}

/** F_GET_SEALS, -1 for what is not tmpfs, memfd or hugetlbfs. Unlike fstat it never asks a file system. */
Napi::Value GetSeals(const Napi::CallbackInfo& info) {
  int seals = fcntl(CheckFd(info[0]), F_GET_SEALS);
  if (seals < 0 && errno == EBADF) ThrowErrno(info.Env(), errno, "fcntl");
  return Napi::Number::New(info.Env(), seals);
}

Napi::Value Ioctl(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = CheckFd(info[0]);
  auto request = static_cast<unsigned long>(CheckInteger(info[1], "request", 0, UINT32_MAX));
  size_t encoded = _IOC_SIZE(request);
  if (!info[2].IsBigInt()) {
    Bytes view = CheckView(info[2], "arg");
    size_t least = encoded > 0 ? encoded : kLegacyIoctlSize;
    if (view.length < least) {
      throw Napi::RangeError::New(env, "the request needs a view of " + std::to_string(least) + " bytes");
    }
    // SAFETY: the view has at least the bytes that the request moves (checked above).
    return Napi::Number::New(env, Check(env, ioctl(fd, request, view.data), "ioctl"));
  }
  bool lossless = false;
  uint64_t number = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw Napi::RangeError::New(env, "arg must be an integer from 0 to 2^64 - 1");
  bool takes_structure = _IOC_DIR(request) != _IOC_NONE && encoded > 0;
  if (takes_structure && number >= kFirstAddress) ThrowType(env, "arg", "a view, as the request takes a structure");
  return Napi::Number::New(env, Check(env, ioctl(fd, request, number), "ioctl"));
}

Napi::Value PollReadable(const Napi::CallbackInfo& info) {
  pollfd one{CheckFd(info[0]), POLLIN, 0};
  timespec limit{0, static_cast<long>(CheckInteger(info[1], "timeoutUs", 0, 50)) * 1000};
  int ready = ppoll(&one, 1, &limit, nullptr);
  if (ready < 0 && errno != EINTR) ThrowErrno(info.Env(), errno, "ppoll");
  if (one.revents & POLLNVAL) ThrowErrno(info.Env(), EBADF, "ppoll");
  return Napi::Boolean::New(info.Env(), ready > 0);
}

Napi::Value LockFile(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  struct flock whole = {};
  whole.l_type = static_cast<short>(CheckInteger(info[1], "type", 0, 2));
  whole.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno != EAGAIN && errno != EACCES) ThrowErrno(info.Env(), errno, "fcntl");
  return Napi::Boolean::New(info.Env(), false);
}

}  // namespace

void RegisterFds(Napi::Env env, Napi::Object exports) {
  static_assert(F_RDLCK == 0 && F_WRLCK == 1 && F_UNLCK == 2, "src/fd.ts has these numbers");
  Export<EventFd>(env, exports, "eventFd");
  Export<Pipe>(env, exports, "pipe");
  Export<Signal>(env, exports, "signal");
  Export<Drain>(env, exports, "drain");
  Export<CloseFd>(env, exports, "closeFd");
  Export<DuplicateFd>(env, exports, "duplicateFd");
  Export<SetNonBlockingFd>(env, exports, "setNonBlocking");
  Export<GetSeals>(env, exports, "getSeals");
  Export<Ioctl>(env, exports, "ioctl");
  Export<PollReadable>(env, exports, "pollReadable");
  Export<LockFile>(env, exports, "lockFile");
}

}  // namespace tsvmm
