#include "modules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agent.h"
#include "paths.h"

namespace agent {

namespace {

constexpr char kModulesDir[] = "/modules";
constexpr size_t kListMax = 64 << 10;
constexpr size_t kModulesMax = 512;

// Of include/uapi/linux/module.h since Linux 5.17: the kernel unpacks the file itself.
constexpr int kCompressedFile = 4;

int flags_of(std::string_view name) {
  const auto suffix = name.substr(name.rfind('.') + 1);
  return suffix == "gz" || suffix == "xz" || suffix == "zst" ? kCompressedFile : 0;
}

bool load(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  return syscall(SYS_finit_module, fd.get(), "", flags_of(path)) == 0 || errno == EEXIST;
}

}  // namespace

void load_modules() {
  const std::string dir = kModulesDir, list = dir + "/load";
  const std::string text = read_file(list, kListMax);
  size_t count = 0;
  for (const auto name : split(text, '\n')) {
    if (name.empty()) continue;
    if (++count > kModulesMax || !valid_id(name)) {
      log("%s: entry %zu is not taken", list.c_str(), count);
      break;
    }
    const std::string path = dir + "/" + std::string(name);
    if (!load(path)) log("module %s: %s (errno %d)", path.c_str() + dir.size() + 1, strerror(errno), errno);
    unlink(path.c_str());
  }
  unlink(list.c_str());
  rmdir(kModulesDir);
}

}  // namespace agent
