// ttrpc framing and the server's half of a connection (containerd/ttrpc PROTOCOL.md, version 1.2).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace agent {

// The gRPC status codes the agent answers with.
enum class Code : int {
  // Not an answer: it was given already, or comes later.
  pending = -1,
  ok = 0,
  invalid_argument = 3,
  not_found = 5,
  already_exists = 6,
  resource_exhausted = 8,
  deadline_exceeded = 4,
  failed_precondition = 9,
  unimplemented = 12,
  internal = 13,
};

// How something ended. `reason` is the errno name when execve(2) itself failed.
struct Status {
  Code code = Code::ok;
  std::string message;
  std::string reason;
  bool ok() const { return code == Code::ok; }
};

// "what: text of the errno", as Code::internal.
Status errno_status(std::string what, int error);

constexpr size_t kFrameHeader = 10;
constexpr uint32_t kFrameDataMax = 4u << 20;

// Cuts the byte stream of a client into requests.
class FrameParser {
 public:
  struct Sink {
    virtual void request(uint32_t stream, std::string_view data) = 0;
    virtual void refused(uint32_t stream, const Status& status) = 0;
    virtual ~Sink() = default;
  };

  explicit FrameParser(Sink& sink) : sink_(sink) {}

  // False when the bytes are not ttrpc and the connection has to be closed.
  bool push(const char* data, size_t size);

 private:
  bool header_done();
  void frame_done();

  Sink& sink_;
  unsigned char header_[kFrameHeader];
  size_t header_fill_ = 0;
  uint32_t length_ = 0;
  uint32_t last_stream_ = 0;
  bool skipping_ = false;
  std::string data_;
  uint32_t left_ = 0;
};

// A whole response frame.
std::string response_frame(uint32_t stream, const Status& status, std::string_view payload);

}  // namespace agent
