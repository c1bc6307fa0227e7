#include "pause.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace agent {

void pause_as_init() {
  sigset_t awaited;
  sigemptyset(&awaited);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&awaited, signal);
  // Blocked signals reach the first process of a pid namespace, whose default actions the kernel ignores.
  sigprocmask(SIG_BLOCK, &awaited, nullptr);
  for (;;) {
    const int signal = sigwaitinfo(&awaited, nullptr);
    if (signal == SIGTERM || signal == SIGINT) _exit(128 + signal);
    while (waitpid(-1, nullptr, WNOHANG) > 0) continue;
  }
}

}  // namespace agent
