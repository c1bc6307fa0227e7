#include "unpack.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "changes.h"
#include "landing.h"
#include "memory.h"
#include "paths.h"
#include "tar_reader.h"

namespace agent {

namespace {

constexpr size_t kHole = 4096;
// Somebody else may make again what was taken away.
constexpr int kTries = 16;
// Entries and pieces of content between two looks at the memory that is left.
constexpr unsigned kStepsUnseen = 16;

using Names = std::vector<std::string>;

Status failed(const TarEntry& entry, int error) { return errno_status("\"" + entry.path.substr(0, 256) + "\"", error); }

Status refused(const TarEntry& entry, const char* why) {
  return {Code::invalid_argument, "\"" + entry.path.substr(0, 256) + "\": " + why, {}};
}

bool is_zero(const char* bytes, size_t size) { return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0; }

// Capabilities and what belongs to users; the rest of the attributes is of the file system it came from.
bool wanted(const std::string& name) { return name.rfind("user.", 0) == 0 || name == "security.capability"; }

class Unpacker {
 public:
  Unpacker(const UnpackRequest& request, Landing landing) : request_(request), name_(std::move(landing.name)) {
    levels_.push_back({{}, std::move(landing.base), false, {}});
  }

  Status entry(const TarEntry& entry, TarReader& in) {
    Names names;
    Status status = step(entry);
    if (status.ok()) status = place_of(entry, entry.path, names);
    if (!status.ok()) return status;
    // The folder that all goes into stays as it is.
    if (names.empty()) return entry.type == '5' ? Status{} : refused(entry, "it has the name of a directory");
    const std::string name = names.back();
    names.pop_back();
    status = enter(entry, names);
    return status.ok() ? make(entry, name, in) : status;
  }

  void finish() { leave(0); }

 private:
  // An open folder on the way to the last entry. Its time is set when it is left: until then entries change it.
  struct Level {
    std::string name;
    Fd dir;
    bool timed;
    timespec mtime;
  };

  // Of a stream that the host packed, no entry lies behind a link; of somebody's archive, links lead where they lead for
  // the container's programs.
  unsigned long long resolve() const { return request_.name.empty() ? 0 : RESOLVE_NO_SYMLINKS; }

  Status step(const TarEntry& entry) {
    if (++steps_ % kStepsUnseen != 0 || !memory_is_short()) return {};
    return {Code::resource_exhausted, "\"" + entry.path.substr(0, 256) + "\": the guest's memory is full", {}};
  }

  int dir() const { return levels_.back().dir.get(); }

  Status place_of(const TarEntry& entry, const std::string& path, Names& out) const {
    if (path.size() >= kChangesPathMax) return refused(entry, "the path is too long");
    for (const auto part : split(path, '/')) {
      if (part == "..") return refused(entry, "a path with \"..\"");
      if (!part.empty() && part != ".") out.emplace_back(part);
    }
    if (out.size() > kChangesDepthMax) return refused(entry, "it lies too deep");
    if (request_.name.empty()) return {};
    if (out.empty() || out[0] != request_.name) return refused(entry, "it is not part of what is copied");
    if (name_.empty()) out.erase(out.begin());
    else out[0] = name_;
    return {};
  }

  Status enter(const TarEntry& entry, const Names& names) {
    size_t same = 0;
    while (same < names.size() && same + 1 < levels_.size() && levels_[same + 1].name == names[same]) same++;
    leave(same);
    for (; same < names.size(); same++) {
      const char* name = names[same].c_str();
      Fd next(open_at(dir(), name, O_RDONLY | O_DIRECTORY, resolve()));
      if (!next && errno == ENOENT && mkdirat(dir(), name, 0755) == 0) next.reset(open_at(dir(), name, O_RDONLY | O_DIRECTORY, resolve()));
      if (!next) return failed(entry, errno);
      levels_.push_back({names[same], std::move(next), false, {}});
    }
    return {};
  }

  // Down to this many levels below the first.
  void leave(size_t depth) {
    for (; levels_.size() > depth + 1; levels_.pop_back()) {
      const timespec times[] = {{0, UTIME_NOW}, levels_.back().mtime};
      if (levels_.back().timed) futimens(dir(), times);
    }
  }

  Status make(const TarEntry& entry, const std::string& name, TarReader& in) {
    switch (entry.type) {
      case '0': return file(entry, name, in);
      case '1': return link(entry, name);
      case '5': return folder(entry, name);
    }
    const auto attempt = [&] {
      return entry.type == '2' ? symlinkat(entry.link.c_str(), dir(), name.c_str()) == 0
                               : mkfifoat(dir(), name.c_str(), entry.mode & 0777) == 0;
    };
    Status status = replace(entry, name, attempt);
    if (!status.ok()) return status;
    if (fchownat(dir(), name.c_str(), uid(entry), gid(entry), AT_SYMLINK_NOFOLLOW) != 0) return failed(entry, errno);
    const timespec times[] = {{0, UTIME_NOW}, entry.mtime};
    return utimensat(dir(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0 ? Status{} : failed(entry, errno);
  }

  // Whatever has the name gives way, but no folder.
  template <typename Attempt>
  Status replace(const TarEntry& entry, const std::string& name, const Attempt& attempt) {
    for (int i = 0; i < kTries; i++) {
      if (attempt()) return {};
      if (errno != EEXIST) return failed(entry, errno);
      if (unlinkat(dir(), name.c_str(), 0) == 0 || errno == ENOENT) continue;
      if (errno == EISDIR) return refused(entry, "cannot overwrite a directory with something else");
      return failed(entry, errno);
    }
    return failed(entry, EEXIST);
  }

  Status folder(const TarEntry& entry, const std::string& name) {
    const bool made = mkdirat(dir(), name.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return failed(entry, errno);
    Fd opened(open_at(dir(), name.c_str(), O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS));
    if (!opened && (errno == ENOTDIR || errno == ELOOP)) return refused(entry, "cannot overwrite something else with a directory");
    if (!opened) return failed(entry, errno);
    levels_.push_back({name, std::move(opened), true, entry.mtime});
    return describe(entry, dir());
  }

  Status link(const TarEntry& entry, const std::string& name) {
    Names names;
    const Status status = place_of(entry, entry.link, names);
    if (!status.ok()) return status;
    std::string path;
    for (const auto& part : names) path += (path.empty() ? "" : "/") + part;
    const Fd target(open_at(levels_[0].dir.get(), path.c_str(), O_PATH | O_NOFOLLOW, resolve()));
    struct stat st;
    if (!target || fstat(target.get(), &st) != 0) return failed(entry, errno);
    if (S_ISDIR(st.st_mode)) return refused(entry, "a hard link to a directory");
    return replace(entry, name, [&] { return linkat(target.get(), "", dir(), name.c_str(), AT_EMPTY_PATH) == 0; });
  }

  Status file(const TarEntry& entry, const std::string& name, TarReader& in) {
    Fd fd;
    Status status = replace(entry, name, [&] {
      fd.reset(openat(dir(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      return static_cast<bool>(fd);
    });
    if (!status.ok()) return status;
    status = contents(entry, fd.get(), in);
    if (status.ok()) status = describe(entry, fd.get());
    const timespec times[] = {{0, UTIME_NOW}, entry.mtime};
    if (status.ok() && futimens(fd.get(), times) != 0) status = failed(entry, errno);
    // Half a file is none.
    if (!status.ok()) unlinkat(dir(), name.c_str(), 0);
    return status;
  }

  // Blocks of zeroes become holes.
  Status contents(const TarEntry& entry, int fd, TarReader& in) {
    std::string chunk;
    off_t at = 0;
    for (Status status = in.content(chunk); !status.ok() || !chunk.empty(); status = in.content(chunk)) {
      if (status.ok()) status = step(entry);
      if (!status.ok()) return status;
      if (!write_runs(fd, chunk, at)) return failed(entry, errno);
      at += static_cast<off_t>(chunk.size());
    }
    return ftruncate(fd, at) == 0 ? Status{} : failed(entry, errno);
  }

  static bool write_runs(int fd, const std::string& chunk, off_t at) {
    size_t start = 0;
    for (size_t i = 0; i < chunk.size(); i += kHole) {
      const size_t end = std::min(i + kHole, chunk.size());
      if (!is_zero(chunk.data() + i, end - i)) continue;
      if (!write_at(fd, chunk.data() + start, i - start, at + static_cast<off_t>(start))) return false;
      start = end;
    }
    return write_at(fd, chunk.data() + start, chunk.size() - start, at + static_cast<off_t>(start));
  }

  static bool write_at(int fd, const char* bytes, size_t size, off_t at) {
    while (size > 0) {
      const ssize_t n = pwrite(fd, bytes, size, at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      bytes += n;
      size -= static_cast<size_t>(n);
      at += n;
    }
    return true;
  }

  // The owner first: a change of it takes rights away.
  Status describe(const TarEntry& entry, int fd) {
    if (fchown(fd, uid(entry), gid(entry)) != 0 || fchmod(fd, entry.mode) != 0) return failed(entry, errno);
    for (const auto& [name, value] : entry.xattrs)
      if (wanted(name) && fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0 && errno != ENOTSUP)
        return failed(entry, errno);
    return {};
  }

  uid_t uid(const TarEntry& entry) const { return request_.keep_owner ? entry.uid : 0; }
  gid_t gid(const TarEntry& entry) const { return request_.keep_owner ? entry.gid : 0; }

  const UnpackRequest& request_;
  const std::string name_;
  std::vector<Level> levels_;
  unsigned steps_ = 0;
};

}  // namespace

Status unpack(const UnpackRequest& request, int fd) {
  umask(0);
  StreamReader stream(fd);
  TarReader in(stream);
  TarEntry entry;
  Landing landing;
  Status status = in.next(entry);
  if (status.ok()) status = find_landing(request, entry.type == '5', landing);
  if (!status.ok()) return status;
  Unpacker unpacker(request, std::move(landing));
  while (status.ok() && entry.type != 0) {
    status = unpacker.entry(entry, in);
    if (status.ok()) status = in.next(entry);
  }
  unpacker.finish();
  return status;
}

}  // namespace agent
