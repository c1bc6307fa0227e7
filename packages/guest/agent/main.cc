// The agent: first process of a sandbox's guest. See README.md of this package.
#include <fcntl.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "agent.h"
#include "boot.h"
#include "pause.h"

namespace agent {

void log(const char* format, ...) {
  char line[256] = "agent: ";
  va_list args;
  va_start(args, format);
  vsnprintf(line + 7, sizeof line - 8, format, args);
  va_end(args);
  const size_t size = strlen(line);
  line[size] = '\n';
  if (write(2, line, size + 1) < 0) return;
}

// For tests: serves a connection it was given, in namespaces that somebody else made.
static int serve_given(int fd, const char* stdio_dir) {
  Agent agent(Fd(fd), stdio_dir);
  agent.run();
  return 0;
}

static void serve_host() {
  boot();
  if (is_probe()) {
    dprintf(1, "tsvmm: probe ok\n");
    return;
  }
  enable_controllers();
  Fd connection = connect_host();
  if (!connection) return;
  Agent agent(std::move(connection), "");
  agent.run();
}

}  // namespace agent

int main(int argc, char** argv) {
  if (argc == 1 && strcmp(argv[0], "pause") == 0) agent::pause_as_init();
  // Numbers 0 to 2 must not become something else, should there be no console.
  int fd;
  while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd <= 2) continue;
  if (fd > 2) close(fd);
  if (argc == 5 && strcmp(argv[1], "--connect-fd") == 0 && strcmp(argv[3], "--stdio-dir") == 0)
    return agent::serve_given(atoi(argv[2]), argv[4]);
  if (getpid() != 1) {
    dprintf(2, "usage: agent --connect-fd FD --stdio-dir DIR (as the first process of a guest: no arguments)\n");
    return 2;
  }
  agent::serve_host();
  agent::power_off();
}
