#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "child.h"
#include "paths.h"

namespace agent {

namespace {

// In the order of their numbers: linux/capability.h
constexpr const char* kCapabilities[] = {
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE"};
constexpr unsigned kCapabilityCount = std::size(kCapabilities);

struct Limit {
  const char* name;
  int resource;
};
constexpr Limit kLimits[] = {
    {"RLIMIT_CPU", RLIMIT_CPU}, {"RLIMIT_FSIZE", RLIMIT_FSIZE}, {"RLIMIT_DATA", RLIMIT_DATA},
    {"RLIMIT_STACK", RLIMIT_STACK}, {"RLIMIT_CORE", RLIMIT_CORE}, {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_NPROC", RLIMIT_NPROC}, {"RLIMIT_NOFILE", RLIMIT_NOFILE}, {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
    {"RLIMIT_AS", RLIMIT_AS}, {"RLIMIT_LOCKS", RLIMIT_LOCKS}, {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", RLIMIT_NICE}, {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
    {"RLIMIT_RTTIME", RLIMIT_RTTIME}};

uint64_t mask_of(const std::vector<std::string>& names) {
  uint64_t mask = 0;
  for (const auto& name : names) {
    const std::string bare = name.rfind("CAP_", 0) == 0 ? name.substr(4) : name;
    unsigned number = 0;
    while (number < kCapabilityCount && bare != kCapabilities[number]) number++;
    if (number == kCapabilityCount) fail(Code::invalid_argument, "capability \"" + name + "\" is not known");
    mask |= 1ull << number;
  }
  return mask;
}

void set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++) {
    data[i].effective = static_cast<uint32_t>(effective >> (32 * i));
    data[i].permitted = static_cast<uint32_t>(permitted >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
  }
  if (syscall(SYS_capset, &header, data) != 0) fail_errno("capset");
}

void drop_bounding(uint64_t keep) {
  for (unsigned number = 0; number < 64; number++) {
    if (keep & (1ull << number)) continue;
    // EINVAL: the kernel has no capability of that number, nor of a higher one.
    if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0) {
      if (errno == EINVAL) return;
      fail_errno("drop of bounding capability");
    }
  }
}

}  // namespace

void set_limits(const ProcessSpec& process) {
  if (process.oom_score_adj != 0 && !write_file("/proc/self/oom_score_adj", std::to_string(process.oom_score_adj)))
    fail_errno("oom_score_adj");
  for (const auto& wanted : process.rlimits) {
    const Limit* limit = std::begin(kLimits);
    while (limit != std::end(kLimits) && wanted.type != limit->name) limit++;
    if (limit == std::end(kLimits)) fail(Code::invalid_argument, "limit \"" + wanted.type + "\" is not known");
    const rlimit value{wanted.soft, wanted.hard};
    if (setrlimit(static_cast<__rlimit_resource>(limit->resource), &value) != 0) fail_errno(wanted.type);
  }
}

void drop_privileges(const ProcessSpec& process, const Identity& identity) {
  const Capabilities& caps = process.capabilities;
  const uint64_t permitted = mask_of(caps.permitted), ambient = mask_of(caps.ambient);
  drop_bounding(mask_of(caps.bounding));
  if (setgroups(identity.groups.size(), identity.groups.data()) != 0) fail_errno("setgroups");
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) fail_errno("keep capabilities");
  if (setresgid(identity.gid, identity.gid, identity.gid) != 0) fail_errno("setgid");
  if (setresuid(identity.uid, identity.uid, identity.uid) != 0) fail_errno("setuid");
  set_capabilities(mask_of(caps.effective) & permitted, permitted, mask_of(caps.inheritable));
  for (unsigned number = 0; number < kCapabilityCount; number++) {
    if ((ambient & (1ull << number)) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) != 0)
      fail_errno(std::string("ambient capability ") + kCapabilities[number]);
  }
  if (process.no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail_errno("no_new_privs");
}

}  // namespace agent
