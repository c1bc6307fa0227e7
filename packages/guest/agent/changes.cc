#include "changes.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "paths.h"

namespace agent {

namespace {

constexpr int kOpenDir = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr size_t kBaselineMax = 4096;
constexpr int kBaselineDepthMax = 64;

bool dots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

// Calls each(name) until it says no.
template <typename Each>
void each_entry(int dir, const Each& each) {
  const int copy = openat(dir, ".", kOpenDir);
  DIR* entries = copy < 0 ? nullptr : fdopendir(copy);
  if (!entries) {
    if (copy >= 0) close(copy);
    return;
  }
  while (const dirent* entry = readdir(entries))
    if (!dots(entry->d_name) && !each(entry->d_name)) break;
  closedir(entries);
}

bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0); }

bool is_opaque(int dir) {
  char value[2];
  return fgetxattr(dir, "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
}

// The kernel's number of the mount that a file was opened in. 0 when it does not say.
uint64_t mount_of(int fd) {
  struct statx st{};
  return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) == 0 && (st.stx_mask & STATX_MNT_ID) ? st.stx_mnt_id : 0;
}

bool same_time(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// A directory is what it was as long as it is owned and entered as before; what is in it speaks for itself.
bool same(const struct stat& now, const struct stat& before) {
  if (now.st_ino != before.st_ino || now.st_mode != before.st_mode || now.st_uid != before.st_uid || now.st_gid != before.st_gid)
    return false;
  return same_time(now.st_mtim, before.st_mtim) && (S_ISDIR(now.st_mode) || same_time(now.st_ctim, before.st_ctim));
}

class Walk {
 public:
  // With `mount` nothing in other mounts is told.
  Walk(const ChangesBaseline& baseline, ChangeSink& sink, uint64_t mount = 0) : baseline_(baseline), sink_(sink), mount_(mount) {}

  // `lower` is -1 where the image has no such directory; `hidden` says that what it has there cannot be seen.
  void directory(int upper, int lower, bool hidden, const std::string& path, int depth) {
    each_entry(upper, [&](const char* name) {
      entry(upper, lower, hidden, path.empty() ? name : path + "/" + name, name, depth);
      return status_.ok();
    });
  }

  Status status() const { return status_; }

 private:
  // A directory that is only told if something in it is.
  struct Silent {
    ChangeKind kind;
    std::string path;
    int fd;
    struct stat st;
  };

  void entry(int upper, int lower, bool hidden, const std::string& path, const char* name, int depth) {
    struct stat st, below;
    if (depth > kChangesDepthMax || path.size() >= kChangesPathMax)
      return fail("the container's files lie too deep: \"" + path.substr(0, 64) + "...\"");
    if (fstatat(upper, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return;
    const bool in_image = lower >= 0 && fstatat(lower, name, &below, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_whiteout(st)) {
      if (in_image && !hidden) tell({ChangeKind::deleted, path, -1, below, false});
      return;
    }
    const ChangeKind kind = in_image ? ChangeKind::changed : ChangeKind::added;
    if (S_ISDIR(st.st_mode)) return child(upper, in_image && S_ISDIR(below.st_mode) ? lower : -1, hidden, path, name, kind, depth);
    const Fd file(openat(upper, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file || fstat(file.get(), &st) != 0 || S_ISDIR(st.st_mode) || is_known(path, st)) return;
    tell({kind, path, file.get(), st, false});
  }

  void child(int upper, int lower, bool hidden, const std::string& path, const char* name, ChangeKind kind, int depth) {
    const Fd dir(openat(upper, name, kOpenDir));
    const Fd image(lower < 0 ? -1 : openat(lower, name, kOpenDir));
    struct stat st;
    if (!dir || fstat(dir.get(), &st) != 0) {
      if (errno == EMFILE || errno == ENFILE) fail("too many open files");
      return;
    }
    // Below a directory that hides the image's, all are new ones. The kernel may say it of one that has nothing to hide.
    const bool opaque = !hidden && image && is_opaque(dir.get());
    const size_t before = silent_.size();
    silent_.push_back({kind, path, dir.get(), st});
    if (!is_known(path, st) || opaque) tell_silent(opaque);
    const bool mounted = mount_ != 0 && mount_of(dir.get()) != mount_;
    if (status_.ok() && !mounted) directory(dir.get(), image.get(), hidden || opaque, path, depth + 1);
    if ((hidden || opaque) && image && sink_.names_hidden) hidden_names(dir.get(), image.get(), path);
    silent_.resize(std::min(before, silent_.size()));
  }

  // What the image has in a directory that the container made anew, and the new one has not.
  void hidden_names(int dir, int image, const std::string& path) {
    each_entry(image, [&](const char* name) {
      struct stat st, below;
      const bool gone = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || is_whiteout(st);
      if (gone && fstatat(image, name, &below, AT_SYMLINK_NOFOLLOW) == 0)
        tell({ChangeKind::deleted, path + "/" + name, -1, below, false});
      return status_.ok();
    });
  }

  bool is_known(const std::string& path, const struct stat& st) const {
    const auto it = baseline_.find(path);
    return it != baseline_.end() && same(st, it->second);
  }

  void tell(const Change& change) {
    tell_silent(false);
    give(change);
  }

  // The last of them is the one that `opaque` is about.
  void tell_silent(bool opaque) {
    for (size_t i = 0; i < silent_.size(); i++) {
      const Silent& dir = silent_[i];
      give({dir.kind, dir.path, dir.fd, dir.st, opaque && i + 1 == silent_.size()});
    }
    silent_.clear();
  }

  void give(const Change& change) {
    if (!status_.ok()) return;
    if (++count_ > kChangesMax) return fail("the container has more than " + std::to_string(kChangesMax) + " changes");
    status_ = sink_.change(change);
  }

  void fail(std::string what) {
    if (status_.ok()) status_ = {Code::resource_exhausted, std::move(what), {}};
  }

  const ChangesBaseline& baseline_;
  ChangeSink& sink_;
  const uint64_t mount_;
  std::vector<Silent> silent_;
  size_t count_ = 0;
  Status status_;
};

void note(int dir, const std::string& path, int depth, ChangesBaseline& out) {
  each_entry(dir, [&](const char* name) {
    struct stat st;
    if (out.size() >= kBaselineMax || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return false;
    const std::string at = path.empty() ? name : path + "/" + name;
    out[at] = st;
    if (!S_ISDIR(st.st_mode) || depth >= kBaselineDepthMax) return true;
    const Fd child(openat(dir, name, kOpenDir));
    if (child) note(child.get(), at, depth + 1, out);
    return true;
  });
}

// The last part of a path that is a name; "" for the root and what leads elsewhere.
std::string own_name(const std::string& path) {
  const auto parts = split(path, '/');
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->empty() || *part == ".") continue;
    return *part == ".." ? std::string() : std::string(*part);
  }
  return {};
}

}  // namespace

Status walk_changes(const OverlayLayers& layers, const ChangesBaseline& baseline, ChangeSink& sink) {
  const Fd upper(open(layers.upper.c_str(), kOpenDir)), lower(open(layers.lower.c_str(), kOpenDir));
  if (!upper || !lower) return errno_status("open the container's layers", errno);
  Walk walk(baseline, sink);
  walk.directory(upper.get(), lower.get(), false, "", 1);
  return walk.status();
}

Status walk_files(const std::string& root, const std::string& path, bool follow, ChangeSink& sink) {
  const Fd top(open(root.c_str(), kOpenDir));
  open_how how{};
  how.flags = static_cast<unsigned>(O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  const Fd file(!top ? -1 : static_cast<int>(syscall(SYS_openat2, top.get(), path.c_str(), &how, sizeof how)));
  struct stat st;
  if (!file || fstat(file.get(), &st) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return {Code::not_found, "no such file in the container: " + path.substr(0, 256), {}};
    return errno_status("open " + path.substr(0, 256), errno);
  }
  const std::string name = own_name(path);
  static const ChangesBaseline none;
  Walk walk(none, sink, mount_of(file.get()));
  if (!S_ISDIR(st.st_mode)) return sink.change({ChangeKind::added, name.empty() ? "file" : name, file.get(), st, false});
  const Fd dir(openat(file.get(), ".", kOpenDir));
  if (!dir) return errno_status("open " + path.substr(0, 256), errno);
  const Status status = name.empty() ? Status{} : sink.change({ChangeKind::added, name, dir.get(), st, false});
  if (!status.ok()) return status;
  walk.directory(dir.get(), -1, false, name, 1);
  return walk.status();
}

ChangesBaseline take_baseline(const std::string& upper) {
  ChangesBaseline out;
  const Fd dir(open(upper.c_str(), kOpenDir));
  if (dir) note(dir.get(), "", 1, out);
  return out;
}

}  // namespace agent
