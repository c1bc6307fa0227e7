// Work that takes long, in children of the agent.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "agent.h"

namespace agent {

namespace {

constexpr size_t kJobsMax = 16;
constexpr int kReport = 3, kStream = 4;

// What a child says when it is done; less than PIPE_BUF, so it is there whole or not at all.
struct JobReport {
  int32_t code;
  char text[512];
};

// The child keeps what it was given and nothing else of the agent's: a descriptor held here would keep a stream from
// ending.
[[noreturn]] void run_job(int report, const JobFds& fds, const std::function<Status(int)>& work) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Fd own(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  // From here on every path, whatever links there are, is one of the container.
  const bool entered = fds.container < 0 || setns(fds.container, CLONE_NEWNS) == 0;
  // Its own descriptors are the one thing outside that a job can name: see fd_path.
  const bool placed = fchdir(own.get()) == 0;
  const int stream = fds.stream.get();
  const Fd high_report(fcntl(report, F_DUPFD_CLOEXEC, 10)), high_stream(stream < 0 ? -1 : fcntl(stream, F_DUPFD_CLOEXEC, 10));
  dup3(high_report.get(), kReport, O_CLOEXEC);
  if (high_stream) dup3(high_stream.get(), kStream, O_CLOEXEC);
  close_range(high_stream ? kStream + 1 : kReport + 1, ~0u, 0);
  const Status status = !entered  ? Status{Code::failed_precondition, "the container is not running", {}}
                        : !placed ? Status{Code::internal, "no /proc", {}}
                                  : work(high_stream ? kStream : -1);
  JobReport said{};
  said.code = static_cast<int32_t>(status.code);
  strncpy(said.text, status.message.c_str(), sizeof said.text - 1);
  _exit(write(kReport, &said, sizeof said) == sizeof said ? 0 : 1);
}

Status read_report(int fd, int status) {
  JobReport said{};
  const bool whole = WIFEXITED(status) && WEXITSTATUS(status) == 0 && read(fd, &said, sizeof said) == sizeof said;
  if (!whole) return {Code::internal, "it was ended before it was done", {}};
  said.text[sizeof said.text - 1] = '\0';
  return {static_cast<Code>(said.code), said.text, {}};
}

}  // namespace

// False with errno when there is no child.
bool Agent::start_job(const std::string& container, JobFds fds, const JobWork& work, std::function<void(const Status&)> done) {
  int ends[2];
  if (jobs_.size() >= kJobsMax) return errno = EAGAIN, false;
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  Fd reading(ends[0]);
  const Fd writing(ends[1]);
  const pid_t pid = fork();
  if (pid == 0) run_job(writing.get(), fds, work);
  if (pid < 0) return false;
  jobs_[pid] = Job{container, std::move(reading), std::move(done)};
  return true;
}

bool Agent::job_ended(pid_t pid, int status) {
  const auto it = jobs_.find(pid);
  if (it == jobs_.end()) return false;
  const Job job = std::move(it->second);
  jobs_.erase(it);
  job.done(read_report(job.report.get(), status));
  try_remove(job.container);
  return true;
}

void Agent::kill_jobs(const std::string& container) {
  // Not reaped yet, so each number is still its own.
  for (const auto& [pid, job] : jobs_)
    if (job.container == container) kill(pid, SIGKILL);
}

bool Agent::has_jobs(const std::string& container) const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const auto& entry) { return entry.second.container == container; });
}

}  // namespace agent
