// The agent's state: one sandbox, its containers, their processes, and the connection to the host.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "changes.h"
#include "connection.h"
#include "fd.h"
#include "loop.h"
#include "messages.h"
#include "stdio.h"
#include "ttrpc.h"

namespace agent {

constexpr char kVersion[] = "0.1.0";
// Everything the agent makes lies below this directory, and mounts may be nowhere else.
constexpr char kBaseDir[] = "/run/tsvmm";
constexpr char kCgroupDir[] = "/sys/fs/cgroup";

constexpr size_t kContainersMax = 256;
constexpr size_t kProcessesMax = 1024;
// Of one process. Nobody tells the agent that a caller has given up, so the oldest gives way to a new one.
constexpr size_t kWaitersMax = 64;

// A call whose answer is still owed; 0 is none (ttrpc stream ids are odd).
using PendingCall = uint32_t;

struct Container;

struct Process {
  enum class State { setting_up, created, starting, running, exited };

  Container* container;
  std::string id;
  pid_t pid = 0;
  State state = State::setting_up;
  int exit_status = 0;
  bool is_init = false;
  PendingCall create_call = 0, start_call = 0;
  std::vector<PendingCall> waiters;

  // The child's end of set-up: reports come in, the word to start goes out.
  struct Sync : Handler {
    void ready(uint32_t events) override;
    class Agent* agent;
    Process* process;
    Fd fd;
    uint32_t watched = 0;
  } sync;
  // Why set-up or execve failed, once the child has said so.
  Status failure;

  // Numbers of the relays of its streams, and of the one that window sizes go to; 0 is none.
  uint64_t stdin_relay = 0, stdout_relay = 0, stderr_relay = 0, terminal_relay = 0;
  // What its output streams were to carry when it ended.
  uint64_t stdout_bytes = 0, stderr_bytes = 0;
  uint32_t terminal_port = 0;
  Box window;

  bool running() const { return pid > 0 && state != State::exited; }
  // Whether its view of files is the container's. Before that it is the agent's.
  bool in_root() const { return running() && state != State::setting_up; }
};

struct Container {
  std::string id;
  Spec spec;
  std::vector<std::string> mounted;
  // Directories of its overlays that hold what it wrote: removed with it.
  std::vector<std::string> written;
  // Of its root, if that is an overlay, and what was in the upper one when the program started.
  OverlayLayers layers;
  ChangesBaseline baseline;
  std::map<std::string, std::unique_ptr<Process>> processes;
  Fd cgroup, pidfd;

  struct OomWatch : Handler {
    void ready(uint32_t events) override;
    class Agent* agent;
    Container* container;
    Fd fd;
    uint32_t watched = 0;
    uint64_t kills = 0;
  } oom;

  // Whom to tell, and what, when the last trace is gone: who asked for that, or whose creation failed.
  PendingCall remove_call = 0, failed_call = 0;
  Status failure;
  bool removing = false;

  Process* init() { return processes.at(id).get(); }
};

// What a job is given of the agent's: a stream to the host, and the first process of the container whose files it sees.
struct JobFds {
  Fd stream;
  int container = -1;
};

// Work that takes long, done by a child of the agent's own: it keeps nobody waiting, and what it uses goes with it.
struct Job {
  std::string container;
  // Where the child says how it went.
  Fd report;
  std::function<void(const Status&)> done;
};

class Agent : public FrameParser::Sink, Handler {
 public:
  // Serves `connection`. `stdio_dir` is empty in a sandbox; in tests stdio ports are AF_UNIX sockets in that
  // directory, and what would change the whole machine is refused.
  Agent(Fd connection, std::string stdio_dir);
  // Returns when the sandbox is to end; nothing is running in it then.
  void run();

  void request(uint32_t stream, std::string_view data) override;
  void refused(uint32_t stream, const Status& status) override;

  Loop& loop() { return loop_; }
  void answer(PendingCall call, const Status& status, std::string_view payload = {});
  void add_waiter(std::vector<PendingCall>& waiters, PendingCall call);
  // The child has reported something, or has closed its socket by execve or by dying.
  void on_sync(Process& process);
  void on_oom(Container& container);

 private:
  struct Method;
  static const Method kMethods[];

  // service.cc
  Status create_sandbox(uint32_t stream, std::string_view payload);
  Status destroy_sandbox(uint32_t stream, std::string_view payload);
  Status update_interface(uint32_t stream, std::string_view payload);
  Status update_routes(uint32_t stream, std::string_view payload);
  Status reseed_random(uint32_t stream, std::string_view payload);
  Status guest_details(uint32_t stream, std::string_view payload);
  Status set_date_time(uint32_t stream, std::string_view payload);
  Status oom_event(uint32_t stream, std::string_view payload);
  Status health_check(uint32_t stream, std::string_view payload);
  Status health_version(uint32_t stream, std::string_view payload);
  // container.cc
  Status create_container(uint32_t stream, std::string_view payload);
  Status start_container(uint32_t stream, std::string_view payload);
  Status remove_container(uint32_t stream, std::string_view payload);
  Status update_container(uint32_t stream, std::string_view payload);
  Status stats_container(uint32_t stream, std::string_view payload);
  Status pause_container(uint32_t stream, std::string_view payload);
  Status resume_container(uint32_t stream, std::string_view payload);
  Status make_container(Container& container, CreateContainerRequest& request);
  void watch_oom(Container& container);
  void answer_when_frozen(const std::string& id, PendingCall call, int tries);
  void remove(Container& container);
  void try_remove(const std::string& id);
  void remove_written(Container& container);
  void forget(const std::string& id);
  bool alive(const Container& container) const;
  Container* find_container(const std::string& id);
  // jobs.cc
  using JobWork = std::function<Status(int stream)>;
  bool start_job(const std::string& container, JobFds fds, const JobWork& work, std::function<void(const Status&)> done);
  bool job_ended(pid_t pid, int status);
  void kill_jobs(const std::string& container);
  bool has_jobs(const std::string& container) const;
  // files.cc
  using ChangesWork = Status (*)(const Container& container, int stream);
  Status changes_job(uint32_t call, std::string_view payload, ChangesWork work);
  Status stream_job(uint32_t call, const Container& container, uint32_t port, bool entered, const JobWork& work);
  Status list_changes(uint32_t stream, std::string_view payload);
  Status pack_changes(uint32_t stream, std::string_view payload);
  Status pack_files(uint32_t stream, std::string_view payload);
  Status unpack_files(uint32_t stream, std::string_view payload);
  // plug.cc
  Status slot_call(uint32_t call, std::string_view payload, bool bind);
  Status bind_device(uint32_t call, std::string_view payload);
  Status unbind_device(uint32_t call, std::string_view payload);
  Status set_processors(uint32_t call, std::string_view payload);
  Status mount_volume(uint32_t call, std::string_view payload);
  Status unmount_volume(uint32_t call, std::string_view payload);
  Status show_volume(uint32_t call, std::string_view payload);
  Status hide_volume(uint32_t call, std::string_view payload);
  Status find_view(std::string_view payload, ViewRequest& request, JobFds& fds);
  Status plug_job(uint32_t call, const std::string& container, JobFds fds, const JobWork& work, std::function<void()> done = {});
  // process.cc
  Status exec_process(uint32_t stream, std::string_view payload);
  Status signal_process(uint32_t stream, std::string_view payload);
  Status wait_process(uint32_t stream, std::string_view payload);
  Status close_stdin(uint32_t stream, std::string_view payload);
  Status resize_terminal(uint32_t stream, std::string_view payload);
  Status find_process(std::string_view payload, ProcessRequest& request, Process*& process);
  Status spawn(Process& process, const ProcessSpec& spec, const StdioPorts& ports);
  Status open_stdio(Process& process, const StdioPorts& ports, Fd (&child_ends)[3]);
  void start(Process& process);
  void exited(Process& process, int status);
  void answer_waiters(Process& process, const Status& status);
  Fd connect_port(uint32_t port);
  uint64_t add_relay(Relay::Kind kind, Fd local, Fd remote);
  Relay* relay(uint64_t id);
  void watch_terminal(Process& process, Fd master);
  void apply_window(Process& process);
  void unwatch(Process& process);

  // Handler of the SIGCHLD descriptor.
  void ready(uint32_t events) override;

  Loop loop_;
  Connection connection_;
  Fd children_;
  uint32_t children_watched_ = 0;
  const std::string stdio_dir_;
  bool sandbox_created_ = false;
  std::string hostname_;
  std::vector<std::string> mounted_;
  std::vector<std::string> dns_;
  std::map<std::string, std::unique_ptr<Container>> containers_;
  std::unordered_map<pid_t, Process*> by_pid_;
  std::unordered_map<pid_t, Job> jobs_;
  std::map<uint64_t, std::unique_ptr<Relay>> relays_;
  uint64_t next_relay_ = 1;
  std::vector<PendingCall> oom_calls_;
  std::vector<std::string> oom_ids_;
};

// "agent: ..." on the console.
void log(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace agent
