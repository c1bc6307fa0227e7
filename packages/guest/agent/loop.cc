#include "loop.h"

#include <cerrno>
#include <ctime>

namespace agent {

int64_t monotonic_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void Loop::watch(int fd, Handler* handler, uint32_t& current, uint32_t events) {
  if (events == current) return;
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  const int op = current == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  epoll_ctl(epoll_.get(), op, fd, &event);
  current = events;
  if (events != 0) return;
  // What this wake-up still holds for it must not reach it: it may be gone.
  for (int i = 0; i < batch_size_; i++)
    if (batch_[i].data.ptr == handler) batch_[i].data.ptr = nullptr;
}

void Loop::after(int ms, std::function<void()> then) { timers_.emplace(monotonic_ms() + ms, std::move(then)); }

void Loop::run() {
  while (running_) {
    int timeout = -1;
    if (!timers_.empty()) {
      const int64_t left = timers_.begin()->first - monotonic_ms();
      timeout = left < 0 ? 0 : static_cast<int>(left);
    }
    batch_size_ = epoll_wait(epoll_.get(), batch_, kBatch, timeout);
    for (int i = 0; i < batch_size_ && running_; i++)
      if (auto* handler = static_cast<Handler*>(batch_[i].data.ptr)) handler->ready(batch_[i].events);
    batch_size_ = 0;
    while (!timers_.empty() && timers_.begin()->first <= monotonic_ms()) {
      auto then = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      then();
    }
  }
}

}  // namespace agent
