// The one event loop: level-triggered epoll and a few timers.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>

#include "fd.h"

namespace agent {

// Something that waits for a file descriptor. It may destroy itself, or any other, inside ready().
class Handler {
 public:
  virtual void ready(uint32_t events) = 0;
  virtual ~Handler() = default;
};

class Loop {
 public:
  Loop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {}

  // Says what `fd` is waited for. No events takes it out, also of errors and hang-ups, which epoll would
  // otherwise report for ever. `current` is the caller's note of what is set.
  void watch(int fd, Handler* handler, uint32_t& current, uint32_t events);
  void after(int ms, std::function<void()> then);
  void run();
  void stop() { running_ = false; }

 private:
  static constexpr int kBatch = 64;

  Fd epoll_;
  bool running_ = true;
  epoll_event batch_[kBatch];
  int batch_size_ = 0;
  std::multimap<int64_t, std::function<void()>> timers_;
};

int64_t monotonic_ms();

}  // namespace agent
