#include "connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

namespace agent {

namespace {
constexpr size_t kReadSize = 16 * 1024;
// Beyond this many unsent bytes no further request is read.
constexpr size_t kUnsentMax = 1 << 20;
constexpr int kDrainMs = 100;
}  // namespace

Connection::Connection(Loop& loop, Fd fd, FrameParser::Sink& sink) : loop_(loop), fd_(std::move(fd)), parser_(sink) {
  fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  update();
}

void Connection::send(std::string frame) {
  out_ += frame;
  if (!flush()) loop_.stop();
  update();
}

bool Connection::flush() {
  size_t sent = 0;
  bool alive = true;
  while (sent < out_.size()) {
    const ssize_t n = ::send(fd_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      alive = errno == EAGAIN || errno == EINTR;
      break;
    }
    sent += static_cast<size_t>(n);
  }
  out_.erase(0, sent);
  return alive;
}

void Connection::update() {
  uint32_t events = 0;
  if (!out_.empty()) events |= EPOLLOUT;
  if (out_.size() < kUnsentMax) events |= EPOLLIN;
  loop_.watch(fd_.get(), this, watched_, events);
}

void Connection::ready(uint32_t events) {
  if (events & EPOLLOUT && !flush()) return loop_.stop();
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    static char buffer[kReadSize];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || !parser_.push(buffer, static_cast<size_t>(n))) return loop_.stop();
  }
  update();
}

void Connection::drain() {
  pollfd wait{fd_.get(), POLLOUT, 0};
  for (int turn = 0; turn < kDrainMs && !out_.empty() && flush() && !out_.empty(); turn++) poll(&wait, 1, 1);
  shutdown(fd_.get(), SHUT_WR);
  wait.events = POLLRDHUP;
  poll(&wait, 1, kDrainMs);
}

}  // namespace agent
