// Tar streams as the host sends them: one format, the one that LayerWriter writes, so that nothing has two meanings.
#pragma once

#include <sys/types.h>
#include <ctime>

#include <string>
#include <utility>
#include <vector>

#include "stream.h"

namespace agent {

// One entry. Names are bytes, not checked as paths.
struct TarEntry {
  // '0' file, '1' hard link, '2' symlink, '5' directory, '6' FIFO; 0 after the last entry.
  char type = 0;
  std::string path, link;
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  // Of a file: bytes of content that follow.
  uint64_t size = 0;
  timespec mtime{};
  std::vector<std::pair<std::string, std::string>> xattrs;
};

class TarReader {
 public:
  explicit TarReader(StreamReader& in) : in_(in) {}

  // The next entry, once all content of the one before was read. At the end the stream has to be over too.
  Status next(TarEntry& out);
  // The next bytes of content; none when there are no more.
  Status content(std::string& chunk);

 private:
  Status end();
  Status entry(const std::string& block, const std::string& records, TarEntry& out);
  Status header(const std::string& block, TarEntry& out);
  Status extension(uint64_t size, std::string& body);
  Status apply(const std::string& body, TarEntry& out);
  Status record(const std::string& key, std::string_view value, TarEntry& out);

  StreamReader& in_;
  size_t entries_ = 0;
  uint64_t left_ = 0, padding_ = 0, total_ = 0;
};

}  // namespace agent
