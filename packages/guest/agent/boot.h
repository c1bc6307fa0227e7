// What the agent does once, as the first process of the guest.
#pragma once

#include "fd.h"

namespace agent {

// Loads the kernel's modules and mounts what a guest needs; the root becomes one that containers can pivot away from.
void boot();
// Whether the host only wants to know that a guest gets this far (`tsvmm.probe` on the command line).
bool is_probe();
// Cgroup controllers for the containers.
void enable_controllers();
void loopback_up();
// Connects to the host, trying until its side is there. Not open when it never was.
Fd connect_host();
// Powers off; a machine that cannot is reset, which ends a guest as well.
[[noreturn]] void power_off();

// A connection to a port of the host; `wait` makes it block until there is one.
Fd vsock_connect(unsigned port, bool wait);

}  // namespace agent
