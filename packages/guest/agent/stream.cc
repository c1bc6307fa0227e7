#include "stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

namespace agent {

namespace {
constexpr size_t kHeldMax = 128 * 1024;
}  // namespace

Status await_stream(int fd) {
  pollfd wait{fd, POLLOUT, 0};
  while (poll(&wait, 1, -1) < 0 && errno == EINTR) continue;
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) return errno_status("connect to the host", error);
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) != 0) return errno_status("stream", errno);
  return {};
}

Status StreamWriter::put(std::string_view bytes) {
  held_.append(bytes);
  return held_.size() >= kHeldMax ? flush() : Status{};
}

Status StreamWriter::finish() {
  const Status status = flush();
  shutdown(fd_, SHUT_WR);
  return status;
}

Status StreamWriter::flush() {
  for (size_t sent = 0; sent < held_.size();) {
    const ssize_t n = send(fd_, held_.data() + sent, held_.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_status("send to the host", errno);
    sent += static_cast<size_t>(n);
  }
  held_.clear();
  return {};
}

}  // namespace agent
