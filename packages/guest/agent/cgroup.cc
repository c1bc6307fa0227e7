#include "cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "agent.h"
#include "paths.h"

namespace agent {

namespace {

constexpr size_t kFileMax = 16 * 1024;
constexpr int kNestingMax = 16;
constexpr uint64_t kNoLimit = ~0ull;

Status set(const std::string& id, const char* file, const std::string& value) {
  if (write_file(cgroup_path(id) + "/" + file, value)) return {};
  return errno_status(std::string(file) + " of container " + id, errno);
}

std::string limit_text(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

// The range of cpu.shares (2..262144, version 1) laid over cpu.weight (1..10000, version 2).
uint64_t weight_of(uint64_t shares) {
  if (shares < 2) shares = 2;
  if (shares > 262144) shares = 262144;
  return 1 + (shares - 2) * 9999 / 262142;
}

std::string read(const std::string& id, const char* file) { return read_file(cgroup_path(id) + "/" + file, kFileMax); }

uint64_t read_number(const std::string& id, const char* file) {
  std::string text = read(id, file);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (text == "max") return kNoLimit;
  uint64_t value = 0;
  return parse_number(text, value) ? value : 0;
}

// Calls with every "name number" line.
template <typename F>
void each_counter(const std::string& text, F&& call) {
  for (const auto line : split(text, '\n')) {
    const size_t space = line.find(' ');
    uint64_t value;
    if (space != line.npos && parse_number(line.substr(space + 1), value)) call(line.substr(0, space), value);
  }
}

bool remove_tree(const std::string& path, int depth) {
  if (rmdir(path.c_str()) == 0 || errno == ENOENT) return true;
  if (depth == 0) return false;
  DIR* dir = opendir(path.c_str());
  if (!dir) return false;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') remove_tree(path + "/" + entry->d_name, depth - 1);
  }
  closedir(dir);
  return rmdir(path.c_str()) == 0;
}

WireWriter cpu_stats(const std::string& id) {
  WireWriter usage, throttling, cpu;
  each_counter(read(id, "cpu.stat"), [&](std::string_view name, uint64_t value) {
    if (name == "usage_usec") usage.put(1, value * 1000);
    if (name == "system_usec") usage.put(3, value * 1000);
    if (name == "user_usec") usage.put(4, value * 1000);
    if (name == "nr_periods") throttling.put(1, value);
    if (name == "nr_throttled") throttling.put(2, value);
    if (name == "throttled_usec") throttling.put(3, value * 1000);
  });
  cpu.put_message(1, usage);
  cpu.put_message(2, throttling);
  return cpu;
}

WireWriter memory_stats(const std::string& id) {
  WireWriter memory, use, swap;
  use.put(1, read_number(id, "memory.current"));
  use.put(2, read_number(id, "memory.peak"));
  use.put(4, read_number(id, "memory.max"));
  swap.put(1, read_number(id, "memory.swap.current"));
  swap.put(4, read_number(id, "memory.swap.max"));
  const auto counter = [&](std::string_view name, uint64_t value) {
    if (name == "file") memory.put(1, value);
    WireWriter entry;
    entry.put(1, name);
    entry.put(2, value);
    memory.put_message(6, entry);
  };
  memory.put_message(2, use);
  memory.put_message(3, swap);
  each_counter(read(id, "memory.stat"), counter);
  each_counter(read(id, "memory.events"), counter);
  return memory;
}

}  // namespace

std::string cgroup_path(const std::string& id) { return std::string(kCgroupDir) + "/ctr-" + id; }

Status cgroup_create(const std::string& id, const Resources& resources, Fd& out) {
  const std::string path = cgroup_path(id);
  if (mkdir(path.c_str(), 0755) != 0) return errno_status("mkdir " + path, errno);
  const Status status = cgroup_update(id, resources);
  if (!status.ok()) return status;
  out.reset(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  return out ? Status{} : errno_status("open " + path, errno);
}

Status cgroup_update(const std::string& id, const Resources& r) {
  Status status;
  const auto apply = [&](bool wanted, const char* file, const std::string& value) {
    if (wanted && status.ok()) status = set(id, file, value);
  };
  apply(r.memory.limit != 0, "memory.max", limit_text(r.memory.limit));
  apply(r.memory.reservation != 0, "memory.low", limit_text(r.memory.reservation));
  // The request counts memory and swap together, the kernel swap alone. A kernel without swap has no such file.
  const bool swap = r.memory.swap != 0 && access((cgroup_path(id) + "/memory.swap.max").c_str(), F_OK) == 0;
  apply(swap, "memory.swap.max", r.memory.swap < 0 ? "max" : limit_text(std::max<int64_t>(0, r.memory.swap - r.memory.limit)));
  apply(r.cpu.shares != 0, "cpu.weight", std::to_string(weight_of(r.cpu.shares)));
  const uint64_t period = r.cpu.period == 0 ? 100000 : r.cpu.period;
  apply(r.cpu.quota != 0, "cpu.max", limit_text(r.cpu.quota) + " " + std::to_string(period));
  apply(!r.cpu.cpus.empty(), "cpuset.cpus", r.cpu.cpus);
  apply(!r.cpu.mems.empty(), "cpuset.mems", r.cpu.mems);
  apply(r.pids.limit != 0, "pids.max", limit_text(r.pids.limit));
  return status;
}

Status cgroup_freeze(const std::string& id, bool frozen) { return set(id, "cgroup.freeze", frozen ? "1" : "0"); }

bool cgroup_frozen(const std::string& id) {
  return read(id, "cgroup.events").find("frozen 1") != std::string::npos;
}

bool cgroup_kill(const std::string& id) { return write_file(cgroup_path(id) + "/cgroup.kill", "1"); }

bool cgroup_remove(const std::string& id) { return remove_tree(cgroup_path(id), kNestingMax); }

WireWriter cgroup_stats(const std::string& id) {
  WireWriter out, pids;
  out.put_message(1, cpu_stats(id));
  out.put_message(2, memory_stats(id));
  pids.put(1, read_number(id, "pids.current"));
  const uint64_t limit = read_number(id, "pids.max");
  pids.put(2, limit == kNoLimit ? 0 : limit);
  out.put_message(3, pids);
  return out;
}

uint64_t cgroup_oom_kills(int events_fd) {
  char buffer[512];
  const ssize_t n = pread(events_fd, buffer, sizeof buffer, 0);
  uint64_t kills = 0;
  if (n > 0) {
    each_counter(std::string(buffer, static_cast<size_t>(n)), [&](std::string_view name, uint64_t value) {
      if (name == "oom_kill") kills = value;
    });
  }
  return kills;
}

}  // namespace agent
