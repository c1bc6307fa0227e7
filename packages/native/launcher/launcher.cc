// tsvmm-launch: runs a program so that nothing of it outlives whoever started it. See src/launcher.ts for usage.
//
//   caller ==fd 3== launcher (subreaper) --- PROGRAM --- ... daemons
//
// It waits for the end of fd 3 (the caller closed it, or is gone) or of PROGRAM, and then kills its children until none is
// left: as subreaper it inherits every descendant whose parent ended. Static, without the C++ runtime, to stay small.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr int kControlFd = 3;
constexpr int kUsage = 125;
constexpr int kCannotRun = 126;
constexpr int kNotFound = 127;
constexpr int kStopped = 128 + SIGKILL;
constexpr char kChildren[] = "/proc/thread-self/children";

struct Options {
  const char* change_to = nullptr;
  char** program = nullptr;
};

[[noreturn]] void Fail(int code, const char* what, const char* name, int error = 0) {
  dprintf(2, "tsvmm-launch: %s %s%s%s\n", what, name, error == 0 ? "" : ": ", error == 0 ? "" : strerror(error));
  _exit(code);
}

Options Parse(int count, char** words) {
  Options options;
  int i = 1;
  for (; i + 1 < count && strcmp(words[i], "--chdir") == 0; i += 2) options.change_to = words[i + 1];
  if (i + 1 >= count || strcmp(words[i], "--") != 0) {
    Fail(kUsage, "usage:", "tsvmm-launch [--chdir DIR] -- PROGRAM ARGS...");
  }
  // SAFETY: words ends with a null pointer, and at least one word follows the "--" (checked above).
  options.program = words + i + 1;
  return options;
}

void ResetSignals() {
  for (int number = 1; number <= SIGRTMAX; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

/** Becomes PROGRAM. */
[[noreturn]] void Become(const Options& options, pid_t parent) {
  const char* name = options.program[0];
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before that call.
  if (getppid() != parent) _exit(kStopped);
  setpgid(0, 0);
  rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  ResetSignals();
  // CLOSE_RANGE_CLOEXEC: Linux 5.11.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || close_range(kControlFd, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    Fail(kUsage, "cannot confine", name, errno);
  }
  if (options.change_to != nullptr && chdir(options.change_to) != 0) {
    Fail(kCannotRun, "cannot enter", options.change_to, errno);
  }
  execvp(name, options.program);
  Fail(errno == ENOENT ? kNotFound : kCannotRun, "cannot run", name, errno);
}

pid_t Start(const Options& options) {
  pid_t parent = getpid();
  pid_t child = fork();
  if (child < 0) Fail(kUsage, "cannot fork for", options.program[0], errno);
  if (child == 0) Become(options, parent);
  return child;
}

/** Kills our children. Nobody else reaps them, so their numbers cannot belong to others meanwhile. */
void KillChildren() {
  FILE* list = fopen(kChildren, "re");
  if (list == nullptr) return;
  char* word = nullptr;
  size_t room = 0;
  while (getdelim(&word, &room, ' ', list) > 0) {
    pid_t child = atoi(word);
    if (child > 0) kill(child, SIGKILL);
  }
  free(word);
  fclose(list);
}

/** Kills every descendant. A killed process cannot fork any more, and its children become ours. */
void KillAll() {
  for (;;) {
    pid_t gone = 0;
    bool reaped = false;
    while ((gone = waitpid(-1, nullptr, WNOHANG)) > 0) reaped = true;
    if (gone < 0 && errno == ECHILD) return;
    KillChildren();
    // Whoever forks without end is outrun only without a rest.
    if (!reaped) usleep(200);
  }
}

/** Blocks what ends or informs the launcher; the signals arrive on the fd instead. */
int CatchSignals() {
  sigset_t wanted;
  sigemptyset(&wanted);
  constexpr int kSignals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (int number : kSignals) sigaddset(&wanted, number);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  signal(SIGPIPE, SIG_IGN);
  // A caller that ignores it would make the kernel reap our children unseen.
  signal(SIGCHLD, SIG_DFL);
  return signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
}

/** True if the other end of fd 3 is gone. Bytes that arrive mean nothing. */
bool ControlEnded(short events) {
  if (!(events & POLLIN)) return events != 0;
  char bytes[64];
  ssize_t got = read(kControlFd, bytes, sizeof bytes);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

/** Reaps; the exit code of `program` once it has ended, else -1. */
int Reap(pid_t program) {
  int status;
  int code = -1;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == program) code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  return code;
}

/** True if a signal asks the launcher itself to end. */
bool AskedToStop(int signals) {
  signalfd_siginfo info;
  bool stop = false;
  while (read(signals, &info, sizeof info) == sizeof info) stop = stop || info.ssi_signo != SIGCHLD;
  return stop;
}

/** Waits for the end of PROGRAM (its code) or of the caller (kStopped). */
int Supervise(pid_t program, int signals) {
  pollfd watched[2] = {{kControlFd, POLLIN, 0}, {signals, POLLIN, 0}};
  for (;;) {
    int code = Reap(program);
    if (code >= 0) return code;
    if (poll(watched, 2, -1) < 0) continue;
    if (!ControlEnded(watched[0].revents) && !AskedToStop(signals)) continue;
    // A first blow without a look at /proc, for the usual case of one process group.
    kill(-program, SIGKILL);
    return kStopped;
  }
}

}  // namespace

int main(int count, char** words) {
  Options options = Parse(count, words);
  if (fcntl(kControlFd, F_GETFD) < 0) Fail(kUsage, "fd 3 is missing:", "the caller holds its other end");
  // Without this list (CONFIG_PROC_CHILDREN) daemons could not be found.
  if (access(kChildren, R_OK) != 0) Fail(kUsage, "cannot read", kChildren, errno);
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) Fail(kUsage, "cannot become", "subreaper", errno);
  // Away from the caller's terminal: its Ctrl-C is the caller's to interpret. Fails only for a session leader.
  setsid();
  int signals = CatchSignals();
  if (signals < 0) Fail(kUsage, "cannot make", "a signalfd", errno);
  int code = Supervise(Start(options), signals);
  KillAll();
  return code;
}
