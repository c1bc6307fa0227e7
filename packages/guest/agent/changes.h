// What a container changed of its image, as the upper directory of its overlay says.
#pragma once

#include <sys/stat.h>

#include <map>
#include <string>

#include "fd.h"
#include "ttrpc.h"

namespace agent {

// What the host takes (the limits of an image's layer).
constexpr size_t kChangesMax = 1000000;
constexpr int kChangesDepthMax = 512;
constexpr size_t kChangesPathMax = 4096;

struct OverlayLayers {
  std::string lower, upper;
};

// What lay in the upper directory before the container's program started: mount points and files in /etc, which are no
// changes of the container's. By path, without a slash before it.
using ChangesBaseline = std::map<std::string, struct stat>;

enum class ChangeKind : char { added = 'A', changed = 'C', deleted = 'D' };

// One change. Nothing of it outlives the call.
struct Change {
  ChangeKind kind;
  const std::string& path;
  // The entry in the upper directory: opened with O_PATH, or for reading if it is a directory. -1 for a deletion.
  int fd;
  const struct stat& st;
  // A directory that shows nothing of what the image has at its place.
  bool opaque;
};

class ChangeSink {
 public:
  virtual Status change(const Change& change) = 0;
  virtual ~ChangeSink() = default;

  // Whether the names that an opaque directory hides are told one by one.
  bool names_hidden = true;
};

// Walks the changes while the container may be running: nothing is followed, a file that goes meanwhile is left out.
Status walk_changes(const OverlayLayers& layers, const ChangesBaseline& baseline, ChangeSink& sink);
// Tells of a file or folder below `root`, and of all that is in it, as if it were new; names begin with its own, or with
// nothing for the root. Links in `path` lead nowhere outside the root; the last one is only followed with `follow`. Of
// what is mounted further down only the mount point is told.
Status walk_files(const std::string& root, const std::string& path, bool follow, ChangeSink& sink);
// What is there now; nothing more than a program could have made before it started.
ChangesBaseline take_baseline(const std::string& upper);

}  // namespace agent
