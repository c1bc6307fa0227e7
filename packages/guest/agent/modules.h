// Kernels whose drivers are modules: the initramfs brings them along.
#pragma once

namespace agent {

// Loads what /modules/load lists, one file name of /modules a line, in that order; does nothing without the list.
// A module that does not load is a line on the console. Frees the memory that the files took.
void load_modules();

}  // namespace agent
