// The first process of a container that has no program of its own.
#pragma once

namespace agent {

// Reaps what the container's other processes leave, and ends by SIGTERM or SIGINT.
[[noreturn]] void pause_as_init();

}  // namespace agent
