// Which call goes where, and the calls that concern the sandbox as a whole.
#include <linux/random.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "agent.h"
#include "cgroup.h"
#include "mounts.h"
#include "network.h"
#include "paths.h"

namespace agent {

namespace {
constexpr size_t kReseedMax = 4096;
constexpr size_t kHostnameMax = 64;
constexpr size_t kNameServersMax = 16;
constexpr uint64_t kServing = 1;
constexpr char kGrpcVersion[] = "0.0.1";
}  // namespace

struct Agent::Method {
  const char* service;
  const char* name;
  Status (Agent::*call)(uint32_t stream, std::string_view payload);
};

#define AGENT_METHOD(name, member) {"grpc.AgentService", name, &Agent::member}
const Agent::Method Agent::kMethods[] = {
    AGENT_METHOD("CreateSandbox", create_sandbox),
    AGENT_METHOD("UpdateInterface", update_interface),
    AGENT_METHOD("UpdateRoutes", update_routes),
    AGENT_METHOD("DestroySandbox", destroy_sandbox),
    AGENT_METHOD("CreateContainer", create_container),
    AGENT_METHOD("StartContainer", start_container),
    AGENT_METHOD("RemoveContainer", remove_container),
    AGENT_METHOD("UpdateContainer", update_container),
    AGENT_METHOD("StatsContainer", stats_container),
    AGENT_METHOD("PauseContainer", pause_container),
    AGENT_METHOD("ResumeContainer", resume_container),
    AGENT_METHOD("ExecProcess", exec_process),
    AGENT_METHOD("SignalProcess", signal_process),
    AGENT_METHOD("WaitProcess", wait_process),
    AGENT_METHOD("CloseStdin", close_stdin),
    AGENT_METHOD("TtyWinResize", resize_terminal),
    AGENT_METHOD("ReseedRandomDev", reseed_random),
    AGENT_METHOD("GetGuestDetails", guest_details),
    AGENT_METHOD("SetGuestDateTime", set_date_time),
    AGENT_METHOD("GetOOMEvent", oom_event),
    {"tsvmm.ContainerFiles", "ListChanges", &Agent::list_changes},
    {"tsvmm.ContainerFiles", "PackChanges", &Agent::pack_changes},
    {"tsvmm.ContainerFiles", "PackFiles", &Agent::pack_files},
    {"tsvmm.ContainerFiles", "UnpackFiles", &Agent::unpack_files},
    {"tsvmm.Plug", "BindDevice", &Agent::bind_device},
    {"tsvmm.Plug", "UnbindDevice", &Agent::unbind_device},
    {"tsvmm.Plug", "SetProcessors", &Agent::set_processors},
    {"tsvmm.Plug", "MountVolume", &Agent::mount_volume},
    {"tsvmm.Plug", "UnmountVolume", &Agent::unmount_volume},
    {"tsvmm.Plug", "ShowVolume", &Agent::show_volume},
    {"tsvmm.Plug", "HideVolume", &Agent::hide_volume},
    {"grpc.Health", "Check", &Agent::health_check},
    {"grpc.Health", "Version", &Agent::health_version},
};
#undef AGENT_METHOD

Agent::Agent(Fd connection, std::string stdio_dir)
    : connection_(loop_, std::move(connection), *this), stdio_dir_(std::move(stdio_dir)) {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, nullptr);
  signal(SIGPIPE, SIG_IGN);
  children_.reset(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  loop_.watch(children_.get(), this, children_watched_, EPOLLIN);
}

void Agent::run() {
  loop_.run();
  for (const auto& [id, container] : containers_) cgroup_kill(id);
  // As the first process: everybody else, whatever they did to hide.
  if (getpid() == 1) kill(-1, SIGKILL);
  connection_.drain();
}

void Agent::request(uint32_t stream, std::string_view data) {
  CallRequest call;
  if (!decode(data, call)) return answer(stream, {Code::invalid_argument, "request does not decode", {}});
  for (const auto& method : kMethods) {
    if (call.service != method.service || call.method != method.name) continue;
    return answer(stream, (this->*method.call)(stream, call.payload));
  }
  answer(stream, {Code::unimplemented, call.service.substr(0, 64) + "/" + call.method.substr(0, 64) + " is not implemented", {}});
}

void Agent::refused(uint32_t stream, const Status& status) { answer(stream, status); }

void Agent::answer(PendingCall call, const Status& status, std::string_view payload) {
  if (call == 0 || status.code == Code::pending) return;
  connection_.send(response_frame(call, status, payload));
}

void Agent::add_waiter(std::vector<PendingCall>& waiters, PendingCall call) {
  if (waiters.size() >= kWaitersMax) {
    answer(waiters.front(), {Code::resource_exhausted, "too many calls wait for this", {}});
    waiters.erase(waiters.begin());
  }
  waiters.push_back(call);
}

Status Agent::create_sandbox(uint32_t, std::string_view payload) {
  CreateSandboxRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "CreateSandboxRequest does not decode", {}};
  if (sandbox_created_) return {Code::already_exists, "the sandbox was created already", {}};
  if (request.hostname.size() > kHostnameMax) return {Code::invalid_argument, "hostname is too long", {}};
  if (request.dns.size() > kNameServersMax) return {Code::invalid_argument, "too many name servers", {}};
  for (const auto& server : request.dns)
    if (server.find_first_not_of("0123456789abcdefABCDEF:.%") != server.npos)
      return {Code::invalid_argument, "name server \"" + server + "\" is not an address", {}};
  if (!request.hostname.empty() && sethostname(request.hostname.data(), request.hostname.size()) != 0)
    return errno_status("sethostname", errno);
  for (const auto& storage : request.storages) {
    const Status status = mount_storage(storage, mounted_);
    if (status.ok()) continue;
    unmount_all(mounted_);
    return status;
  }
  hostname_ = request.hostname;
  dns_ = request.dns;
  sandbox_created_ = true;
  return {};
}

Status Agent::destroy_sandbox(uint32_t stream, std::string_view) {
  for (const auto& [id, container] : containers_) cgroup_kill(id);
  // A disk of the host is in order only if its file system was unmounted.
  unmount_all(mounted_);
  sync();
  answer(stream, {});
  loop_.stop();
  return {Code::pending, {}, {}};
}

Status Agent::update_interface(uint32_t, std::string_view payload) {
  UpdateInterfaceRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "UpdateInterfaceRequest does not decode", {}};
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  return set_interface(request.interface);
}

Status Agent::update_routes(uint32_t, std::string_view payload) {
  UpdateRoutesRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "UpdateRoutesRequest does not decode", {}};
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  return add_routes(request.routes);
}

Status Agent::reseed_random(uint32_t, std::string_view payload) {
  ReseedRequest request;
  if (!decode(payload, request) || request.data.empty() || request.data.size() > kReseedMax)
    return {Code::invalid_argument, "1 to 4096 bytes of random data are needed", {}};
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  alignas(rand_pool_info) char space[sizeof(rand_pool_info) + kReseedMax];
  auto* pool = reinterpret_cast<rand_pool_info*>(space);
  pool->entropy_count = static_cast<int>(request.data.size() * 8);
  pool->buf_size = static_cast<int>(request.data.size());
  memcpy(pool->buf, request.data.data(), request.data.size());
  const Fd fd(open("/dev/random", O_RDWR | O_CLOEXEC));
  if (!fd || ioctl(fd.get(), RNDADDENTROPY, pool) != 0 || ioctl(fd.get(), RNDRESEEDCRNG) != 0)
    return errno_status("reseed of the random generator", errno);
  return {};
}

Status Agent::guest_details(uint32_t stream, std::string_view) {
  WireWriter details, reply;
  details.put(1, kVersion);
  details.put(2, getpid() == 1 && stdio_dir_.empty());
  for (const char* driver : {"blk", "overlayfs", "tmpfs", "virtio-fs"}) details.put(4, driver);
  reply.put_message(2, details);
  answer(stream, {}, reply.bytes());
  return {Code::pending, {}, {}};
}

Status Agent::set_date_time(uint32_t, std::string_view payload) {
  DateTimeRequest request;
  if (!decode(payload, request) || request.sec < 0 || request.usec < 0 || request.usec >= 1000000)
    return {Code::invalid_argument, "not a time", {}};
  if (!stdio_dir_.empty()) return {Code::failed_precondition, "not in a guest of its own", {}};
  const timespec time{request.sec, request.usec * 1000};
  return clock_settime(CLOCK_REALTIME, &time) == 0 ? Status{} : errno_status("set the clock", errno);
}

Status Agent::oom_event(uint32_t stream, std::string_view) {
  add_waiter(oom_calls_, stream);
  while (!oom_calls_.empty() && !oom_ids_.empty()) {
    WireWriter reply;
    reply.put(1, oom_ids_.front());
    answer(oom_calls_.front(), {}, reply.bytes());
    oom_calls_.erase(oom_calls_.begin());
    oom_ids_.erase(oom_ids_.begin());
  }
  return {Code::pending, {}, {}};
}

Status Agent::health_check(uint32_t stream, std::string_view) {
  WireWriter reply;
  reply.put(1, kServing);
  answer(stream, {}, reply.bytes());
  return {Code::pending, {}, {}};
}

Status Agent::health_version(uint32_t stream, std::string_view) {
  WireWriter reply;
  reply.put(1, kGrpcVersion);
  reply.put(2, kVersion);
  answer(stream, {}, reply.bytes());
  return {Code::pending, {}, {}};
}

}  // namespace agent
