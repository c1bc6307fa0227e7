// Carries the bytes of one stdio stream between a process and the host.
#pragma once

#include <functional>
#include <string>

#include "fd.h"
#include "loop.h"

namespace agent {

// Of a pipe that carries stdin or stdout. Four times the kernel's default saves a quarter of what a stream
// costs, mostly in changes between the writer and the agent.
constexpr int kPipeSize = 256 * 1024;

// Two descriptors and the bytes that flow between them: `local` is our end of a pipe, or a terminal's
// master; `remote` is a connection to the host, possibly still being made.
//
//   outward: local -> remote; when local ends the connection is shut down for writing after the last byte,
//            and kept until the host lets go of it
//   inward:  remote -> local; when the host ends it a pipe is closed, a terminal gets its end-of-file key
//
// A direction holds at most one read that could not be written on; until it is, nothing more is read. So a
// slow reader slows its own writer and nobody else.
class Relay {
 public:
  enum class Kind { outward, inward, terminal };

  // `finished` is called once, from ready() or close_inward(), and may destroy the relay.
  Relay(Loop& loop, Kind kind, Fd local, Fd remote, std::function<void()> finished);
  ~Relay();
  Relay(const Relay&) = delete;

  int local() const { return local_.fd.get(); }
  // Bytes that `local` has given so far and will still give without anyone's writing more. All of them reach a host
  // that reads.
  uint64_t promised() const;
  // The process will not read any more.
  void close_inward();
  // The process is to read an end after what it was sent so far.
  void end_inward();

 private:
  struct Side : Handler {
    Side(Relay& relay, Fd fd) : relay(relay), fd(std::move(fd)) {}
    void ready(uint32_t events) override { relay.ready(*this, events); }
    Relay& relay;
    Fd fd;
    uint32_t watched = 0;
  };
  struct Flow {
    bool open = false;
    std::string held;
    size_t sent = 0;
    bool blocked() const { return sent < held.size(); }
    bool done() const { return !open && !blocked(); }
  };

  void ready(Side& side, uint32_t events);
  void connected();
  void read_local();
  void read_remote(uint32_t events);
  bool forward(Flow& flow, Side& to, const char* data, size_t size);
  bool flush(Flow& flow, Side& to);
  void end_of_input();
  void drop(Flow& flow);
  void let_go_of_local();
  void update();

  Loop& loop_;
  const Kind kind_;
  Side local_, remote_;
  Flow out_, in_;
  uint64_t taken_ = 0;
  bool connected_ = false, remote_ended_ = false, remote_gone_ = false;
  std::function<void()> finished_;
};

}  // namespace agent
