// Calls about a container's files: each is a job that sends a stream or takes one.
#include <sys/resource.h>

#include <cerrno>

#include "agent.h"
#include "changes.h"
#include "stream.h"
#include "tar.h"

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
  return files_job(stream, payload, [](const Container& container, const FilesRequest&, int fd) {
    StreamWriter out(fd);
    Listing listing(out);
    Status status = check_has_changes(container.layers);
    if (status.ok()) status = walk_changes(container.layers, container.baseline, listing);
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::pack_changes(uint32_t stream, std::string_view payload) {
  return files_job(stream, payload, [](const Container& container, const FilesRequest&, int fd) {
    StreamWriter out(fd);
    LayerWriter layer(out, true);
    Status status = check_has_changes(container.layers);
    if (status.ok()) status = walk_changes(container.layers, container.baseline, layer);
    if (status.ok()) status = layer.finish();
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::pack_files(uint32_t stream, std::string_view payload) {
  return files_job(stream, payload, [](const Container& container, const FilesRequest& request, int fd) {
    StreamWriter out(fd);
    LayerWriter files(out, false);
    Status status = walk_files(container.spec.root.path, request.path, files);
    if (status.ok()) status = files.finish();
    return status.ok() ? out.finish() : status;
  });
}

Status Agent::files_job(uint32_t call, std::string_view payload, FilesWork work) {
  FilesRequest request;
  if (!decode(payload, request)) return {Code::invalid_argument, "FilesRequest does not decode", {}};
  Container* container = find_container(request.container_id);
  if (!container) return {Code::not_found, "container \"" + request.container_id.substr(0, 128) + "\" does not exist", {}};
  Fd stream = connect_port(request.port);
  if (!stream) return errno_status("connect to port " + std::to_string(request.port), errno);
  const auto run = [&](int fd) {
    allow_open_files();
    const Status status = await_stream(fd);
    return status.ok() ? work(*container, request, fd) : status;
  };
  if (!start_job(container->id, std::move(stream), run, [this, call](const Status& status) { answer(call, status); }))
    return errno_status("start a job", errno);
  return {Code::pending, {}, {}};
}

}  // namespace agent
