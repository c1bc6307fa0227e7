// A stream to the host, written or read by a job.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "ttrpc.h"

namespace agent {

// Waits for the connection; after that, what cannot be done at once waits too.
Status await_stream(int fd);

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
