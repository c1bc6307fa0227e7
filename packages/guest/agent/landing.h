// Where files that are copied into a container land.
#pragma once

#include <string>

#include "fd.h"
#include "messages.h"
#include "ttrpc.h"

namespace agent {

// `name` in the folder `base` takes the place of the stream's own first name; when it is empty, `base` itself does.
struct Landing {
  Fd base;
  std::string name;
};

// docker's rules, for a stream that begins with a folder or with something else. Paths are resolved in the caller's root,
// the container's; links are followed, but not those of /proc.
Status find_landing(const UnpackRequest& request, bool is_folder, Landing& out);

// One directory or link on the way, from an open directory. -1 with errno.
int open_at(int dir, const char* path, int flags, unsigned long long resolve = 0);

}  // namespace agent
