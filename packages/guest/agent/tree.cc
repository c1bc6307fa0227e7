#include "tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fd.h"

namespace agent {

namespace {

// Deeper directories are moved to the top first: each level takes a descriptor.
constexpr int kDepthMax = 64;

struct Removal {
  int top;
  uint64_t moved = 0;
};

bool dots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

// True when something is gone or has moved.
bool remove_contents(Removal& removal, Fd dir, int depth);

bool remove_entry(Removal& removal, int dir, const char* name, int depth) {
  if (unlinkat(dir, name, 0) == 0) return true;
  Fd child(openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!child) return false;
  if (depth >= kDepthMax) {
    const std::string place = ".removed-" + std::to_string(removal.moved++);
    return renameat(dir, name, removal.top, place.c_str()) == 0;
  }
  const bool changed = remove_contents(removal, std::move(child), depth + 1);
  return unlinkat(dir, name, AT_REMOVEDIR) == 0 || changed;
}

bool remove_contents(Removal& removal, Fd dir, int depth) {
  DIR* entries = fdopendir(dir.get());
  if (!entries) return false;
  const int fd = dir.release();
  bool changed = false;
  while (const dirent* entry = readdir(entries))
    if (!dots(entry->d_name) && remove_entry(removal, fd, entry->d_name, depth)) changed = true;
  closedir(entries);
  return changed;
}

}  // namespace

void remove_tree(const std::string& path) {
  const Fd top(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!top) return;
  Removal removal{top.get()};
  // A name that a removal made may be there again only as often as directories are that deep.
  while (remove_contents(removal, Fd(openat(top.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), 0)) continue;
  rmdir(path.c_str());
}

}  // namespace agent
