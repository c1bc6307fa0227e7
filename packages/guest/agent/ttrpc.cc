#include "ttrpc.h"

#include <algorithm>
#include <cstring>

#include "wire.h"

namespace agent {

namespace {
constexpr uint8_t kRequest = 1, kResponse = 2;
constexpr uint8_t kRemoteOpen = 2;

uint32_t be32(const unsigned char* p) {
  return static_cast<uint32_t>(p[0]) << 24 | static_cast<uint32_t>(p[1]) << 16 | static_cast<uint32_t>(p[2]) << 8 | p[3];
}

void put_be32(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}
}  // namespace

Status errno_status(std::string what, int error) {
  return {Code::internal, std::move(what) + ": " + strerror(error), {}};
}

bool FrameParser::push(const char* data, size_t size) {
  while (size > 0) {
    if (header_fill_ < kFrameHeader) {
      const size_t n = std::min(kFrameHeader - header_fill_, size);
      memcpy(header_ + header_fill_, data, n);
      header_fill_ += n;
      data += n;
      size -= n;
      if (header_fill_ == kFrameHeader && !header_done()) return false;
      continue;
    }
    const size_t n = std::min<size_t>(left_, size);
    if (!skipping_) data_.append(data, n);
    left_ -= n;
    data += n;
    size -= n;
    if (left_ == 0) frame_done();
  }
  return true;
}

bool FrameParser::header_done() {
  length_ = left_ = be32(header_);
  // The first byte of a header is reserved: a stream that uses it is out of step.
  if (length_ >> 24 != 0) return false;
  const uint32_t stream = be32(header_ + 4);
  skipping_ = length_ > kFrameDataMax;
  data_.clear();
  if (skipping_) {
    sink_.refused(stream, {Code::resource_exhausted, "request is longer than 4 MiB", {}});
  } else {
    data_.reserve(length_);
  }
  if (left_ == 0) frame_done();
  return true;
}

void FrameParser::frame_done() {
  header_fill_ = 0;
  const uint32_t stream = be32(header_ + 4);
  if (skipping_) {
    if (stream > last_stream_) last_stream_ = stream;
    return;
  }
  const uint8_t type = header_[8], flags = header_[9];
  // Data of streams that do not exist, and answers to nothing: ignored.
  if (type != kRequest) return;
  if (stream % 2 == 0 || stream <= last_stream_) {
    sink_.refused(stream, {Code::invalid_argument, "stream ids are odd and rise", {}});
  } else if (flags & kRemoteOpen) {
    last_stream_ = stream;
    sink_.refused(stream, {Code::unimplemented, "streaming calls are not served", {}});
  } else {
    last_stream_ = stream;
    sink_.request(stream, data_);
  }
  data_ = std::string();
}

std::string response_frame(uint32_t stream, const Status& status, std::string_view payload) {
  WireWriter response;
  if (!status.ok()) {
    WireWriter st;
    st.put(1, static_cast<uint64_t>(status.code));
    st.put(2, status.message);
    if (!status.reason.empty()) {
      WireWriter info, any;
      info.put(1, status.reason);
      info.put(2, "exec");
      any.put(1, "type.googleapis.com/google.rpc.ErrorInfo");
      any.put_message(2, info);
      st.put_message(3, any);
    }
    response.put_message(1, st);
  }
  response.put(2, payload);
  std::string frame;
  frame.reserve(kFrameHeader + response.bytes().size());
  put_be32(frame, static_cast<uint32_t>(response.bytes().size()));
  put_be32(frame, stream);
  frame.push_back(kResponse);
  frame.push_back(0);
  frame += response.bytes();
  return frame;
}

}  // namespace agent
