// Runs inside the test guest: joins a vsock connection to stdin and stdout, both directions at once, half-closing the
// connection at the end of stdin.
//
//   vsock_pipe connect CID PORT
//   vsock_pipe listen PORT        serves one connection
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int write_all(int fd, const char *bytes, ssize_t size) {
  while (size > 0) {
    ssize_t written = write(fd, bytes, (size_t)size);
    if (written < 0) return -1;
    bytes += written;
    size -= written;
  }
  return 0;
}

// Copies one piece; 1: goes on, 0: ended, -1: failed.
static int copy(int from, int to) {
  static char buffer[65536];
  ssize_t size = read(from, buffer, sizeof buffer);
  if (size <= 0) return (int)size;
  return write_all(to, buffer, size) == 0 ? 1 : -1;
}

static int join(int socket) {
  struct pollfd from[2] = {{.fd = 0, .events = POLLIN}, {.fd = socket, .events = POLLIN}};
  while (from[1].fd >= 0) {
    if (poll(from, 2, -1) < 0) return fail("poll");
    if (from[0].revents) {
      int more = copy(0, socket);
      if (more < 0) return fail("send");
      if (more == 0) shutdown(socket, SHUT_WR);
      if (more == 0) from[0].fd = -1;
    }
    if (from[1].revents) {
      int more = copy(socket, 1);
      if (more < 0) return fail("receive");
      if (more == 0) from[1].fd = -1;
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  int socket_fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
  if (socket_fd < 0) return fail("socket");
  if (argc == 4 && strcmp(argv[1], "connect") == 0) {
    address.svm_cid = (unsigned)atoi(argv[2]);
    address.svm_port = (unsigned)atoi(argv[3]);
    if (connect(socket_fd, (struct sockaddr *)&address, sizeof address) != 0) return fail("connect");
    return join(socket_fd);
  }
  if (argc != 3) return 2;
  address.svm_port = (unsigned)atoi(argv[2]);
  if (bind(socket_fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(socket_fd, 1) != 0) return fail("listen");
  fprintf(stderr, "vsock ready: %s\n", argv[2]);
  int connection = accept(socket_fd, NULL, NULL);
  return connection < 0 ? fail("accept") : join(connection);
}
