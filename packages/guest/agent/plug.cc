#include "plug.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>

#include "agent.h"
#include "mounts.h"
#include "paths.h"

namespace agent {

namespace {

constexpr char kDriver[] = "/sys/bus/platform/drivers/virtio-mmio/";
constexpr char kDevices[] = "/sys/bus/platform/devices/";
constexpr char kProcessors[] = "/sys/devices/system/cpu/cpu";
// NR_CPUS of a distribution's kernel.
constexpr uint32_t kProcessorsMax = 8192;
constexpr size_t kIomemMax = 64 * 1024;

Status invalid(std::string what) { return {Code::invalid_argument, std::move(what), {}}; }

// What the kernel calls the platform device whose window starts at `address`. However it was told of it, the command
// line or ACPI, the window is in the list of resources.
std::string slot_name(uint64_t address) {
  char start[32];
  snprintf(start, sizeof start, "%08" PRIx64 "-", address);
  const std::string list = read_file("/proc/iomem", kIomemMax);
  for (auto line : split(list, '\n')) {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    const size_t name = line.find(" : ");
    if (line.rfind(start, 0) == 0 && name != line.npos) return std::string(line.substr(name + 3));
  }
  return {};
}

// The first entry of a directory that begins with `prefix`.
std::string entry_of(const std::string& directory, std::string_view prefix) {
  std::string found;
  DIR* entries = opendir(directory.c_str());
  if (!entries) return found;
  while (const dirent* entry = readdir(entries)) {
    if (std::string_view(entry->d_name).rfind(prefix, 0) != 0) continue;
    found = entry->d_name;
    break;
  }
  closedir(entries);
  return found;
}

// The end of a path that is to be mounted on: a directory, or an empty file.
bool make_target(const std::string& target, bool directory) {
  if (directory) return make_dirs(target, 0755);
  const size_t slash = target.rfind('/');
  if (slash > 0 && !make_dirs(target.substr(0, slash), 0755)) return false;
  const Fd file(open(target.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644));
  return static_cast<bool>(file);
}

}  // namespace

Status bind_slot(uint64_t address, bool bind) {
  const std::string name = slot_name(address);
  if (name.empty()) return {Code::not_found, "there is no slot at that address", {}};
  if (!write_file(std::string(kDriver) + (bind ? "bind" : "unbind"), name))
    return errno_status((bind ? "bind " : "unbind ") + name, errno);
  return {};
}

std::string disk_in_slot(uint64_t address) {
  const std::string slot = kDevices + slot_name(address);
  const std::string device = entry_of(slot, "virtio");
  if (device.empty()) return {};
  const std::string disk = entry_of(slot + "/" + device + "/block", "vd");
  return disk.empty() ? disk : "/dev/" + disk;
}

Status set_online_processors(uint32_t online) {
  uint32_t present = 1;
  // The first one is always online, and has no switch.
  for (; present < kProcessorsMax; present++) {
    const std::string path = kProcessors + std::to_string(present) + "/online";
    const std::string state = read_file(path, 16);
    if (state.empty()) break;
    const char wanted = present < online ? '1' : '0';
    if (state[0] != wanted && !write_file(path, std::string(1, wanted)))
      return errno_status("processor " + std::to_string(present), errno);
  }
  if (online <= present) return {};
  return {Code::failed_precondition, "the guest has " + std::to_string(present) + " processors", {}};
}

int copy_mount(const ViewRequest& request) {
  const int tree = static_cast<int>(
      syscall(SYS_open_tree, AT_FDCWD, request.source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
  if (tree < 0) return tree;
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (request.read_only ? MOUNT_ATTR_RDONLY : 0);
  if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0) return tree;
  const int error = errno;
  close(tree);
  errno = error;
  return -1;
}

Status show_mount(int tree, const std::string& target) {
  struct stat st;
  if (fstat(tree, &st) != 0) return errno_status("volume", errno);
  umask(0);
  if (!make_target(target, S_ISDIR(st.st_mode))) return errno_status("make " + target, errno);
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return errno_status("mount at " + target, errno);
  return {};
}

Status hide_mount(const std::string& target) {
  if (umount2(target.c_str(), UMOUNT_NOFOLLOW) == 0) return {};
  if (errno == EBUSY) return {Code::failed_precondition, target + " is in use", {}};
  return errno_status("umount " + target, errno);
}

Status Agent::slot_call(uint32_t call, std::string_view payload, bool bind) {
  SlotRequest request;
  if (!decode(payload, request)) return invalid("SlotRequest does not decode");
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  const uint64_t address = request.address;
  return plug_job(call, {}, {}, [address, bind](int) { return bind_slot(address, bind); });
}

Status Agent::bind_device(uint32_t call, std::string_view payload) { return slot_call(call, payload, true); }

Status Agent::unbind_device(uint32_t call, std::string_view payload) { return slot_call(call, payload, false); }

Status Agent::set_processors(uint32_t call, std::string_view payload) {
  ProcessorsRequest request;
  if (!decode(payload, request) || request.online == 0) return invalid("1 processor or more");
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  const uint32_t online = request.online;
  return plug_job(call, {}, {}, [online](int) { return set_online_processors(online); });
}

Status Agent::mount_volume(uint32_t call, std::string_view payload) {
  VolumeRequest request;
  if (!decode(payload, request)) return invalid("VolumeRequest does not decode");
  const std::string target = request.storage.mount_point;
  const auto work = [&request](int) {
    std::vector<std::string> mounted;
    return mount_storage(request.storage, mounted);
  };
  return plug_job(call, {}, {}, work, [this, target] { mounted_.push_back(target); });
}

Status Agent::unmount_volume(uint32_t call, std::string_view payload) {
  VolumeRequest request;
  if (!decode(payload, request)) return invalid("VolumeRequest does not decode");
  const std::string target = request.storage.mount_point;
  if (std::find(mounted_.begin(), mounted_.end(), target) == mounted_.end())
    return {Code::not_found, "nothing is mounted at " + target.substr(0, 128), {}};
  const auto work = [&target](int) {
    const Status status = hide_mount(target);
    if (status.ok()) rmdir(target.c_str());
    return status;
  };
  return plug_job(call, {}, {}, work, [this, target] {
    const auto at = std::find(mounted_.begin(), mounted_.end(), target);
    if (at != mounted_.end()) mounted_.erase(at);
  });
}

Status Agent::show_volume(uint32_t call, std::string_view payload) {
  ViewRequest request;
  JobFds fds;
  const Status status = find_view(payload, request, fds);
  if (!status.ok()) return status;
  if (!below_base(request.source)) return invalid("source \"" + request.source.substr(0, 128) + "\" is outside " + kBaseDir);
  fds.stream.reset(copy_mount(request));
  if (!fds.stream) return errno_status("volume " + request.source, errno);
  return plug_job(call, request.container_id, std::move(fds), [&request](int tree) { return show_mount(tree, request.target); });
}

Status Agent::hide_volume(uint32_t call, std::string_view payload) {
  ViewRequest request;
  JobFds fds;
  const Status status = find_view(payload, request, fds);
  if (!status.ok()) return status;
  return plug_job(call, request.container_id, std::move(fds), [&request](int) { return hide_mount(request.target); });
}

Status Agent::find_view(std::string_view payload, ViewRequest& request, JobFds& fds) {
  if (!decode(payload, request)) return invalid("ViewRequest does not decode");
  Container* container = find_container(request.container_id);
  if (!container) return {Code::not_found, "container \"" + request.container_id.substr(0, 128) + "\" does not exist", {}};
  if (!container->init()->in_root()) return {Code::failed_precondition, "the container is not running", {}};
  if (request.target.size() < 2 || request.target[0] != '/') return invalid("the target is not an absolute path");
  fds.container = container->pidfd.get();
  return {};
}

// A probe, or a mount, may wait for a device that does not answer: in a job it keeps nobody else waiting.
Status Agent::plug_job(uint32_t call, const std::string& container, JobFds fds, const JobWork& work, std::function<void()> done) {
  const auto ended = [this, call, done](const Status& status) {
    if (status.ok() && done) done();
    answer(call, status);
  };
  if (!start_job(container, std::move(fds), work, ended)) return errno_status("start a job", errno);
  return {Code::pending, {}, {}};
}

}  // namespace agent
