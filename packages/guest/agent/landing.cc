#include "landing.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace agent {

namespace {

constexpr int kFolder = O_RDONLY | O_DIRECTORY;
// The kernel's own limit, MAXSYMLINKS.
constexpr int kLinksMax = 40;
constexpr size_t kPathMax = 4096;

Status refused(const std::string& path, const char* why) {
  return {Code::failed_precondition, "\"" + path.substr(0, 256) + "\": " + why, {}};
}

// The container's paths begin at its root, also without a slash.
std::string absolute(const std::string& path) { return path.rfind('/', 0) == 0 ? path : "/" + path; }

struct Place {
  Fd folder;
  std::string name;
};

// Splits off the last name; false for what ends in none.
bool split_name(std::string path, std::string& folder, std::string& name) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  name = path.substr(slash + 1);
  folder = path.substr(0, slash + 1);
  return !name.empty() && name != "." && name != "..";
}

// The folder and name that a path leads to, through links; nothing needs to be there under that name.
Status find_place(std::string path, Place& out) {
  std::string folder, target(kPathMax, '\0');
  for (int links = 0; links < kLinksMax; links++) {
    if (path.size() >= kPathMax || !split_name(path, folder, out.name)) return refused(path, "no such directory");
    out.folder.reset(open_at(AT_FDCWD, folder.c_str(), kFolder));
    if (!out.folder) return refused(folder, "no such directory");
    const ssize_t size = readlinkat(out.folder.get(), out.name.c_str(), target.data(), target.size());
    if (size < 0) return {};
    const std::string text = target.substr(0, static_cast<size_t>(size));
    path = text.rfind('/', 0) == 0 ? text : folder + text;
  }
  return refused(path, "too many links");
}

Status check_writable(const Fd& folder, const std::string& path) {
  struct statvfs fs;
  if (fstatvfs(folder.get(), &fs) != 0) return errno_status("\"" + path.substr(0, 256) + "\"", errno);
  return (fs.f_flag & ST_RDONLY) ? refused(path, "the container cannot write there: the file system is read-only") : Status{};
}

Status find_beside(const UnpackRequest& request, const std::string& path, bool is_folder, Landing& out) {
  if (request.name.empty()) return refused(path, "no such directory");
  Place place;
  Status status = find_place(path, place);
  if (!status.ok()) return status;
  struct stat st;
  const bool there = fstatat(place.folder.get(), place.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
  if (there && is_folder) return refused(path, "cannot copy a directory to a file");
  if (!is_folder && path.back() == '/') return refused(path, there ? "not a directory" : "no such directory");
  out = {std::move(place.folder), place.name};
  return {};
}

}  // namespace

int open_at(int dir, const char* path, int flags, unsigned long long resolve) {
  open_how how{};
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_NO_MAGICLINKS | resolve;
  return static_cast<int>(syscall(SYS_openat2, dir, path, &how, sizeof how));
}

Status find_landing(const UnpackRequest& request, bool is_folder, Landing& out) {
  const std::string path = absolute(request.path);
  Fd folder(open_at(AT_FDCWD, path.c_str(), kFolder));
  Status status;
  if (folder) out = {std::move(folder), request.contents ? std::string() : request.name};
  else if (errno != ENOENT && errno != ENOTDIR) status = errno_status("\"" + path.substr(0, 256) + "\"", errno);
  else status = find_beside(request, path, is_folder, out);
  return status.ok() ? check_writable(out.base, path) : status;
}

}  // namespace agent
