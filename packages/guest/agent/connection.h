// The connection to the host: requests in, responses out.
#pragma once

#include <string>

#include "fd.h"
#include "loop.h"
#include "ttrpc.h"

namespace agent {

class Connection : public Handler {
 public:
  Connection(Loop& loop, Fd fd, FrameParser::Sink& sink);

  void send(std::string frame);
  // Writes what is left and waits, not long, for the host to take it.
  void drain();
  void ready(uint32_t events) override;

 private:
  void update();
  bool flush();

  Loop& loop_;
  Fd fd_;
  uint32_t watched_ = 0;
  FrameParser parser_;
  std::string out_;
};

}  // namespace agent
