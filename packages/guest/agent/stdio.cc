#include "stdio.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

namespace agent {

namespace {
// One read of a full pipe: fewer, larger turns cost a guest less.
constexpr size_t kChunk = kPipeSize;
// Chunks moved per wake-up, so that one busy stream does not starve the others.
constexpr int kChunksPerTurn = 4;
constexpr char kEndOfFileKey = 4;

// One thread, and nothing is kept in it between two calls.
char scratch[kChunk];

bool would_block(int error) { return error == EAGAIN || error == EINTR; }
}  // namespace

Relay::Relay(Loop& loop, Kind kind, Fd local, Fd remote, std::function<void()> finished)
    : loop_(loop),
      kind_(kind),
      local_(*this, std::move(local)),
      remote_(*this, std::move(remote)),
      finished_(std::move(finished)) {
  out_.open = kind != Kind::inward;
  in_.open = kind != Kind::outward;
  fcntl(local_.fd.get(), F_SETFL, O_NONBLOCK);
  update();
}

Relay::~Relay() {
  let_go_of_local();
  loop_.watch(remote_.fd.get(), &remote_, remote_.watched, 0);
}

uint64_t Relay::promised() const {
  int waiting = 0;
  if (!local_.fd || ioctl(local_.fd.get(), FIONREAD, &waiting) != 0) waiting = 0;
  return taken_ + static_cast<uint64_t>(waiting);
}

void Relay::close_inward() {
  drop(in_);
  update();
}

void Relay::end_inward() {
  end_of_input();
  update();
}

void Relay::ready(Side& side, uint32_t events) {
  if (&side == &local_) {
    if (in_.blocked() && !flush(in_, local_)) drop(in_);
    if (out_.open && !out_.blocked()) read_local();
  } else if (!connected_) {
    connected();
  } else {
    if (out_.blocked() && !flush(out_, remote_)) remote_gone_ = true;
    if (events & ~static_cast<uint32_t>(EPOLLOUT)) read_remote(events);
  }
  update();
}

void Relay::connected() {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(remote_.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  connected_ = true;
  remote_gone_ = error != 0;
}

void Relay::read_local() {
  for (int turn = 0; turn < kChunksPerTurn && !out_.blocked(); turn++) {
    const ssize_t n = read(local_.fd.get(), scratch, sizeof scratch);
    if (n < 0 && would_block(errno)) return;
    // A terminal whose last user is gone answers EIO.
    if (n <= 0) {
      out_.open = false;
      if (kind_ == Kind::terminal) drop(in_);
      return;
    }
    taken_ += static_cast<uint64_t>(n);
    if (!forward(out_, remote_, scratch, static_cast<size_t>(n))) {
      remote_gone_ = true;
      return;
    }
  }
}

void Relay::read_remote(uint32_t events) {
  if (!in_.open) {
    if (events & (EPOLLERR | EPOLLHUP)) remote_gone_ = true;
    const ssize_t n = recv(remote_.fd.get(), scratch, sizeof scratch, MSG_DONTWAIT);
    if (n == 0) remote_ended_ = true;
    if (n < 0 && !would_block(errno)) remote_gone_ = true;
    return;
  }
  for (int turn = 0; turn < kChunksPerTurn && in_.open && !in_.blocked(); turn++) {
    const ssize_t n = recv(remote_.fd.get(), scratch, sizeof scratch, MSG_DONTWAIT);
    if (n < 0 && would_block(errno)) return;
    if (n < 0) remote_gone_ = true;
    if (n <= 0) {
      remote_ended_ = true;
      return end_of_input();
    }
    if (!forward(in_, local_, scratch, static_cast<size_t>(n))) drop(in_);
  }
}

// False when the other end takes no more, ever.
bool Relay::forward(Flow& flow, Side& to, const char* data, size_t size) {
  const bool socket = &to == &remote_;
  while (size > 0) {
    const ssize_t n = socket ? send(to.fd.get(), data, size, MSG_NOSIGNAL | MSG_DONTWAIT) : write(to.fd.get(), data, size);
    if (n < 0) {
      if (!would_block(errno)) return false;
      flow.held.assign(data, size);
      flow.sent = 0;
      return true;
    }
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool Relay::flush(Flow& flow, Side& to) {
  const std::string held = std::move(flow.held);
  const size_t sent = flow.sent;
  flow.held.clear();
  flow.sent = 0;
  return forward(flow, to, held.data() + sent, held.size() - sent);
}

void Relay::end_of_input() {
  if (!in_.open) return;
  in_.open = false;
  if (kind_ == Kind::terminal) in_.held.push_back(kEndOfFileKey);
}

void Relay::drop(Flow& flow) {
  flow.open = false;
  flow.held.clear();
  flow.sent = 0;
}

void Relay::let_go_of_local() {
  if (!local_.fd) return;
  loop_.watch(local_.fd.get(), &local_, local_.watched, 0);
  local_.fd.reset();
}

void Relay::update() {
  const bool moved_all = out_.done() && in_.done();
  if (local_.fd && moved_all) {
    let_go_of_local();
    shutdown(remote_.fd.get(), kind_ == Kind::inward ? SHUT_RDWR : SHUT_WR);
  }
  if (remote_gone_ || (moved_all && (remote_ended_ || kind_ == Kind::inward))) {
    const auto finished = std::move(finished_);
    return finished();
  }

  uint32_t local = 0, remote = 0;
  if (!connected_) {
    remote = EPOLLOUT;
  } else {
    if (out_.blocked()) remote |= EPOLLOUT;
    if (!remote_ended_ && !in_.blocked()) remote |= EPOLLIN | EPOLLRDHUP;
    if (out_.open && !out_.blocked()) local |= EPOLLIN;
    if (in_.blocked()) local |= EPOLLOUT;
  }
  if (local_.fd) loop_.watch(local_.fd.get(), &local_, local_.watched, local);
  loop_.watch(remote_.fd.get(), &remote_, remote_.watched, remote);
}

}  // namespace agent
