// One cgroup (version 2) per container.
#pragma once

#include <string>

#include "fd.h"
#include "messages.h"
#include "ttrpc.h"
#include "wire.h"

namespace agent {

std::string cgroup_path(const std::string& id);
Status cgroup_create(const std::string& id, const Resources& resources, Fd& out);
Status cgroup_update(const std::string& id, const Resources& resources);
// Asks for it; cgroup_frozen tells when it is so.
Status cgroup_freeze(const std::string& id, bool frozen);
bool cgroup_frozen(const std::string& id);
// SIGKILL to every process in it.
bool cgroup_kill(const std::string& id);
// False while something still lives in it.
bool cgroup_remove(const std::string& id);
// A CgroupStats message.
WireWriter cgroup_stats(const std::string& id);
// The "oom_kill" counter of an open memory.events file.
uint64_t cgroup_oom_kills(int events_fd);

}  // namespace agent
