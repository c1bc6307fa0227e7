#include "stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace agent {

namespace {
constexpr size_t kHeldMax = 128 * 1024;
}  // namespace

Status await_stream(int fd) {
  // One that the host has left again never takes a byte, but has an end to read.
  pollfd wait{fd, POLLOUT | POLLIN, 0};
  while (poll(&wait, 1, -1) < 0 && errno == EINTR) continue;
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) return errno_status("connect to the host", error);
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) != 0) return errno_status("stream", errno);
  return {};
}

Status StreamReader::get(size_t size, std::string& out) {
  out.clear();
  for (int error = 0; out.size() < size;) {
    if (used_ == held_.size() && !fill(error))
      return error == 0 ? Status{Code::invalid_argument, "the host's stream ended too early", {}}
                        : errno_status("receive from the host", error);
    const size_t taken = std::min(size - out.size(), held_.size() - used_);
    out.append(held_, used_, taken);
    used_ += taken;
  }
  return {};
}

bool StreamReader::at_end() {
  int error = 0;
  return used_ == held_.size() && !fill(error) && error == 0;
}

bool StreamReader::fill(int& error) {
  held_.resize(kHeldMax);
  ssize_t n;
  do n = recv(fd_, held_.data(), held_.size(), 0);
  while (n < 0 && errno == EINTR);
  error = n < 0 ? errno : 0;
  held_.resize(n > 0 ? static_cast<size_t>(n) : 0);
  used_ = 0;
  return n > 0;
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
