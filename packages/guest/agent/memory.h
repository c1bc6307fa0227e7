// How much memory the guest has left.
#pragma once

namespace agent {

// Whether files that a job makes could soon cost others theirs: what lies in RAM is never given back by the kernel, which
// would end programs instead. For a job, whose working directory is /proc/PID/fd. False when the kernel does not say.
bool memory_is_short();

}  // namespace agent
