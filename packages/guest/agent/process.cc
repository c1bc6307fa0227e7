// Processes: made, heard, signalled, waited for.
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "agent.h"
#include "boot.h"
#include "cgroup.h"
#include "child.h"
#include "paths.h"

namespace agent {

namespace {

Status invalid(std::string what) { return {Code::invalid_argument, std::move(what), {}}; }

bool wants_network(const LinuxSpec& spec) {
  return std::any_of(spec.namespaces.begin(), spec.namespaces.end(), [](const Namespace& ns) { return ns.type == "network"; });
}

// A child in the container's cgroup from its first moment. 0 in the child, like fork.
pid_t clone_into(uint64_t flags, int cgroup, int* pidfd) {
  clone_args args{};
  args.flags = flags | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND | (pidfd ? CLONE_PIDFD : 0);
  args.exit_signal = SIGCHLD;
  args.cgroup = static_cast<uint64_t>(cgroup);
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
}

}  // namespace

Fd Agent::connect_port(uint32_t port) {
  if (stdio_dir_.empty()) return vsock_connect(port, false);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s/%u", stdio_dir_.c_str(), port);
  if (fd && connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

uint64_t Agent::add_relay(Relay::Kind kind, Fd local, Fd remote) {
  const uint64_t id = next_relay_++;
  relays_[id] = std::make_unique<Relay>(loop_, kind, std::move(local), std::move(remote), [this, id] { relays_.erase(id); });
  return id;
}

Relay* Agent::relay(uint64_t id) {
  const auto it = relays_.find(id);
  return it == relays_.end() ? nullptr : it->second.get();
}

// Pipes for every stream that has a port, the null device for the others. With a terminal all streams are
// the null device until the child has opened it.
Status Agent::open_stdio(Process& process, const StdioPorts& ports, Fd (&child_ends)[3]) {
  const uint32_t by_number[3] = {ports.in, ports.out, ports.err};
  const bool terminal = process.terminal_port != 0;
  for (int i = 0; i < 3; i++) {
    if (terminal || by_number[i] == 0) {
      child_ends[i].reset(open("/dev/null", O_RDWR | O_CLOEXEC));
      continue;
    }
    Fd remote = connect_port(by_number[i]);
    if (!remote) return errno_status("connect to stdio port " + std::to_string(by_number[i]), errno);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return errno_status("pipe", errno);
    Fd reading(ends[0]), writing(ends[1]);
    // May be refused where many pipes are in use; then it stays as it is.
    if (i != 2) fcntl(ends[0], F_SETPIPE_SZ, kPipeSize);
    child_ends[i] = std::move(i == 0 ? reading : writing);
    Fd& ours = i == 0 ? writing : reading;
    const uint64_t id = add_relay(i == 0 ? Relay::Kind::inward : Relay::Kind::outward, std::move(ours), std::move(remote));
    uint64_t* const numbers[3] = {&process.stdin_relay, &process.stdout_relay, &process.stderr_relay};
    *numbers[i] = id;
  }
  return {};
}

Status Agent::spawn(Process& process, const ProcessSpec& spec, const StdioPorts& ports) {
  Container& container = *process.container;
  // A container may do without a program and only wait for those that join it.
  if (spec.args.empty() && !process.is_init) return invalid("process has no arguments");
  if (spec.terminal && ports.out == 0) return invalid("a terminal needs stdout_port");
  if (by_pid_.size() >= kProcessesMax || relays_.size() >= 3 * kProcessesMax)
    return {Code::resource_exhausted, "too many processes", {}};
  process.terminal_port = spec.terminal ? ports.out : 0;
  process.window = spec.console_size;
  Fd child_ends[3];
  Status status = open_stdio(process, ports, child_ends);
  if (!status.ok()) return status;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return errno_status("socketpair", errno);
  process.sync.fd.reset(pair[0]);
  const Fd child_sync(pair[1]);

  ChildPlan plan;
  plan.spec = process.is_init ? &container.spec : nullptr;
  plan.process = &spec;
  plan.name_servers = &dns_;
  plan.new_network = process.is_init && wants_network(container.spec.linux_spec);
  plan.pidfd = process.is_init ? -1 : container.pidfd.get();
  for (int i = 0; i < 3; i++) plan.stdio[i] = child_ends[i].get();
  plan.sync = child_sync.get();
  plan.window = process.window;

  int pidfd = -1;
  uint64_t flags = 0;
  Fd own_pids;
  if (process.is_init) {
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (plan.new_network ? CLONE_NEWNET : 0);
  } else {
    // Children are born in the container's pid namespace from here on, until it is set back.
    own_pids.reset(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
    if (setns(plan.pidfd, CLONE_NEWPID) != 0) return {Code::failed_precondition, "container is not running", {}};
  }
  const pid_t pid = clone_into(flags, container.cgroup.get(), process.is_init ? &pidfd : nullptr);
  const int error = errno;
  if (pid == 0) run_child(plan);
  if (own_pids) setns(own_pids.get(), CLONE_NEWPID);
  if (pid < 0) return errno_status("clone", error);

  if (process.is_init) container.pidfd.reset(pidfd);
  process.pid = pid;
  by_pid_[pid] = &process;
  process.sync.agent = this;
  process.sync.process = &process;
  loop_.watch(process.sync.fd.get(), &process.sync, process.sync.watched, EPOLLIN);
  return {};
}

void Process::Sync::ready(uint32_t) { agent->on_sync(*process); }

void Agent::on_sync(Process& process) {
  while (process.sync.fd) {
    ChildReport report{};
    iovec iov{&report, sizeof report};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = recvmsg(process.sync.fd.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return;
    Fd passed;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
      int fd;
      memcpy(&fd, CMSG_DATA(header), sizeof fd);
      passed.reset(fd);
    }
    if (n == 0) {
      unwatch(process);
      // Closed by execve, unless it has failed; a child that died instead is heard of by SIGCHLD.
      if (process.state != Process::State::starting || process.failure.code != Code::ok) return;
      process.state = Process::State::running;
      answer(process.start_call, {});
      process.start_call = 0;
      return;
    }
    report.text[sizeof report.text - 1] = report.reason[sizeof report.reason - 1] = '\0';
    if (report.kind == ChildReport::terminal) {
      watch_terminal(process, std::move(passed));
    } else if (report.kind == ChildReport::failed) {
      process.failure = {static_cast<Code>(report.code), report.text, report.reason};
    } else if (report.kind == ChildReport::ready) {
      process.state = Process::State::created;
      if (process.is_init) process.container->baseline = take_baseline(process.container->layers.upper);
      answer(process.create_call, {});
      process.create_call = 0;
      if (process.start_call != 0) start(process);
    }
  }
}

void Agent::start(Process& process) {
  process.state = Process::State::starting;
  send(process.sync.fd.get(), "g", 1, MSG_NOSIGNAL);
}

void Agent::unwatch(Process& process) {
  if (!process.sync.fd) return;
  loop_.watch(process.sync.fd.get(), &process.sync, process.sync.watched, 0);
  process.sync.fd.reset();
}

void Agent::watch_terminal(Process& process, Fd master) {
  Fd remote = connect_port(process.terminal_port);
  if (!remote || !master) return log("terminal of %s: no connection", process.id.c_str());
  process.terminal_relay = process.stdin_relay = process.stdout_relay = add_relay(Relay::Kind::terminal, std::move(master), std::move(remote));
  apply_window(process);
}

void Agent::apply_window(Process& process) {
  Relay* terminal = relay(process.terminal_relay);
  if (!terminal || process.window.height == 0) return;
  const winsize size{static_cast<unsigned short>(process.window.height), static_cast<unsigned short>(process.window.width), 0, 0};
  ioctl(terminal->local(), TIOCSWINSZ, &size);
}

// SIGCHLD: everything that has ended, ours or an orphan.
void Agent::ready(uint32_t) {
  signalfd_siginfo info[8];
  while (read(children_.get(), info, sizeof info) > 0) continue;
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    const auto it = by_pid_.find(pid);
    if (it == by_pid_.end()) {
      job_ended(pid, status);
      continue;
    }
    Process& process = *it->second;
    by_pid_.erase(it);
    exited(process, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
}

void Agent::exited(Process& process, int status) {
  // Its last words first.
  on_sync(process);
  unwatch(process);
  const Process::State before = std::exchange(process.state, Process::State::exited);
  process.exit_status = status;
  // Of a relay that is gone the host has seen the end.
  if (const Relay* output = relay(process.stdout_relay)) process.stdout_bytes = output->promised();
  if (const Relay* output = relay(process.stderr_relay)) process.stderr_bytes = output->promised();
  if (Relay* input = relay(process.stdin_relay); input && process.terminal_port == 0) input->close_inward();

  Container& container = *process.container;
  if (before == Process::State::setting_up || before == Process::State::created) {
    // A container that was never started. Whoever waits for anything of it learns why.
    Status failure = process.failure;
    if (failure.ok()) failure = {Code::internal, "process was killed during set-up", {}};
    answer(std::exchange(process.start_call, 0), failure);
    if (before == Process::State::setting_up) {
      // Its creation is answered when the id is free again.
      container.failed_call = std::exchange(process.create_call, 0);
      container.failure = failure;
      answer_waiters(process, failure);
      return remove(container);
    }
  }
  if (process.start_call != 0)
    answer(std::exchange(process.start_call, 0), process.failure.ok() ? Status{} : process.failure);
  answer_waiters(process, {});
  try_remove(container.id);
}

void Agent::answer_waiters(Process& process, const Status& status) {
  WireWriter reply;
  reply.put(1, static_cast<uint64_t>(process.exit_status));
  reply.put(2, process.stdout_bytes);
  reply.put(3, process.stderr_bytes);
  const auto waiters = std::move(process.waiters);
  for (const PendingCall call : waiters) answer(call, status, reply.bytes());
  // An exec whose end was reported is forgotten; a container's first process stays until it is removed.
  const bool forget = !process.is_init && (!waiters.empty() || !process.failure.ok());
  if (forget) process.container->processes.erase(std::string(process.id));
}

Status Agent::exec_process(uint32_t stream, std::string_view payload) {
  ExecProcessRequest request;
  if (!decode(payload, request)) return invalid("ExecProcessRequest does not decode");
  Container* container = find_container(request.container_id);
  if (!container) return {Code::not_found, "container \"" + request.container_id.substr(0, 128) + "\" does not exist", {}};
  if (!valid_id(request.exec_id)) return invalid("exec id \"" + request.exec_id.substr(0, 128) + "\" is not an id");
  if (container->processes.count(request.exec_id)) return {Code::already_exists, "exec \"" + request.exec_id + "\" exists", {}};
  if (container->processes.size() >= kProcessesMax) return {Code::resource_exhausted, "too many processes", {}};
  const auto state = container->init()->state;
  if (state != Process::State::running && state != Process::State::starting)
    return {Code::failed_precondition, "container is not running", {}};
  auto made = std::make_unique<Process>();
  made->container = container;
  made->id = request.exec_id;
  made->state = Process::State::starting;
  Process& process = *(container->processes[request.exec_id] = std::move(made));
  const Status status = spawn(process, request.process, request.ports);
  if (!status.ok()) {
    container->processes.erase(request.exec_id);
    return status;
  }
  process.start_call = stream;
  return {Code::pending, {}, {}};
}

Status Agent::find_process(std::string_view payload, ProcessRequest& request, Process*& process) {
  if (!decode(payload, request)) return invalid("request does not decode");
  Container* container = find_container(request.container_id);
  if (!container) return {Code::not_found, "container \"" + request.container_id.substr(0, 128) + "\" does not exist", {}};
  const auto it = container->processes.find(request.exec_id);
  if (it == container->processes.end())
    return {Code::not_found, "process \"" + request.exec_id.substr(0, 128) + "\" does not exist", {}};
  process = it->second.get();
  return {};
}

Status Agent::signal_process(uint32_t, std::string_view payload) {
  ProcessRequest request;
  if (!decode(payload, request)) return invalid("SignalProcessRequest does not decode");
  if (request.number == 0 || request.number >= NSIG) return invalid("signal " + std::to_string(request.number) + " does not exist");
  const int number = static_cast<int>(request.number);
  if (request.exec_id.empty()) {
    if (!find_container(request.container_id)) return {Code::not_found, "container does not exist", {}};
    if (number == SIGKILL) return cgroup_kill(request.container_id) ? Status{} : errno_status("kill", errno);
    const std::string procs = read_file(cgroup_path(request.container_id) + "/cgroup.procs", 1 << 20);
    for (const auto line : split(procs, '\n')) {
      uint64_t pid;
      if (parse_number(line, pid) && pid > 1) kill(static_cast<pid_t>(pid), number);
    }
    return {};
  }
  Process* process;
  const Status status = find_process(payload, request, process);
  if (!status.ok()) return status;
  if (!process->running()) return {Code::not_found, "process has ended", {}};
  // Not reaped yet, so the number is still its own.
  return kill(process->pid, number) == 0 ? Status{} : errno_status("kill", errno);
}

Status Agent::wait_process(uint32_t stream, std::string_view payload) {
  ProcessRequest request;
  Process* process;
  const Status status = find_process(payload, request, process);
  if (!status.ok()) return status;
  add_waiter(process->waiters, stream);
  if (process->state == Process::State::exited) answer_waiters(*process, {});
  return {Code::pending, {}, {}};
}

Status Agent::close_stdin(uint32_t, std::string_view payload) {
  ProcessRequest request;
  Process* process;
  const Status status = find_process(payload, request, process);
  if (!status.ok()) return status;
  if (Relay* input = relay(process->stdin_relay)) input->end_inward();
  return {};
}

Status Agent::resize_terminal(uint32_t, std::string_view payload) {
  ProcessRequest request;
  Process* process;
  const Status status = find_process(payload, request, process);
  if (!status.ok()) return status;
  if (process->terminal_port == 0) return {Code::failed_precondition, "process has no terminal", {}};
  if (request.number > 0xffff || request.number2 > 0xffff) return invalid("terminal size");
  // Kept for a terminal that is still being opened.
  process->window = {request.number, request.number2};
  apply_window(*process);
  return {};
}

}  // namespace agent
