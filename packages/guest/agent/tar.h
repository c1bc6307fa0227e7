// Tar streams as image layers are: ustar, with PAX records for what does not fit. POSIX.1-2017 pax,
// "pax Interchange Format"; the OCI image specification, layer.md, for whiteouts.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "changes.h"
#include "stream.h"

namespace agent {

// What the host takes (the limits of an image's layer).
constexpr uint64_t kTarBytesMax = 64ull << 30;
constexpr size_t kTarXattrBytesMax = 64 * 1024;
constexpr size_t kTarBlock = 512;

// Writes changes as a layer. Contents are read as they are sent, so the files must not change meanwhile.
class LayerWriter : public ChangeSink {
 public:
  // With `whiteouts` names that mean a deletion in a layer are refused.
  LayerWriter(StreamWriter& out, bool whiteouts) : out_(out), whiteouts_(whiteouts) { names_hidden = false; }

  Status change(const Change& change) override;
  // The two zero blocks at the end.
  Status finish();

 private:
  struct Entry {
    char type;
    std::string path, link;
    struct stat st;
    uint64_t size = 0;
    std::vector<std::pair<std::string, std::string>> xattrs;
  };

  Status whiteout(const std::string& path);
  Status file(const Change& change, Entry entry);
  Status header(const Entry& entry);
  Status contents(int fd, uint64_t size, const std::string& path);

  StreamWriter& out_;
  const bool whiteouts_;
  uint64_t total_ = 0;
  // Of files with several names: the first that was written.
  std::map<std::pair<dev_t, ino_t>, std::string> linked_;
};

}  // namespace agent
