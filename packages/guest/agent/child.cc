#include "child.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "boot.h"
#include "fd.h"
#include "paths.h"

namespace agent {

namespace {

constexpr int kSync = 3;
// The agent's own file, held only by a container without a program.
constexpr int kSelf = 4;
constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

void report(const ChildReport& report, int passed_fd = -1) {
  iovec iov{const_cast<ChildReport*>(&report), sizeof report};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (passed_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));
  }
  if (sendmsg(kSync, &message, MSG_NOSIGNAL) < 0) _exit(127);
}

// The agent blocks what it reads from a descriptor. Its handlers are gone since clone.
void unblock_signals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// After this the child holds its stdio, `sync` as number 3, and nothing else of the agent's.
void arrange_descriptors(const ChildPlan& plan) {
  // Above everything that is put in place below, so that nothing is overwritten too early.
  const int sync = fcntl(plan.sync, F_DUPFD_CLOEXEC, 10);
  for (int i = 0; i < 3; i++)
    if (plan.stdio[i] >= 0) dup2(plan.stdio[i], i);
  dup3(sync, kSync, O_CLOEXEC);
  close_range(kSync + 1, ~0u, 0);
}

// While the agent's root is still in sight.
bool open_self() {
  const int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (self < 0 || self == kSelf) return self == kSelf;
  const bool placed = dup3(self, kSelf, O_CLOEXEC) == kSelf;
  close(self);
  return placed;
}

// Opens a terminal of the container's own devpts and gives its master to the agent.
void open_terminal(const ChildPlan& plan, uint32_t uid) {
  const Fd master(open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master) fail_errno("terminal");
  int unlock = 0, number = 0;
  if (ioctl(master.get(), TIOCSPTLCK, &unlock) != 0 || ioctl(master.get(), TIOCGPTN, &number) != 0) fail_errno("terminal");
  const int slave = ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) fail_errno("terminal");
  const winsize size{static_cast<unsigned short>(plan.window.height), static_cast<unsigned short>(plan.window.width), 0, 0};
  if (size.ws_row != 0) ioctl(slave, TIOCSWINSZ, &size);
  fchown(slave, uid, static_cast<gid_t>(-1));
  if (plan.spec) {
    Fd(open("/dev/console", O_CREAT | O_WRONLY | O_NOCTTY | O_CLOEXEC, 0600));
    const std::string path = "/dev/pts/" + std::to_string(number);
    mount(path.c_str(), "/dev/console", nullptr, MS_BIND, nullptr);
  }
  ChildReport message{};
  message.kind = ChildReport::terminal;
  report(message, master.get());
  for (int i = 0; i < 3; i++) dup2(slave, i);
  close(slave);
  if (ioctl(0, TIOCSCTTY, 0) != 0) fail_errno("controlling terminal");
}

// A user other than root must be able to open /dev/stdout again.
void own_stdio(uint32_t uid) {
  if (uid == 0) return;
  for (int i = 0; i < 3; i++) {
    struct stat st;
    if (fstat(i, &st) == 0 && S_ISFIFO(st.st_mode)) fchown(i, uid, static_cast<gid_t>(-1));
  }
}

std::string env_value(const std::vector<std::string>& env, const std::string& name) {
  for (auto it = env.rbegin(); it != env.rend(); ++it)
    if (it->compare(0, name.size() + 1, name + "=") == 0) return it->substr(name.size() + 1);
  return {};
}

[[noreturn]] void fail_exec(const std::string& text, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  fail(missing ? Code::not_found : Code::failed_precondition, text, missing ? "ENOENT" : error == EACCES ? "EACCES" : "ENOEXEC");
}

// Why execve refused a path, in runc's words: tools look for them.
[[noreturn]] void fail_path(const std::string& name, const std::string& path, int error) {
  const std::string quoted = "exec: \"" + name + "\": ";
  struct stat st;
  if (stat(path.c_str(), &st) != 0) {
    const int why = errno;
    fail_exec(quoted + "stat " + path + ": " + (why == ENOENT ? "no such file or directory" : strerror(why)), why);
  }
  if (S_ISDIR(st.st_mode)) fail_exec(quoted + "is a directory", EISDIR);
  if (error == EACCES) fail_exec(quoted + "permission denied", error);
  // Of a file that is there, ENOENT means its interpreter.
  const char* text = error == ENOEXEC ? "exec format error" : error == ENOENT ? "no such file or directory" : strerror(error);
  fail_exec("exec " + path + ": " + text, error);
}

// Executes what PATH finds first, like execvp; comes back only by failing.
[[noreturn]] void exec_from_path(const std::string& name, const std::string& path, char* const* argv, char* const* envp) {
  bool denied = false;
  for (const auto dir : split(path, ':')) {
    const std::string candidate = (dir.empty() ? "." : std::string(dir)) + "/" + name;
    execve(candidate.c_str(), argv, envp);
    const int error = errno;
    if (error == EACCES) denied = true;
    if (error == ENOENT) {
      struct stat st;
      if (stat(candidate.c_str(), &st) == 0) fail_path(name, candidate, error);
    }
    if (error != EACCES && error != ENOENT && error != ENOTDIR) fail_path(name, candidate, error);
  }
  const std::string quoted = "exec: \"" + name + "\": ";
  if (denied) fail_exec(quoted + "permission denied", EACCES);
  fail_exec(quoted + "executable file not found in $PATH", ENOENT);
}

// A container without a program of its own: the agent's file again, as the reaper of pause.cc.
[[noreturn]] void execute_pause() {
  char name[] = "pause";
  char* const argv[] = {name, nullptr};
  char* const envp[] = {nullptr};
  execveat(kSelf, "", argv, envp, AT_EMPTY_PATH);
  fail_errno("pause");
}

[[noreturn]] void execute(const ProcessSpec& process, const Identity& identity) {
  if (process.args.empty()) execute_pause();
  std::vector<std::string> env = process.env;
  if (env_value(env, "HOME").empty()) env.push_back("HOME=" + identity.home);
  std::vector<char*> argv, envp;
  for (const auto& arg : process.args) argv.push_back(const_cast<char*>(arg.c_str()));
  for (const auto& entry : env) envp.push_back(const_cast<char*>(entry.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  const std::string& name = process.args[0];
  if (name.find('/') == name.npos) {
    const std::string path = env_value(env, "PATH");
    exec_from_path(name, path.empty() ? kDefaultPath : path, argv.data(), envp.data());
  }
  execve(name.c_str(), argv.data(), envp.data());
  fail_path(name, name, errno);
}

// Docker makes the working directory when it is missing. Done as root, for directories of other users.
void enter_cwd(const std::string& cwd) {
  const std::string path = cwd.empty() ? "/" : cwd;
  if (path[0] != '/') fail(Code::invalid_argument, "cwd \"" + path + "\" is not absolute");
  if (chdir(path.c_str()) == 0) return;
  if (errno != ENOENT || !make_dirs(path, 0755) || chdir(path.c_str()) != 0) fail_errno("chdir to cwd (\"" + path + "\")");
}

}  // namespace

void fail(Code code, const std::string& text, const char* reason) {
  ChildReport message{};
  message.kind = ChildReport::failed;
  message.code = static_cast<int32_t>(code);
  strncpy(message.reason, reason, sizeof message.reason - 1);
  strncpy(message.text, text.c_str(), sizeof message.text - 1);
  report(message);
  _exit(*reason == '\0' ? 125 : strcmp(reason, "ENOENT") == 0 ? 127 : 126);
}

void fail_errno(const std::string& what) {
  const Status status = errno_status(what, errno);
  fail(status.code, status.message);
}

void run_child(const ChildPlan& plan) {
  const ProcessSpec& process = *plan.process;
  unblock_signals();
  // Whoever lives in the container already must not look into a process that is still the agent's program.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  const int joined = plan.pidfd < 0 ? 0
                                    : setns(plan.pidfd, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP);
  const int join_error = errno;
  arrange_descriptors(plan);
  if (joined != 0) fail(Code::failed_precondition, std::string("join container: ") + strerror(join_error));
  setsid();
  if (plan.new_network) loopback_up();
  if (process.args.empty() && !open_self()) fail_errno("own file");
  if (plan.spec) make_rootfs(*plan.spec, *plan.name_servers);

  Identity identity;
  std::string error;
  if (!resolve_user(process.user, identity, error)) fail(Code::not_found, error);
  if (process.terminal) open_terminal(plan, identity.uid);

  if (plan.spec) {
    ChildReport message{};
    message.kind = ChildReport::ready;
    report(message);
    char go;
    if (recv(kSync, &go, 1, 0) != 1) _exit(125);
  }
  set_limits(process);
  own_stdio(identity.uid);
  enter_cwd(process.cwd);
  drop_privileges(process, identity);
  execute(process, identity);
}

}  // namespace agent
