#include "boot.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agent.h"
#include "modules.h"
#include "paths.h"

namespace agent {

namespace {

constexpr unsigned kDefaultPort = 1024;
constexpr int kConnectTries = 2000;
constexpr int kConnectPauseUs = 5000;
// A host that is busy answers late, and the kernel gives up after 2 s. How long a start may take is for the host to say.
constexpr timeval kConnectTimeout{600, 0};
constexpr int kConsoleWaitMs = 500;

struct BootMount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* data;
};
constexpr BootMount kBootMounts[] = {
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"cgroup2", kCgroupDir, MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,memory_recursiveprot"},
};

// pivot_root refuses to leave the initial root, which has no mount below it. So a bind mount of it is put
// over it.
void leave_initial_root() {
  mkdir("/newroot", 0755);
  if (mount("/", "/newroot", nullptr, MS_BIND, nullptr) != 0 || chdir("/newroot") != 0 ||
      mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 || chdir("/") != 0)
    log("new root: %s", strerror(errno));
}

// A kernel that cannot power off halts for ever instead. On a PC that takes ACPI, which User Mode Linux (it alone has
// /proc/exitcode) does without.
bool can_power_off() {
#ifdef __x86_64__
  return access("/sys/firmware/acpi", F_OK) == 0 || access("/proc/exitcode", F_OK) == 0;
#else
  return true;
#endif
}

// The value of `key` on the kernel's command line, "" for a bare word; false when it is not there.
bool kernel_option(std::string_view key, std::string& value) {
  const std::string line = read_file("/proc/cmdline", 4096);
  for (const auto word : split(std::string_view(line).substr(0, line.find('\n')), ' ')) {
    if (word.substr(0, key.size()) != key) continue;
    const auto rest = word.substr(key.size());
    if (!rest.empty() && rest[0] != '=') continue;
    value = rest.empty() ? "" : std::string(rest.substr(1));
    return true;
  }
  return false;
}

// A console whose driver is a module was not there when the kernel opened one for the first process, and it comes some
// time after its module.
void open_late_console() {
  std::string name;
  if (isatty(2) || !kernel_option("console", name)) return;
  for (int ms = 0; ms < kConsoleWaitMs; ms++) {
    const Fd console(open("/dev/console", O_RDWR | O_CLOEXEC | O_NOCTTY));
    if (console) {
      for (int fd = 0; fd <= 2; fd++) dup2(console.get(), fd);
      return;
    }
    usleep(1000);
  }
}

unsigned host_port() {
  std::string text;
  uint64_t port;
  const bool given = kernel_option("tsvmm.port", text) && parse_number(text, port) && port < ~0u;
  return given ? static_cast<unsigned>(port) : kDefaultPort;
}

}  // namespace

void boot() {
  load_modules();
  leave_initial_root();
  for (const auto& entry : kBootMounts) {
    mkdir(entry.target, 0755);
    if (mount(entry.type, entry.target, entry.type, entry.flags, entry.data) != 0)
      log("mount %s: %s", entry.target, strerror(errno));
  }
  open_late_console();
  loopback_up();
}

bool is_probe() {
  std::string value;
  return kernel_option("tsvmm.probe", value);
}

void enable_controllers() {
  const std::string dir = kCgroupDir;
  const std::string have = read_file(dir + "/cgroup.controllers", 4096);
  std::string wanted;
  for (const auto name : split(std::string_view(have).substr(0, have.find('\n')), ' '))
    if (!name.empty()) wanted += "+" + std::string(name) + " ";
  if (!wanted.empty() && !write_file(dir + "/cgroup.subtree_control", wanted)) log("cgroup controllers: %s", strerror(errno));
}

void loopback_up() {
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (fd) ioctl(fd.get(), SIOCSIFFLAGS, &request);
}

Fd vsock_connect(unsigned port, bool wait) {
  Fd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | (wait ? 0 : SOCK_NONBLOCK), 0));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = port;
  if (fd) setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &kConnectTimeout, sizeof kConnectTimeout);
  if (fd && connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 && errno != EINPROGRESS) fd.reset();
  return fd;
}

Fd connect_host() {
  const unsigned port = host_port();
  for (int left = kConnectTries; left > 0; left--) {
    Fd fd = vsock_connect(port, true);
    if (fd) return fd;
    usleep(kConnectPauseUs);
  }
  log("no answer from the host on vsock port %u: %s", port, strerror(errno));
  return {};
}

void power_off() {
  sync();
  reboot(can_power_off() ? RB_POWER_OFF : RB_AUTOBOOT);
  for (;;) pause();
}

}  // namespace agent
