// The file system view of a container. Runs in its new mount namespace. The root is changed first, so that
// every path after that, whatever links the image holds, is resolved inside the container by the kernel.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "agent.h"
#include "child.h"
#include "mounts.h"
#include "paths.h"

namespace agent {

namespace {

// What a bind mount needs of the flags to survive its remount: ro, nosuid, nodev, noexec, ...
constexpr unsigned long kBindFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME;

void make_dir_or_fail(const std::string& path) {
  if (!make_dirs(path, 0755)) fail_errno("mkdir " + path);
}

void make_parent(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash != path.npos && slash > 0) make_dir_or_fail(path.substr(0, slash));
}

bool is_dir(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

// Copies of the mounts that bind mounts name, taken while the sandbox's own files can be seen.
std::vector<Fd> take_bind_sources(const Spec& spec) {
  std::vector<Fd> sources(spec.mounts.size());
  for (size_t i = 0; i < spec.mounts.size(); i++) {
    const Mount& mount = spec.mounts[i];
    const unsigned long flags = parse_options(mount.options).flags;
    if (!(flags & MS_BIND) && mount.type != "bind") continue;
    if (!below_base(mount.source))
      fail(Code::invalid_argument, "bind source \"" + mount.source + "\" is outside " + kBaseDir);
    const unsigned how = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (flags & MS_REC ? AT_RECURSIVE : 0);
    sources[i].reset(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, mount.source.c_str(), how)));
    if (!sources[i]) fail_errno("bind source " + mount.source);
  }
  return sources;
}

void enter_root(const std::string& root) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) fail_errno("private mounts");
  if (mount(root.c_str(), root.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0) fail_errno("root " + root);
  if (chdir(root.c_str()) != 0) fail_errno("chdir " + root);
  // The old root ends up on top of the new one, and is taken away.
  if (syscall(SYS_pivot_root, ".", ".") != 0) fail_errno("pivot_root " + root);
  if (umount2(".", MNT_DETACH) != 0) fail_errno("umount of the old root");
  if (chdir("/") != 0) fail_errno("chdir /");
}

void bind(const Mount& mount_spec, const Fd& source, const MountOptions& options) {
  const std::string& target = mount_spec.destination;
  if (is_dir(source.get())) {
    make_dir_or_fail(target);
  } else {
    make_parent(target);
    Fd(open(target.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644));
  }
  if (syscall(SYS_move_mount, source.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    fail_errno("bind mount at " + target);
  if ((options.flags & kBindFlags) != 0 &&
      mount(nullptr, target.c_str(), nullptr, MS_REMOUNT | MS_BIND | (options.flags & kBindFlags), nullptr) != 0)
    fail_errno("remount of " + target);
}

void make_mount(const Mount& spec, const Fd& source) {
  if (spec.destination.empty() || spec.destination[0] != '/')
    fail(Code::invalid_argument, "mount destination \"" + spec.destination + "\" is not absolute");
  const MountOptions options = parse_options(spec.options);
  if (source) {
    bind(spec, source, options);
  } else {
    const std::string type = spec.type == "cgroup" ? "cgroup2" : spec.type;
    const std::string from = spec.source.empty() ? type : spec.source;
    const auto attempt = [&] {
      return mount(from.c_str(), spec.destination.c_str(), type.c_str(), options.flags, options.data.c_str()) == 0;
    };
    if (!attempt()) {
      // Mostly the directory is there; system calls are what a guest pays for.
      if (errno == ENOENT) make_dir_or_fail(spec.destination);
      if (!attempt()) fail_errno("mount " + type + " at " + spec.destination);
    }
  }
  if (options.propagation != 0 && mount(nullptr, spec.destination.c_str(), nullptr, options.propagation, nullptr) != 0)
    fail_errno("propagation of " + spec.destination);
}

struct Node {
  const char* path;
  unsigned major, minor;
};
constexpr Node kNodes[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                           {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
struct Link {
  const char* target;
  const char* path;
};
constexpr Link kLinks[] = {{"/proc/self/fd", "/dev/fd"},
                           {"/proc/self/fd/0", "/dev/stdin"},
                           {"/proc/self/fd/1", "/dev/stdout"},
                           {"/proc/self/fd/2", "/dev/stderr"},
                           {"pts/ptmx", "/dev/ptmx"}};

// The nodes the OCI runtime spec promises, when /dev is the container's own.
void fill_dev(const Spec& spec) {
  bool own_dev = false;
  for (const auto& mount : spec.mounts) own_dev |= mount.destination == "/dev" && mount.type == "tmpfs";
  if (!own_dev) return;
  for (const auto& node : kNodes)
    if (mknod(node.path, S_IFCHR | 0666, makedev(node.major, node.minor)) != 0 && errno != EEXIST) fail_errno(node.path);
  for (const auto& link : kLinks)
    if (symlink(link.target, link.path) != 0 && errno != EEXIST) fail_errno(link.path);
}

void make_devices(const std::vector<Device>& devices) {
  for (const auto& device : devices) {
    const mode_t type = device.type == "b" ? S_IFBLK : device.type == "p" ? S_IFIFO : S_IFCHR;
    const mode_t mode = device.mode == 0 ? 0600 : device.mode & 07777;
    make_parent(device.path);
    if (mknod(device.path.c_str(), type | mode, makedev(device.major, device.minor)) != 0) fail_errno("device " + device.path);
    if (chown(device.path.c_str(), device.uid, device.gid) != 0) fail_errno("device " + device.path);
  }
}

// A regular file with this content; whatever else stands there gives way. A root that cannot be written
// keeps what it has.
void put_file(const char* path, const std::string& content) {
  struct stat st;
  // Something else than a file, or a link to nothing.
  if (stat(path, &st) == 0 ? !S_ISREG(st.st_mode) : lstat(path, &st) == 0) unlink(path);
  const Fd fd(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644));
  if (fd && write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) fail_errno(path);
}

void fill_etc(const std::string& hostname, const std::vector<std::string>& name_servers) {
  make_dirs("/etc", 0755);
  if (!hostname.empty()) put_file("/etc/hostname", hostname + "\n");
  put_file("/etc/hosts",
           "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
           "fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
               (hostname.empty() ? "" : "127.0.1.1\t" + hostname + "\n"));
  if (name_servers.empty()) return;
  std::string resolv;
  for (const auto& server : name_servers) resolv += "nameserver " + server + "\n";
  put_file("/etc/resolv.conf", resolv);
}

void set_sysctls(const std::vector<KeyValue>& values) {
  for (const auto& [key, value] : values) {
    std::string path = "/proc/sys/" + key;
    for (size_t i = 10; i < path.size(); i++)
      if (path[i] == '.') path[i] = '/';
    if (!write_file(path, value)) fail_errno("sysctl " + key);
  }
}

void make_readonly(const std::string& path) {
  if (mount(path.c_str(), path.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0) {
    if (errno == ENOENT) return;
    fail_errno("read-only " + path);
  }
  const unsigned long keep = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | keep, nullptr) != 0)
    fail_errno("read-only " + path);
}

void mask(const std::string& path) {
  if (mount("/dev/null", path.c_str(), nullptr, MS_BIND, nullptr) == 0 || errno == ENOENT) return;
  if (errno != ENOTDIR || mount("tmpfs", path.c_str(), "tmpfs", MS_RDONLY, "size=0,nr_inodes=2") != 0)
    fail_errno("mask " + path);
}

}  // namespace

void make_rootfs(const Spec& spec, const std::vector<std::string>& name_servers) {
  umask(0);
  if (unshare(CLONE_NEWCGROUP) != 0) fail_errno("cgroup namespace");
  const std::vector<Fd> sources = take_bind_sources(spec);
  enter_root(spec.root.path);
  for (size_t i = 0; i < spec.mounts.size(); i++) make_mount(spec.mounts[i], sources[i]);
  fill_dev(spec);
  make_devices(spec.linux_spec.devices);
  fill_etc(spec.hostname, name_servers);
  if (!spec.hostname.empty() && sethostname(spec.hostname.data(), spec.hostname.size()) != 0) fail_errno("sethostname");
  set_sysctls(spec.linux_spec.sysctl);
  if (spec.root.readonly && mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) != 0)
    fail_errno("read-only root");
  for (const auto& path : spec.linux_spec.readonly_paths) make_readonly(path);
  for (const auto& path : spec.linux_spec.masked_paths) mask(path);
  umask(022);
}

}  // namespace agent
