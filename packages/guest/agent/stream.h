// A stream to the host, written or read by a job.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "ttrpc.h"

namespace agent {

// Waits for the connection; after that, what cannot be done at once waits too.
Status await_stream(int fd);

// Reads in large pieces what is needed in small ones.
class StreamReader {
 public:
  explicit StreamReader(int fd) : fd_(fd) {}
  // The next `size` bytes. Fails when the stream is over before that.
  Status get(size_t size, std::string& out);
  // Whether nothing comes any more; waits for what does, or for the end.
  bool at_end();

 private:
  // False at the end, or with `error`.
  bool fill(int& error);

  const int fd_;
  std::string held_;
  size_t used_ = 0;
};

// Collects small pieces into large writes.
class StreamWriter {
 public:
  explicit StreamWriter(int fd) : fd_(fd) {}
  Status put(std::string_view bytes);
  // Sends what is left and says that nothing comes after it.
  Status finish();

 private:
  Status flush();

  const int fd_;
  std::string held_;
};

}  // namespace agent
