// The request messages of agent.proto and oci.proto, decoded. Field meaning is described there.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire.h"

namespace agent {

struct Storage {
  std::string driver, source, fstype, mount_point;
  std::vector<std::string> options;
};

struct User {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> additional_gids;
  std::string username;
};

struct Capabilities {
  std::vector<std::string> bounding, effective, inheritable, permitted, ambient;
};

struct Rlimit {
  std::string type;
  uint64_t hard = 0, soft = 0;
};

struct Box {
  uint32_t height = 0, width = 0;
};

struct ProcessSpec {
  bool terminal = false, no_new_privileges = false;
  Box console_size;
  User user;
  std::vector<std::string> args, env;
  std::string cwd;
  Capabilities capabilities;
  std::vector<Rlimit> rlimits;
  int64_t oom_score_adj = 0;
};

struct Mount {
  std::string destination, source, type;
  std::vector<std::string> options;
};

struct Root {
  std::string path;
  bool readonly = false;
};

struct Namespace {
  std::string type, path;
};

struct Device {
  std::string path, type;
  int64_t major = 0, minor = 0;
  uint32_t mode = 0, uid = 0, gid = 0;
};

struct Resources {
  struct Memory {
    int64_t limit = 0, reservation = 0, swap = 0;
  } memory;
  struct Cpu {
    uint64_t shares = 0, period = 0;
    int64_t quota = 0;
    std::string cpus, mems;
  } cpu;
  struct Pids {
    int64_t limit = 0;
  } pids;
};

struct KeyValue {
  std::string key, value;
};

struct LinuxSpec {
  std::vector<KeyValue> sysctl;
  Resources resources;
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  std::vector<std::string> masked_paths, readonly_paths;
};

struct Spec {
  ProcessSpec process;
  Root root;
  std::string hostname;
  std::vector<Mount> mounts;
  LinuxSpec linux_spec;
};

// Host ports of the stdio streams; 0 is none.
struct StdioPorts {
  uint32_t in = 0, out = 0, err = 0;
};

struct CreateSandboxRequest {
  std::string hostname, sandbox_id;
  std::vector<std::string> dns;
  std::vector<Storage> storages;
};

struct CreateContainerRequest {
  std::string container_id, exec_id;
  std::vector<Storage> storages;
  Spec spec;
  StdioPorts ports;
};

struct ExecProcessRequest {
  std::string container_id, exec_id;
  ProcessSpec process;
  StdioPorts ports;
};

// Requests that name a process and at most two numbers: StartContainer, RemoveContainer (number is the
// timeout), SignalProcess (the signal), WaitProcess, CloseStdin, TtyWinResize (rows and columns), ...
struct ProcessRequest {
  std::string container_id, exec_id;
  uint32_t number = 0, number2 = 0;
};

struct UpdateContainerRequest {
  std::string container_id;
  Resources resources;
};

struct IpAddress {
  uint32_t family = 0;  // 0: IPv4, 1: IPv6
  std::string address, mask;
};

struct Interface {
  std::string device;
  std::vector<IpAddress> addresses;
  uint64_t mtu = 0;
};

struct UpdateInterfaceRequest {
  Interface interface;
};

struct Route {
  std::string dest, gateway, device;
  uint32_t family = 0;
};

struct Routes {
  std::vector<Route> routes;
};

struct UpdateRoutesRequest {
  Routes routes;
};

struct ReseedRequest {
  std::string_view data;
};

struct DateTimeRequest {
  int64_t sec = 0, usec = 0;
};

struct FilesRequest {
  std::string container_id, path;
  uint32_t port = 0;
  bool follow = false;
};

struct UnpackRequest {
  std::string container_id, path, name;
  uint32_t port = 0;
  bool contents = false, keep_owner = false;
};

struct SlotRequest {
  uint64_t address = 0;
};

struct ProcessorsRequest {
  uint32_t online = 0;
};

struct VolumeRequest {
  Storage storage;
};

struct ViewRequest {
  std::string container_id, source, target;
  bool read_only = false;
};

// The envelope of every call.
struct CallRequest {
  std::string service, method;
  std::string_view payload;
};

// Each returns false when the bytes are not such a message.
bool decode(std::string_view in, CreateSandboxRequest& out);
bool decode(std::string_view in, CreateContainerRequest& out);
bool decode(std::string_view in, ExecProcessRequest& out);
bool decode(std::string_view in, UpdateContainerRequest& out);
bool decode(std::string_view in, UpdateInterfaceRequest& out);
bool decode(std::string_view in, UpdateRoutesRequest& out);
bool decode(std::string_view in, ReseedRequest& out);
bool decode(std::string_view in, DateTimeRequest& out);
bool decode(std::string_view in, FilesRequest& out);
bool decode(std::string_view in, UnpackRequest& out);
bool decode(std::string_view in, SlotRequest& out);
bool decode(std::string_view in, ProcessorsRequest& out);
bool decode(std::string_view in, VolumeRequest& out);
bool decode(std::string_view in, ViewRequest& out);
bool decode(std::string_view in, CallRequest& out);
// For messages {container_id = 1, exec_id = 2, number = 3, number2 = 4}.
bool decode(std::string_view in, ProcessRequest& out);
// For messages {container_id = 1, number = 2}: StartContainer, RemoveContainer, StatsContainer, Pause, Resume.
bool decode_container(std::string_view in, ProcessRequest& out);

}  // namespace agent
