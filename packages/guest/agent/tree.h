// Trees of files that somebody else made.
#pragma once

#include <string>

namespace agent {

// rm -rf, whatever the depth. What cannot be removed stays.
void remove_tree(const std::string& path);

}  // namespace agent
