// Files from the host, made in a container.
#pragma once

#include "messages.h"
#include "ttrpc.h"

namespace agent {

// Makes what the tar stream of `fd` describes. For a process whose root is the container's: what lies on the way may
// change at any time, and leads nowhere else.
Status unpack(const UnpackRequest& request, int fd);

}  // namespace agent
