// Calls about a container's files: each is a job that sends a stream or takes one.
#include <sys/resource.h>

#include <cerrno>

#include "agent.h"
#include "changes.h"
#include "stream.h"
#include "tar.h"
#include "unpack.h"

namespace agent {

namespace {

class Listing : public ChangeSink {
 public:
  explicit Listing(StreamWriter& out) : out_(out) {}

  Status change(const Change& change) override {
    std::string line(1, static_cast<char>(change.kind));
    line += change.path;
    line.push_back('\0');
    return out_.put(line);
  }

 private:
  StreamWriter& out_;
};

Status no_container(const std::string& id) {
  return {Code::not_found, "container \"" + id.substr(0, 128) + "\" does not exist", {}};
}

// A walk holds two descriptors a level.
void allow_open_files() {
  const rlimit limit{4 * kChangesDepthMax, 4 * kChangesDepthMax};
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A root that is written to itself has no record of that.
Status check_has_changes(const OverlayLayers& layers) {
  if (!layers.upper.empty() && layers.lower.find(':') == std::string::npos) return {};
  return {Code::failed_precondition, "the container's root is no overlay over one image", {}};
}

}  // namespace

Status Agent::list_changes(uint32_t stream, std::string_view payload) {
  return changes_job(stream, payload, [](const Container& container, int fd) {
    StreamWriter out(fd);
    Listing listing(out);
    Status status = check_has_changes(container.layers);
    if (status.ok()) status = walk_changes(container.layers, container.baseline, listing);
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::pack_changes(uint32_t stream, std::string_view payload) {
  return changes_job(stream, payload, [](const Container& container, int fd) {
    StreamWriter out(fd);
    LayerWriter layer(out, true);
    Status status = check_has_changes(container.layers);
    if (status.ok()) status = walk_changes(container.layers, container.baseline, layer);
    if (status.ok()) status = layer.finish();
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::pack_files(uint32_t stream, std::string_view payload) {
  FilesRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "FilesRequest does not decode", {}};
  Container* container = find_container(request.container_id);
  if (!container) return no_container(request.container_id);
  // What a container leaves behind when it ends can be had too, without what was mounted in it.
  const bool running = container->init()->in_root();
  const std::string root = running ? "/" : container->spec.root.path;
  return stream_job(stream, *container, request.port, running, [&](int fd) {
    StreamWriter out(fd);
    LayerWriter files(out, false);
    Status status = walk_files(root, request.path, request.follow, files);
    if (status.ok()) status = files.finish();
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::changes_job(uint32_t call, std::string_view payload, ChangesWork work) {
  FilesRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "FilesRequest does not decode", {}};
  Container* container = find_container(request.container_id);
  if (!container) return no_container(request.container_id);
  return stream_job(call, *container, request.port, false, [&](int fd) { return work(*container, fd); });
}

Status Agent::unpack_files(uint32_t call, std::string_view payload) {
  UnpackRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "UnpackRequest does not decode", {}};
  Container* container = find_container(request.container_id);
  if (!container) return no_container(request.container_id);
  if (!container->init()->in_root()) return {Code::failed_precondition, "the container is not running", {}};
  return stream_job(call, *container, request.port, true, [&](int fd) { return unpack(request, fd); });
}

// With `entered` the job sees what the container's programs see. The call is answered when the job is done.
Status Agent::stream_job(uint32_t call, const Container& container, uint32_t port, bool entered, const JobWork& work) {
  JobFds fds;
  fds.stream = connect_port(port);
  if (!fds.stream) return errno_status("connect to port " + std::to_string(port), errno);
  if (entered) fds.container = container.pidfd.get();
  const auto run = [&work](int fd) {
    allow_open_files();
    const Status status = await_stream(fd);
    return status.ok() ? work(fd) : status;
  };
  if (!start_job(container.id, std::move(fds), run, [this, call](const Status& status) { answer(call, status); }))
    return errno_status("start a job", errno);
  return {Code::pending, {}, {}};
}

}  // namespace agent
