// eventfd, pipe, signalling, ioctl, locks: one system call each.
#include "check.h"

#include <cstring>
#include <poll.h>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

namespace tsvmm {

bool SetNonBlocking(int fd, bool on) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return false;
  int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  return wanted == flags || fcntl(fd, F_SETFL, wanted) == 0;
}

namespace {

constexpr size_t kDrainChunk = 4096;
constexpr int kDrainRounds = 256;
constexpr size_t kLegacyIoctlSize = 4096;
/** Below the kernel's mmap_min_addr nothing is ever mapped, so such an integer cannot be an address. */
constexpr double kFirstAddress = 65536;

Napi::Value EventFd(const Napi::CallbackInfo& info) {
  auto initial = static_cast<unsigned>(CheckInteger(info[0], "initial", 0, UINT32_MAX));
  return Napi::Number::New(info.Env(), Check(info.Env(), eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd2"));
}

Napi::Value Pipe(const Napi::CallbackInfo& info) {
  int ends[2];
  Check(info.Env(), pipe2(ends, O_CLOEXEC | O_NONBLOCK), "pipe2");
  return MakeRow(info.Env(), {double(ends[0]), double(ends[1])});
}

/** One transfer that cannot wait. Files without RWF_NOWAIT (eventfd writes) fall back to O_NONBLOCK. */
ssize_t TransferNoWait(int fd, bool out, void* data, size_t length, bool fall_back = false) {
  iovec part{data, length};
  for (;;) {
    ssize_t moved = -1;
    if (!fall_back) moved = out ? pwritev2(fd, &part, 1, -1, RWF_NOWAIT) : preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    if (moved < 0 && (fall_back || errno == EOPNOTSUPP)) {
      if (!SetNonBlocking(fd, true)) return -1;
      // SAFETY: data and length are the caller's local buffer in full.
      moved = out ? write(fd, data, length) : read(fd, data, length);
    }
    if (moved >= 0 || errno != EINTR) return moved;
  }
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
  int fd = CheckFd(info[0]);
  uint8_t scratch[kDrainChunk];
  double total = 0;
  for (int round = 0; round < kDrainRounds; round++) {
    ssize_t got = TransferNoWait(fd, false, scratch, sizeof scratch);
    if (got < 0) {
      if (errno == EAGAIN || total > 0) break;
      ThrowErrno(info.Env(), errno, "read");
    }
    if (got == 0) return Napi::Number::New(info.Env(), total > 0 ? total : -1);
    total += static_cast<double>(got);
    if (static_cast<size_t>(got) < sizeof scratch) break;
  }
  return Napi::Number::New(info.Env(), total);
}

Napi::Value CloseFd(const Napi::CallbackInfo& info) {
  // Linux releases the number even when close reports EINTR, so it is never tried again.
  if (close(CheckFd(info[0])) != 0 && errno != EINTR) ThrowErrno(info.Env(), errno, "close");
  return info.Env().Undefined();
}

Napi::Value DuplicateFd(const Napi::CallbackInfo& info) {
  int copy = fcntl(CheckFd(info[0]), F_DUPFD_CLOEXEC, 3);
  return Napi::Number::New(info.Env(), Check(info.Env(), copy, "fcntl"));
}

Napi::Value SetNonBlockingFd(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  if (!SetNonBlocking(fd, CheckBoolean(info[1], "on"))) ThrowErrno(info.Env(), errno, "fcntl");
  return info.Env().Undefined();
}

/** F_GET_SEALS, -1 for what is not tmpfs, memfd or hugetlbfs. Unlike fstat it never asks a file system. */
Napi::Value GetSeals(const Napi::CallbackInfo& info) {
  int seals = fcntl(CheckFd(info[0]), F_GET_SEALS);
  if (seals < 0 && errno == EBADF) ThrowErrno(info.Env(), errno, "fcntl");
  return Napi::Number::New(info.Env(), seals);
}

/** An ioctl whose argument is a view. */
int IoctlView(Napi::Env env, int fd, unsigned long request, Bytes view) {
  size_t encoded = _IOC_SIZE(request);
  if (view.length < encoded) {
    throw Napi::RangeError::New(env, "the view has " + std::to_string(view.length) + " bytes but the request moves " +
                                         std::to_string(encoded));
  }
  if (encoded > 0) {
    // SAFETY: the view has at least the bytes the request declares (checked above).
    return ioctl(fd, request, view.data);
  }
  // A request from before _IOC: its size is unknown here, so the kernel gets room to spare.
  if (view.length > kLegacyIoctlSize) {
    throw Napi::RangeError::New(env, "a request without a size takes at most 4096 bytes");
  }
  alignas(16) uint8_t scratch[2 * kLegacyIoctlSize] = {};
  if (view.length > 0) memcpy(scratch, view.data, view.length);
  // SAFETY: no request without an encoded size moves more than 8 KiB; scratch is ours.
  int result = ioctl(fd, request, scratch);
  int error = errno;
  if (view.length > 0) memcpy(view.data, scratch, view.length);
  errno = error;
  return result;
}

Napi::Value Ioctl(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = CheckFd(info[0]);
  auto request = static_cast<unsigned long>(CheckInteger(info[1], "request", 0, UINT32_MAX));
  Napi::Value arg = info[2];
  if (!arg.IsNumber() && !arg.IsBigInt()) {
    return Napi::Number::New(env, Check(env, IoctlView(env, fd, request, CheckView(arg, "arg")), "ioctl"));
  }
  uint64_t number;
  if (arg.IsBigInt()) {
    bool lossless = false;
    number = arg.As<Napi::BigInt>().Uint64Value(&lossless);
    if (!lossless) throw Napi::RangeError::New(env, "arg must be an integer from 0 to 2^64 - 1");
  } else {
    number = static_cast<uint64_t>(CheckInteger(arg, "arg", 0, 9007199254740991.0));
  }
  bool takes_structure = _IOC_DIR(request) != _IOC_NONE && _IOC_SIZE(request) > 0;
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
