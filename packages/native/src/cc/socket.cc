// AF_UNIX: listen, accept, connect, and messages with file descriptors. Nothing here ever blocks.
#include "check.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <poll.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace tsvmm {
namespace {

/** SCM_MAX_FD of the kernel (net/scm.h). */
constexpr uint32_t kMaxFds = 253;
constexpr int kStream = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
/** Added to the length of a message whose fds did not all arrive. */
constexpr double kTruncated = 4294967296.0;

struct Address {
  sockaddr_un name;
  socklen_t length;
  const sockaddr* Get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

Address CheckPath(Napi::Value value, const char* syscall) {
  std::string path = CheckString(value, "path");
  if (path.empty()) ThrowType(value.Env(), "path", "a string that is not empty");
  Address address = {};
  if (path.size() >= sizeof address.name.sun_path) {
    std::string detail = "the path has " + std::to_string(path.size()) + " bytes and a unix socket allows 107: " + path;
    ThrowErrno(value.Env(), ENAMETOOLONG, syscall, detail.c_str());
  }
  address.name.sun_family = AF_UNIX;
  memcpy(address.name.sun_path, path.c_str(), path.size() + 1);
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

Napi::Value UnixListen(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Address address = CheckPath(info[0], "bind");
  auto mode = static_cast<mode_t>(CheckInteger(info[1], "mode", 0, 0777));
  auto backlog = static_cast<int>(CheckInteger(info[2], "backlog", 0, INT32_MAX));
  UniqueFd fd(Check(env, socket(AF_UNIX, kStream, 0), "socket"));
  // Linux gives the new file the socket's own mode, so it is never open to others, not even for a moment.
  Check(env, fchmod(fd.Get(), mode), "fchmod");
  Check(env, bind(fd.Get(), address.Get(), address.length), "bind");
  if (listen(fd.Get(), backlog) != 0) {
    int error = errno;
    unlink(address.name.sun_path);
    ThrowErrno(env, error, "listen");
  }
  return Napi::Number::New(env, fd.Release());
}

Napi::Value UnixAccept(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  // A listening socket made by somebody else may be a blocking one.
  pollfd one{fd, POLLIN, 0};
  if (poll(&one, 1, 0) == 0) return info.Env().Undefined();
  int accepted = Retry([&] { return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); });
  if (accepted < 0 && errno == EAGAIN) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), Check(info.Env(), accepted, "accept4"));
}

Napi::Value UnixConnect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Address address = CheckPath(info[0], "connect");
  UniqueFd fd(Check(env, socket(AF_UNIX, kStream, 0), "socket"));
  int result = Retry([&] { return connect(fd.Get(), address.Get(), address.length); });
  if (result < 0) ThrowErrno(env, errno, "connect", address.name.sun_path);
  return Napi::Number::New(env, fd.Release());
}

Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  int ends[2];
  Check(info.Env(), socketpair(AF_UNIX, kStream, 0, ends), "socketpair");
  return MakeRow(info.Env(), {double(ends[0]), double(ends[1])});
}

/** setSendBuffer(fd, bytes): as much of it as this user may have; returns what it is now. */
Napi::Value SetSendBuffer(const Napi::CallbackInfo& info) {
  int fd = CheckFd(info[0]);
  auto bytes = static_cast<int>(CheckInteger(info[1], "bytes", 1, 1 << 30));
  // Beyond net.core.wmem_max only with CAP_NET_ADMIN.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
    Check(info.Env(), setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), "setsockopt");
  }
  socklen_t length = sizeof bytes;
  Check(info.Env(), getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &length), "getsockopt");
  return Napi::Number::New(info.Env(), bytes);
}

Napi::Value PeerCredentials(const Napi::CallbackInfo& info) {
  ucred peer = {};
  socklen_t length = sizeof peer;
  Check(info.Env(), getsockopt(CheckFd(info[0]), SOL_SOCKET, SO_PEERCRED, &peer, &length), "getsockopt");
  return MakeRow(info.Env(), {double(peer.pid), double(peer.uid), double(peer.gid)});
}

/** Room for the control message with the most fds that the kernel passes. */
struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(kMaxFds * sizeof(int))];
};

Napi::Value SendMessage(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = CheckFd(info[0]);
  Napi::Array list = CheckArray(info[2], "fds", kMaxFds);
  uint32_t count = list.Length();
  std::array<int, kMaxFds> fds;
  for (uint32_t i = 0; i < count; i++) fds[i] = CheckFd(list.Get(i));
  // Last, as reading the array above could have run JavaScript.
  Bytes bytes = CheckView(info[1], "bytes");
  // SAFETY: the view's bytes stay in place during the system call below.
  iovec part{bytes.data, bytes.length};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  Control control;
  if (count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    // SAFETY: controllen has room for this one header and `count` fds.
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds.data(), count * sizeof(int));
  }
  ssize_t sent = Retry([&] { return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  if (sent < 0 && errno == EAGAIN) return env.Undefined();
  return Napi::Number::New(env, static_cast<double>(Check(env, sent, "sendmsg")));
}

/** Takes every fd out of a received message: the first `most` are kept, all others closed. */
size_t TakeFds(msghdr* message, std::array<UniqueFd, kMaxFds>& fds, size_t most, bool* surplus) {
  size_t kept = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      // SAFETY: the kernel wrote cmsg_len bytes, which hold `count` fds.
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      UniqueFd owned(fd);
      if (kept < most) {
        fds[kept++] = std::move(owned);
      } else {
        *surplus = true;
      }
    }
  }
  return kept;
}

Napi::Value ReceiveMessage(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = CheckFd(info[0]);
  auto most = static_cast<size_t>(CheckInteger(info[2], "maxFds", 0, kMaxFds));
  Napi::Array result = CheckArray(info[3], "fds", 0);
  Bytes into = CheckView(info[1], "into");
  // SAFETY: the view's bytes stay in place during the system call below. Its length fits 32 bits in the result.
  iovec part{into.data, std::min<size_t>(into.length, UINT32_MAX)};
  // All of it: with less room the kernel would drop fds in silence, or round up to one more than asked for.
  Control control;
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  ssize_t got = Retry([&] { return recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (got < 0 && errno == EAGAIN) return Napi::Number::New(env, -1);
  Check(env, got, "recvmsg");
  bool truncated = (message.msg_flags & MSG_CTRUNC) != 0;
  std::array<UniqueFd, kMaxFds> fds;
  size_t count = TakeFds(&message, fds, most, &truncated);
  for (uint32_t i = 0; i < count; i++) result.Set(i, Napi::Number::New(env, fds[i].Get()));
  // Only now that JavaScript has them all: an exception above closes them.
  for (size_t i = 0; i < count; i++) fds[i].Release();
  return Napi::Number::New(env, static_cast<double>(got) + (truncated ? kTruncated : 0));
}

}  // namespace

void RegisterSockets(Napi::Env env, Napi::Object exports) {
  Export<UnixListen>(env, exports, "unixListen");
  Export<UnixAccept>(env, exports, "unixAccept");
  Export<UnixConnect>(env, exports, "unixConnect");
  Export<SocketPair>(env, exports, "socketPair");
  Export<SetSendBuffer>(env, exports, "setSendBuffer");
  Export<PeerCredentials>(env, exports, "peerCredentials");
  Export<SendMessage>(env, exports, "sendMessage");
  Export<ReceiveMessage>(env, exports, "receiveMessage");
}

}  // namespace tsvmm
