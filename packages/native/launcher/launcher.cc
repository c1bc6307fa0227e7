// tsvmm-launch: runs a program so that nothing of it outlives whoever started it. See src/launcher.ts for usage.
//
//   caller ==fd 3== launcher (subreaper) --- PROGRAM --- ... daemons
//
// It waits for the end of fd 3 (the caller closed it, or is gone) or of PROGRAM, and then kills its children until none is
// left: as subreaper it inherits every descendant whose parent ended. Static, without the C++ runtime, to stay small.
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr int kControlFd = 3;
constexpr int kMaxKept = 64;
constexpr int kUsage = 125;
constexpr int kCannotRun = 126;
constexpr int kNotFound = 127;
constexpr int kStopped = 128 + SIGKILL;

struct Options {
  const char* change_to = nullptr;
  const char* remove = nullptr;
  int kept[kMaxKept];
  int kept_count = 0;
  char** program = nullptr;
};

/** The tree to remove, opened before PROGRAM could move it. */
struct Doomed {
  int parent = -1;
  int top = -1;
  const char* name = nullptr;
};

[[noreturn]] void Fail(int code, const char* what, const char* name, int error) {
  if (error != 0) {
    dprintf(2, "tsvmm-launch: %s %s: %s\n", what, name, strerror(error));
  } else {
    dprintf(2, "tsvmm-launch: %s %s\n", what, name);
  }
  _exit(code);
}

int ParseFd(const char* text) {
  char* end = nullptr;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno != 0 || *text == '\0' || *end != '\0' || value <= kControlFd || value > 1 << 20) {
    Fail(kUsage, "--keep-fd wants a number above 3, not", text, 0);
  }
  if (fcntl(static_cast<int>(value), F_GETFD) < 0) Fail(kUsage, "cannot keep fd", text, errno);
  return static_cast<int>(value);
}

Options Parse(int count, char** words) {
  Options options;
  int i = 1;
  for (; i < count && strcmp(words[i], "--") != 0; i += 2) {
    // SAFETY: words[count] is a null pointer, so words[i + 1] may be looked at.
    const char* value = words[i + 1];
    if (value == nullptr) Fail(kUsage, "no value after", words[i], 0);
    if (strcmp(words[i], "--chdir") == 0) {
      options.change_to = value;
    } else if (strcmp(words[i], "--remove-dir") == 0) {
      options.remove = value;
    } else if (strcmp(words[i], "--keep-fd") == 0) {
      if (options.kept_count == kMaxKept) Fail(kUsage, "too many", words[i], 0);
      options.kept[options.kept_count++] = ParseFd(value);
    } else {
      Fail(kUsage, "unknown option", words[i], 0);
    }
  }
  if (i + 1 >= count) {
    Fail(kUsage, "usage:", "tsvmm-launch [--chdir DIR] [--keep-fd N]... [--remove-dir DIR] -- PROGRAM ARGS...", 0);
  }
  options.program = words + i + 1;
  return options;
}

/** Closes every fd above 2 except the kept ones and `report`, and lets the kept ones through exec. Linux 5.9. */
bool CloseOthers(Options* options, int report) {
  int keep[kMaxKept + 1];
  int count = 0;
  for (; count < options->kept_count; count++) {
    keep[count] = options->kept[count];
    fcntl(keep[count], F_SETFD, 0);
  }
  keep[count++] = report;
  unsigned next = kControlFd;
  for (;;) {
    // The lowest kept fd from `next` on; few of them, so no sorting.
    unsigned lowest = UINT32_MAX;
    for (int i = 0; i < count; i++) {
      auto fd = static_cast<unsigned>(keep[i]);
      if (fd >= next && fd < lowest) lowest = fd;
    }
    unsigned last = lowest == UINT32_MAX ? UINT32_MAX : lowest - 1;
    if (next <= last && syscall(SYS_close_range, next, last, 0) != 0) return false;
    if (lowest == UINT32_MAX) return true;
    next = lowest + 1;
  }
}

void ResetSignals() {
  for (int number = 1; number <= SIGRTMAX; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

/** Becomes PROGRAM; on failure writes {step, errno} to `report`. */
[[noreturn]] void Become(Options* options, pid_t parent, int report) {
  int failure[2] = {0, 0};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before that call.
  if (getppid() != parent) _exit(kStopped);
  setpgid(0, 0);
  rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  ResetSignals();
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !CloseOthers(options, report)) {
    failure[0] = 2;
  } else if (options->change_to != nullptr && chdir(options->change_to) != 0) {
    failure[0] = 1;
  } else {
    execvp(options->program[0], options->program);
  }
  failure[1] = errno;
  if (write(report, failure, sizeof failure) < 0) _exit(kUsage);
  _exit(kCannotRun);
}

pid_t Start(Options* options) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) Fail(kUsage, "cannot make", "a pipe", errno);
  pid_t parent = getpid();
  pid_t child = fork();
  if (child < 0) Fail(kUsage, "cannot fork for", options->program[0], errno);
  if (child == 0) Become(options, parent, report[1]);
  close(report[1]);
  int failure[2];
  ssize_t got;
  do {
    got = read(report[0], failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  close(report[0]);
  if (got != sizeof failure) return child;
  if (failure[0] == 1) Fail(kCannotRun, "cannot enter", options->change_to, failure[1]);
  if (failure[0] == 2) Fail(kUsage, "cannot confine", options->program[0], failure[1]);
  Fail(failure[1] == ENOENT ? kNotFound : kCannotRun, "cannot run", options->program[0], failure[1]);
}

/** The parent of process `name` ("1234"), or -1. */
pid_t ParentOf(int proc, const char* name) {
  char path[32];
  snprintf(path, sizeof path, "%.20s/stat", name);
  int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  char text[512];
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return -1;
  text[got] = '\0';
  // A command name may contain anything, also parentheses: the last one ends it. Then "STATE PPID".
  const char* after = strrchr(text, ')');
  if (after == nullptr || strlen(after) < 5) return -1;
  return static_cast<pid_t>(strtol(after + 4, nullptr, 10));
}

/** Kills the children that the kernel lists; false if it does not (CONFIG_PROC_CHILDREN). */
bool KillListed() {
  int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[4096];
  ssize_t got;
  pid_t child = 0;
  while ((got = read(fd, text, sizeof text)) > 0) {
    for (ssize_t i = 0; i < got; i++) {
      if (text[i] >= '0' && text[i] <= '9') {
        child = child * 10 + (text[i] - '0');
      } else if (child > 0) {
        kill(child, SIGKILL);
        child = 0;
      }
    }
  }
  close(fd);
  return true;
}

/** Kills our children. Nobody else reaps them, so their numbers cannot belong to others meanwhile. */
void KillChildren() {
  if (KillListed()) return;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) return;
  pid_t self = getpid();
  while (dirent* entry = readdir(proc)) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    if (ParentOf(dirfd(proc), entry->d_name) == self) {
      kill(static_cast<pid_t>(strtol(entry->d_name, nullptr, 10)), SIGKILL);
    }
  }
  closedir(proc);
}

/** Kills every descendant. A killed process cannot fork any more, and its children become ours. */
void KillAll(pid_t program) {
  // A first blow without a look at /proc, for the usual case of one process group.
  if (program > 0) kill(-program, SIGKILL);
  for (;;) {
    pid_t gone = 0;
    bool reaped = false;
    while ((gone = waitpid(-1, nullptr, WNOHANG)) > 0) reaped = true;
    if (gone < 0 && errno == ECHILD) return;
    KillChildren();
    // Whoever forks without end is outrun only without a rest.
    timespec moment = {0, 200 * 1000};
    if (!reaped) nanosleep(&moment, nullptr);
  }
}

bool IsDot(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

int OpenFolder(int parent, const char* name) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int fd = openat(parent, name, kFlags);
  if (fd >= 0 || errno != EACCES) return fd;
  // PROGRAM took its own permissions away.
  fchmodat(parent, name, 0700, AT_SYMLINK_NOFOLLOW);
  return openat(parent, name, kFlags);
}

/** Empties the folder `name` of `top`: files go, folders move up into `top`. True if something changed. */
bool Flatten(int top, dev_t device, const char* name) {
  static unsigned long moved = 0;
  int fd = OpenFolder(top, name);
  if (fd < 0) return false;
  struct stat facts;
  DIR* folder = nullptr;
  // Another file system mounted there is not ours to empty.
  if (fstat(fd, &facts) != 0 || facts.st_dev != device || (folder = fdopendir(fd)) == nullptr) {
    close(fd);
    return false;
  }
  fchmod(fd, 0700);
  bool changed = false;
  while (dirent* entry = readdir(folder)) {
    if (IsDot(entry->d_name)) continue;
    if (unlinkat(fd, entry->d_name, 0) == 0) {
      changed = true;
    } else if (errno == EISDIR || errno == EPERM) {
      char fresh[48];
      snprintf(fresh, sizeof fresh, ".tsvmm-launch-%lu", moved++);
      // A folder that moves has its ".." rewritten, which takes permission to write it.
      fchmodat(fd, entry->d_name, 0700, AT_SYMLINK_NOFOLLOW);
      if (renameat2(fd, entry->d_name, top, fresh, RENAME_NOREPLACE) == 0) changed = true;
    }
  }
  closedir(folder);
  return changed;
}

/**
 * Removes the tree, never following a symbolic link nor entering another file system. Depth does not
 * matter: sub-folders are moved up before they are emptied, so two open folders are enough.
 */
void RemoveTree(const Doomed& doomed) {
  struct stat facts;
  DIR* folder = fdopendir(doomed.top);
  if (folder == nullptr || fstat(doomed.top, &facts) != 0) return;
  fchmod(doomed.top, 0700);
  bool changed = true;
  while (changed) {
    changed = false;
    rewinddir(folder);
    while (dirent* entry = readdir(folder)) {
      if (IsDot(entry->d_name)) continue;
      if (unlinkat(doomed.top, entry->d_name, 0) == 0 || unlinkat(doomed.top, entry->d_name, AT_REMOVEDIR) == 0) {
        changed = true;
      } else if (Flatten(doomed.top, facts.st_dev, entry->d_name)) {
        changed = true;
      }
    }
  }
  unlinkat(doomed.parent, doomed.name, AT_REMOVEDIR);
}

Doomed OpenDoomed(char* path) {
  Doomed doomed;
  char* slash = strrchr(path, '/');
  if (path[0] != '/' || slash[1] == '\0' || IsDot(slash + 1)) {
    Fail(kUsage, "--remove-dir wants an absolute path without a slash at its end, not", path, 0);
  }
  doomed.name = slash + 1;
  doomed.top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (doomed.top < 0) Fail(kUsage, "cannot open", path, errno);
  *slash = '\0';
  doomed.parent = open(slash == path ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (doomed.parent < 0) Fail(kUsage, "cannot open", path, errno);
  *slash = '/';
  return doomed;
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
  if (events == 0) return false;
  char bytes[64];
  if (events & POLLIN) {
    ssize_t got = read(kControlFd, bytes, sizeof bytes);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
  }
  return true;
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
int Supervise(pid_t program, int signals, bool* stopped) {
  pollfd watched[2] = {{kControlFd, POLLIN, 0}, {signals, POLLIN, 0}};
  for (;;) {
    int code = Reap(program);
    if (code >= 0) return code;
    if (poll(watched, 2, -1) < 0) continue;
    *stopped = ControlEnded(watched[0].revents);
    if (AskedToStop(signals)) *stopped = true;
    if (*stopped) return kStopped;
  }
}

}  // namespace

int main(int count, char** words) {
  Options options = Parse(count, words);
  if (fcntl(kControlFd, F_SETFD, FD_CLOEXEC) != 0) {
    Fail(kUsage, "fd 3 is missing:", "the caller holds its other end", 0);
  }
  Doomed doomed;
  if (options.remove != nullptr) doomed = OpenDoomed(const_cast<char*>(options.remove));
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) Fail(kUsage, "cannot become", "subreaper", errno);
  // Away from the caller's terminal: its Ctrl-C is the caller's to interpret. Fails only for a session leader.
  setsid();
  int signals = CatchSignals();
  if (signals < 0) Fail(kUsage, "cannot make", "a signalfd", errno);
  pid_t program = Start(&options);
  bool stopped = false;
  int code = Supervise(program, signals, &stopped);
  KillAll(stopped ? program : 0);
  if (stopped && options.remove != nullptr) RemoveTree(doomed);
  return code;
}
