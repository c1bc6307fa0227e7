#include "mounts.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "agent.h"
#include "paths.h"
#include "plug.h"

namespace agent {

namespace {

struct Flag {
  const char* name;
  unsigned long set, clear;
};
constexpr Flag kFlags[] = {
    {"ro", MS_RDONLY, 0},         {"rw", 0, MS_RDONLY},           {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},       {"nodev", MS_NODEV, 0},         {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},     {"exec", 0, MS_NOEXEC},         {"sync", MS_SYNCHRONOUS, 0},
    {"dirsync", MS_DIRSYNC, 0},   {"noatime", MS_NOATIME, 0},     {"nodiratime", MS_NODIRATIME, 0},
    {"relatime", MS_RELATIME, 0}, {"strictatime", MS_STRICTATIME, 0}, {"lazytime", MS_LAZYTIME, 0},
    {"bind", MS_BIND, 0},         {"rbind", MS_BIND | MS_REC, 0}, {"remount", MS_REMOUNT, 0},
    {"defaults", 0, 0},
};
constexpr Flag kPropagations[] = {
    {"private", MS_PRIVATE, 0}, {"rprivate", MS_PRIVATE | MS_REC, 0}, {"slave", MS_SLAVE, 0},
    {"rslave", MS_SLAVE | MS_REC, 0}, {"shared", MS_SHARED, 0}, {"rshared", MS_SHARED | MS_REC, 0},
    {"unbindable", MS_UNBINDABLE, 0}, {"runbindable", MS_UNBINDABLE | MS_REC, 0},
};

const Flag* find(const Flag* begin, const Flag* end, const std::string& name) {
  for (const Flag* flag = begin; flag != end; flag++)
    if (name == flag->name) return flag;
  return nullptr;
}

constexpr int kDeviceWaitMs = 2000;
constexpr std::string_view kSerial = "serial:";
constexpr std::string_view kSlot = "slot:";
// VIRTIO_BLK_ID_BYTES
constexpr size_t kSerialMax = 20;

// The virtio disk that calls itself `serial`; empty when there is none yet. The order in which disks are found says
// nothing.
std::string disk_by_serial(std::string_view serial) {
  std::string found;
  DIR* disks = opendir("/sys/block");
  if (!disks) return found;
  while (const dirent* disk = readdir(disks)) {
    const std::string name = disk->d_name;
    if (name.rfind("vd", 0) != 0 || read_file("/sys/block/" + name + "/serial", kSerialMax) != serial) continue;
    found = "/dev/" + name;
    break;
  }
  closedir(disks);
  return found;
}

std::string disk_of(const std::string& source) {
  if (source.rfind(kSerial, 0) == 0) return disk_by_serial(std::string_view(source).substr(kSerial.size()));
  if (source.rfind(kSlot, 0) == 0) return disk_in_slot(strtoull(source.c_str() + kSlot.size(), nullptr, 16));
  return source;
}

// Disks are probed while the agent is starting already. Empty when it does not come.
std::string wait_for_device(const std::string& source) {
  for (int ms = 0; ms < kDeviceWaitMs; ms++) {
    const std::string path = disk_of(source);
    struct stat st;
    if (!path.empty() && stat(path.c_str(), &st) == 0) return S_ISBLK(st.st_mode) ? path : "";
    usleep(1000);
  }
  return {};
}

Status invalid(std::string what) { return {Code::invalid_argument, std::move(what), {}}; }

// The directories an overlay names: they must be ours, and the writable ones are made.
Status prepare_overlay(const Storage& storage) {
  for (const auto& option : storage.options) {
    const size_t equals = option.find('=');
    if (equals == option.npos) continue;
    const std::string key = option.substr(0, equals), value = option.substr(equals + 1);
    if (key != "lowerdir" && key != "upperdir" && key != "workdir") continue;
    for (const auto dir : split(value, ':'))
      if (!below_base(dir)) return invalid("overlay directory \"" + std::string(dir) + "\" is outside " + kBaseDir);
    if (key != "lowerdir" && !make_dirs(value, 0755)) return errno_status("mkdir " + value, errno);
  }
  return {};
}

Status prepare(const Storage& storage, std::string& source, std::string& fstype) {
  source = storage.source;
  fstype = storage.fstype;
  if (storage.driver == "blk") {
    if (source.rfind("/dev/", 0) != 0 && source.rfind(kSerial, 0) != 0 && source.rfind(kSlot, 0) != 0)
      return invalid("block device \"" + source + "\" is not below /dev");
    source = wait_for_device(storage.source);
    if (source.empty()) return {Code::not_found, "block device \"" + storage.source + "\" does not exist", {}};
    return {};
  }
  if (storage.driver == "overlayfs") {
    source = fstype = "overlay";
    return prepare_overlay(storage);
  }
  if (storage.driver == "tmpfs" || storage.driver == "ephemeral") {
    source = fstype = "tmpfs";
    return {};
  }
  if (storage.driver == "virtio-fs") {
    fstype = "virtiofs";
    return {};
  }
  return invalid("storage driver \"" + storage.driver + "\" is not known");
}

}  // namespace

MountOptions parse_options(const std::vector<std::string>& options) {
  MountOptions out;
  for (const auto& option : options) {
    if (const Flag* flag = find(std::begin(kFlags), std::end(kFlags), option)) {
      out.flags = (out.flags | flag->set) & ~flag->clear;
    } else if (const Flag* flag = find(std::begin(kPropagations), std::end(kPropagations), option)) {
      out.propagation = flag->set;
    } else {
      if (!out.data.empty()) out.data += ',';
      out.data += option;
    }
  }
  return out;
}

Status mount_storage(const Storage& storage, std::vector<std::string>& mounted) {
  const std::string& target = storage.mount_point;
  if (!below_base(target)) return invalid("mount point \"" + target + "\" is outside " + kBaseDir);
  std::string source, fstype;
  Status status = prepare(storage, source, fstype);
  if (!status.ok()) return status;
  if (!make_dirs(target, 0755)) return errno_status("mkdir " + target, errno);
  const MountOptions options = parse_options(storage.options);
  if (options.flags & (MS_BIND | MS_REMOUNT)) return invalid("a storage is neither a bind mount nor a remount");
  if (mount(source.c_str(), target.c_str(), fstype.c_str(), options.flags, options.data.c_str()) != 0)
    return errno_status("mount " + fstype + " " + source + " at " + target, errno);
  mounted.push_back(target);
  return {};
}

void unmount_all(std::vector<std::string>& mounted) {
  for (; !mounted.empty(); mounted.pop_back()) {
    if (umount2(mounted.back().c_str(), MNT_DETACH) != 0) log("umount %s: errno %d", mounted.back().c_str(), errno);
    rmdir(mounted.back().c_str());
  }
}

}  // namespace agent
