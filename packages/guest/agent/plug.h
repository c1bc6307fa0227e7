// Devices in slots, and file systems that come to a running container.
#pragma once

#include <cstdint>
#include <string>

#include "messages.h"
#include "ttrpc.h"

namespace agent {

// The virtio-mmio driver takes, or lets go of, the device in the slot at `address`.
Status bind_slot(uint64_t address, bool bind);
// The node of the disk in the slot at `address`; empty while there is none.
std::string disk_in_slot(uint64_t address);

// The guest works with so many processors, the first ones. One that it cannot do without any more ends the attempt.
Status set_online_processors(uint32_t online);

// A copy of what is mounted at `source`, mounted nowhere yet; negative with errno when there is none.
int copy_mount(const ViewRequest& request);
// Mounts it in the container that this process sees.
Status show_mount(int tree, const std::string& target);
Status hide_mount(const std::string& target);

}  // namespace agent
