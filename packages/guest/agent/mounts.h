// Mount options and the storages of the sandbox.
#pragma once

#include <string>
#include <vector>

#include "messages.h"
#include "ttrpc.h"

namespace agent {

// Options as mount(8) writes them, sorted into what mount(2) wants.
struct MountOptions {
  unsigned long flags = 0;        // MS_*
  unsigned long propagation = 0;  // MS_PRIVATE, MS_SLAVE, ..., with MS_REC; 0 leaves it
  std::string data;               // the file system's own
};
MountOptions parse_options(const std::vector<std::string>& options);

// Mounts one storage and notes its mount point.
Status mount_storage(const Storage& storage, std::vector<std::string>& mounted);
// Unmounts in reverse order.
void unmount_all(std::vector<std::string>& mounted);

}  // namespace agent
