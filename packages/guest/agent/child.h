// What happens between clone and execve, in the child. Nothing here runs in the agent itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "messages.h"
#include "ttrpc.h"

namespace agent {

// What the child needs to know. Descriptors are the agent's numbers, inherited.
struct ChildPlan {
  // Set for the first process of a container: it makes the container's file system view and waits for the
  // word to start. Null for a process that joins a container.
  const Spec* spec = nullptr;
  const ProcessSpec* process = nullptr;
  const std::vector<std::string>* name_servers = nullptr;
  // Joined: the container's first process.
  int pidfd = -1;
  bool new_network = false;
  // The child's ends; unused with a terminal.
  int stdio[3] = {-1, -1, -1};
  // A SOCK_SEQPACKET socket to the agent.
  int sync = -1;
  Box window;
};

// What the child reports through `sync`, one packet each. Then either execve closes the socket, or a
// failure report is the last packet.
struct ChildReport {
  enum Kind : uint8_t { ready = 1, terminal = 2, failed = 3 };
  uint8_t kind;
  int32_t code;      // Code
  char reason[16];   // errno name when execve refused
  char text[512];
};

[[noreturn]] void run_child(const ChildPlan& plan);

// child.cc, for the other child_*.cc files: reports and ends the process.
[[noreturn]] void fail(Code code, const std::string& text, const char* reason = "");
[[noreturn]] void fail_errno(const std::string& what);

// rootfs.cc: mounts, device nodes, files in /etc; ends in the container's root.
void make_rootfs(const Spec& spec, const std::vector<std::string>& name_servers);

// identity.cc
struct Identity {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  std::string home = "/";
};
// Looks the user up in the /etc/passwd and /etc/group of the root the caller is in. Docker's rules.
bool resolve_user(const User& user, Identity& out, std::string& error);

// privileges.cc: limits, capabilities, ids.
void set_limits(const ProcessSpec& process);
void drop_privileges(const ProcessSpec& process, const Identity& identity);

}  // namespace agent
