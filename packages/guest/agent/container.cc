// Containers: made, started, limited, removed.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "agent.h"
#include "cgroup.h"
#include "mounts.h"
#include "paths.h"
#include "tree.h"

namespace agent {

namespace {

constexpr int kRemoveRetryMs = 5;
constexpr int kFreezeRetryMs = 2, kFreezeTries = 10'000;
constexpr size_t kOomEventsMax = kContainersMax;

Status invalid(std::string what) { return {Code::invalid_argument, std::move(what), {}}; }

Status check_namespaces(const LinuxSpec& spec) {
  constexpr const char* kKnown[] = {"mount", "pid", "uts", "ipc", "cgroup", "network"};
  for (const auto& ns : spec.namespaces) {
    if (std::none_of(std::begin(kKnown), std::end(kKnown), [&](const char* name) { return ns.type == name; }))
      return invalid("namespace \"" + ns.type + "\" is not supported");
    if (!ns.path.empty()) return invalid("namespaces are always new, a path cannot be joined");
  }
  return {};
}

Status check_spec(const Spec& spec) {
  if (!below_base(spec.root.path)) return invalid("root \"" + spec.root.path + "\" is outside " + kBaseDir);
  for (const auto& [key, value] : spec.linux_spec.sysctl)
    if (key.find("..") != key.npos) return invalid("sysctl \"" + key + "\"");
  return check_namespaces(spec.linux_spec);
}

// The directories of an overlay that take what is written; mount_storage checks them.
void note_written(const Storage& storage, std::vector<std::string>& written) {
  if (storage.driver != "overlayfs") return;
  for (const auto& option : storage.options)
    for (const std::string_view key : {"upperdir=", "workdir="})
      if (option.rfind(key, 0) == 0 && below_base(option.substr(key.size()))) written.push_back(option.substr(key.size()));
}

std::string option_value(const Storage& storage, std::string_view key) {
  for (const auto& option : storage.options)
    if (option.rfind(key, 0) == 0) return option.substr(key.size());
  return {};
}

OverlayLayers layers_of(const Storage& storage) {
  if (storage.driver != "overlayfs") return {};
  return {option_value(storage, "lowerdir="), option_value(storage, "upperdir=")};
}

}  // namespace

Container* Agent::find_container(const std::string& id) {
  const auto it = containers_.find(id);
  return it == containers_.end() || it->second->removing ? nullptr : it->second.get();
}

static Status no_container(const std::string& id) {
  return {Code::not_found, "container \"" + id.substr(0, 128) + "\" does not exist", {}};
}

Status Agent::create_container(uint32_t stream, std::string_view payload) {
  CreateContainerRequest request;
  if (!decode(payload, request)) return invalid("CreateContainerRequest does not decode");
  const std::string id = request.container_id;
  if (!valid_id(id)) return invalid("container id \"" + id.substr(0, 128) + "\" is not an id");
  if (!request.exec_id.empty() && request.exec_id != id) return invalid("exec_id of a container's first process is its container_id");
  if (!sandbox_created_) return {Code::failed_precondition, "the sandbox was not created", {}};
  if (containers_.count(id)) return {Code::already_exists, "container \"" + id + "\" exists", {}};
  if (containers_.size() >= kContainersMax) return {Code::resource_exhausted, "too many containers", {}};
  Status status = check_spec(request.spec);
  if (!status.ok()) return status;

  Container& container = *(containers_[id] = std::make_unique<Container>());
  container.id = id;
  status = make_container(container, request);
  if (status.ok()) {
    container.init()->create_call = stream;
    return {Code::pending, {}, {}};
  }
  // Nothing runs in it.
  container.processes.clear();
  unmount_all(container.mounted);
  for (const auto& path : container.written) remove_tree(path);
  cgroup_remove(id);
  containers_.erase(id);
  return status;
}

Status Agent::make_container(Container& container, CreateContainerRequest& request) {
  container.spec = std::move(request.spec);
  if (container.spec.hostname.empty()) container.spec.hostname = hostname_;
  for (const auto& storage : request.storages) {
    note_written(storage, container.written);
    if (storage.mount_point == container.spec.root.path) container.layers = layers_of(storage);
    Status status = mount_storage(storage, container.mounted);
    if (!status.ok()) return status;
  }
  Status status = cgroup_create(container.id, container.spec.linux_spec.resources, container.cgroup);
  if (!status.ok()) return status;
  watch_oom(container);
  auto init = std::make_unique<Process>();
  init->container = &container;
  init->id = container.id;
  init->is_init = true;
  Process& process = *(container.processes[container.id] = std::move(init));
  return spawn(process, container.spec.process, request.ports);
}

Status Agent::start_container(uint32_t stream, std::string_view payload) {
  ProcessRequest request;
  if (!decode_container(payload, request)) return invalid("StartContainerRequest does not decode");
  Container* container = find_container(request.container_id);
  if (!container) return no_container(request.container_id);
  Process& init = *container->init();
  const bool startable = init.state == Process::State::setting_up || init.state == Process::State::created;
  if (!startable || init.start_call != 0) return {Code::failed_precondition, "container was started already", {}};
  init.start_call = stream;
  if (init.state == Process::State::created) start(init);
  return {Code::pending, {}, {}};
}

Status Agent::remove_container(uint32_t stream, std::string_view payload) {
  ProcessRequest request;
  if (!decode_container(payload, request)) return invalid("RemoveContainerRequest does not decode");
  Container* container = find_container(request.container_id);
  if (!container) return no_container(request.container_id);
  container->remove_call = stream;
  remove(*container);
  if (request.number != 0 && containers_.count(request.container_id)) {
    const int ms = static_cast<int>(std::min<uint32_t>(request.number, 24 * 3600)) * 1000;
    loop_.after(ms, [this, id = request.container_id, stream] {
      const auto it = containers_.find(id);
      if (it == containers_.end() || it->second->remove_call != stream) return;
      it->second->remove_call = 0;
      answer(stream, {Code::deadline_exceeded, "processes of container \"" + id + "\" do not end", {}});
    });
  }
  return {Code::pending, {}, {}};
}

void Agent::remove(Container& container) {
  container.removing = true;
  cgroup_freeze(container.id, false);
  cgroup_kill(container.id);
  kill_jobs(container.id);
  try_remove(container.id);
}

bool Agent::alive(const Container& container) const {
  return std::any_of(container.processes.begin(), container.processes.end(),
                     [](const auto& entry) { return entry.second->running(); });
}

// Called again whenever something changed that may have been in the way.
void Agent::try_remove(const std::string& id) {
  const auto it = containers_.find(id);
  if (it == containers_.end() || !it->second->removing || alive(*it->second) || has_jobs(id)) return;
  Container& container = *it->second;
  // The kernel takes a moment to let go of the last dead process.
  if (!cgroup_remove(id)) return loop_.after(kRemoveRetryMs, [this, id] { try_remove(id); });
  for (auto& [name, process] : container.processes) unwatch(*process);
  loop_.watch(container.oom.fd.get(), &container.oom, container.oom.watched, 0);
  unmount_all(container.mounted);
  remove_written(container);
}

// What lies on a file system of the whole sandbox has to be removed one by one; the id is free again after that.
void Agent::remove_written(Container& container) {
  const std::string id = container.id;
  // Of a container that never ran there is next to nothing, and its name is wanted again.
  const bool any = container.failure.ok() && std::any_of(container.written.begin(), container.written.end(),
                               [](const std::string& path) { return access(path.c_str(), F_OK) == 0; });
  const auto paths = std::move(container.written);
  container.written.clear();
  const auto work = [&paths](int) {
    for (const auto& path : paths) remove_tree(path);
    return Status{};
  };
  if (any && start_job(id, JobFds{}, work, [this, id](const Status&) { forget(id); })) return;
  work(-1);
  forget(id);
}

void Agent::forget(const std::string& id) {
  const auto it = containers_.find(id);
  const auto gone = std::move(it->second);
  containers_.erase(it);
  answer(gone->failed_call, gone->failure);
  answer(gone->remove_call, {});
}

Status Agent::update_container(uint32_t, std::string_view payload) {
  UpdateContainerRequest request;
  if (!decode(payload, request)) return invalid("UpdateContainerRequest does not decode");
  if (!find_container(request.container_id)) return no_container(request.container_id);
  return cgroup_update(request.container_id, request.resources);
}

Status Agent::stats_container(uint32_t stream, std::string_view payload) {
  ProcessRequest request;
  if (!decode_container(payload, request)) return invalid("StatsContainerRequest does not decode");
  if (!find_container(request.container_id)) return no_container(request.container_id);
  WireWriter reply;
  reply.put_message(1, cgroup_stats(request.container_id));
  answer(stream, {}, reply.bytes());
  return {Code::pending, {}, {}};
}

Status Agent::pause_container(uint32_t stream, std::string_view payload) {
  ProcessRequest request;
  if (!decode_container(payload, request)) return invalid("PauseContainerRequest does not decode");
  if (!find_container(request.container_id)) return no_container(request.container_id);
  const Status status = cgroup_freeze(request.container_id, true);
  if (!status.ok()) return status;
  answer_when_frozen(request.container_id, stream, kFreezeTries);
  return {Code::pending, {}, {}};
}

// The kernel freezes each process as it comes by.
void Agent::answer_when_frozen(const std::string& id, PendingCall call, int tries) {
  if (!find_container(id)) return answer(call, no_container(id));
  if (cgroup_frozen(id)) return answer(call, {});
  if (tries == 0) return answer(call, {Code::deadline_exceeded, "processes of container \"" + id + "\" do not freeze", {}});
  loop_.after(kFreezeRetryMs, [=] { answer_when_frozen(id, call, tries - 1); });
}

Status Agent::resume_container(uint32_t, std::string_view payload) {
  ProcessRequest request;
  if (!decode_container(payload, request)) return invalid("ResumeContainerRequest does not decode");
  if (!find_container(request.container_id)) return no_container(request.container_id);
  return cgroup_freeze(request.container_id, false);
}

void Agent::watch_oom(Container& container) {
  auto& oom = container.oom;
  oom.agent = this;
  oom.container = &container;
  oom.fd.reset(open((cgroup_path(container.id) + "/memory.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!oom.fd) return;
  oom.kills = cgroup_oom_kills(oom.fd.get());
  loop_.watch(oom.fd.get(), &oom, oom.watched, EPOLLPRI);
}

void Container::OomWatch::ready(uint32_t) { agent->on_oom(*container); }

void Agent::on_oom(Container& container) {
  const uint64_t kills = cgroup_oom_kills(container.oom.fd.get());
  if (kills <= container.oom.kills) return;
  container.oom.kills = kills;
  log("out of memory in container %s", container.id.c_str());
  if (!oom_calls_.empty()) {
    WireWriter reply;
    reply.put(1, container.id);
    answer(oom_calls_.front(), {}, reply.bytes());
    oom_calls_.erase(oom_calls_.begin());
  } else if (oom_ids_.size() < kOomEventsMax) {
    oom_ids_.push_back(container.id);
  }
}

}  // namespace agent
