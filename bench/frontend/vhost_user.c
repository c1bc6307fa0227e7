#define _GNU_SOURCE
#include "vhost_user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
  VHOST_USER_GET_FEATURES = 1,
  VHOST_USER_SET_FEATURES = 2,
  VHOST_USER_SET_OWNER = 3,
  VHOST_USER_SET_MEM_TABLE = 5,
  VHOST_USER_SET_VRING_NUM = 8,
  VHOST_USER_SET_VRING_ADDR = 9,
  VHOST_USER_SET_VRING_BASE = 10,
  VHOST_USER_GET_VRING_BASE = 11,
  VHOST_USER_SET_VRING_KICK = 12,
  VHOST_USER_SET_VRING_CALL = 13,
  VHOST_USER_GET_PROTOCOL_FEATURES = 15,
  VHOST_USER_SET_PROTOCOL_FEATURES = 16,
  VHOST_USER_SET_VRING_ENABLE = 18,
  VHOST_USER_GET_CONFIG = 24,
};

enum { FLAG_VERSION = 1, FLAG_REPLY = 1 << 2, FLAG_NEED_REPLY = 1 << 3 };

struct header {
  uint32_t request, flags, size;
};

struct vring_state {
  uint32_t index, number;
};

struct vring_address {
  uint32_t index, flags;
  uint64_t descriptors, used, available, log;
};

struct memory_table {
  uint32_t regions, padding;
  struct {
    uint64_t guest_address, size, user_address, mmap_offset;
  } region[1];
};

struct config {
  uint32_t offset, size, flags;
  uint8_t payload[256];
};

void die(const char *what) {
  fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
  exit(1);
}

struct memory memory_create(size_t size) {
  struct memory memory = {.fd = memfd_create("guest", MFD_CLOEXEC), .size = size};
  if (memory.fd < 0 || ftruncate(memory.fd, (off_t)size) != 0) die("memfd");
  memory.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory.fd, 0);
  if (memory.base == MAP_FAILED) die("mmap");
  return memory;
}

static void send_message(struct vhost_user *vu, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
                         int fd) {
  struct header header = {request, FLAG_VERSION | flags, size};
  struct iovec parts[2] = {{&header, sizeof header}, {(void *)payload, size}};
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = size ? 2 : 1};
  if (fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  if (sendmsg(vu->socket, &message, MSG_NOSIGNAL) != (ssize_t)(sizeof header + size)) die("send");
}

static void receive_exactly(struct vhost_user *vu, void *into, size_t size) {
  errno = 0;
  if (size && recv(vu->socket, into, size, MSG_WAITALL) != (ssize_t)size) die("the back end hung up");
}

static void receive_reply(struct vhost_user *vu, uint32_t request, void *payload, uint32_t size) {
  struct header header;
  receive_exactly(vu, &header, sizeof header);
  errno = EPROTO;
  if (header.request != request || !(header.flags & FLAG_REPLY) || header.size != size) die("unexpected reply");
  receive_exactly(vu, payload, size);
}

// Sends and, when the back end can acknowledge, waits until it has done it.
static void set(struct vhost_user *vu, uint32_t request, const void *payload, uint32_t size, int fd) {
  int acknowledged = (vu->protocol_features & VHOST_USER_PROTOCOL_F_REPLY_ACK) != 0;
  send_message(vu, request, acknowledged ? FLAG_NEED_REPLY : 0, payload, size, fd);
  if (!acknowledged) return;
  uint64_t result;
  receive_reply(vu, request, &result, sizeof result);
  errno = EPROTO;
  if (result != 0) die("the back end refused a message");
}

static uint64_t get_u64(struct vhost_user *vu, uint32_t request) {
  uint64_t value;
  send_message(vu, request, 0, NULL, 0, -1);
  receive_reply(vu, request, &value, sizeof value);
  return value;
}

struct vhost_user vhost_user_connect(const char *path, uint64_t wanted) {
  struct vhost_user vu = {.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (connect(vu.socket, (struct sockaddr *)&address, sizeof address) != 0) die(path);
  uint64_t offered = get_u64(&vu, VHOST_USER_GET_FEATURES);
  errno = EPROTO;
  if (!(offered & VHOST_USER_F_PROTOCOL_FEATURES)) die("the back end has no protocol features");
  uint64_t protocol = get_u64(&vu, VHOST_USER_GET_PROTOCOL_FEATURES);
  protocol &= VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG;
  send_message(&vu, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof protocol, -1);
  vu.protocol_features = protocol;
  vu.features = offered & (wanted | VHOST_USER_F_PROTOCOL_FEATURES | VIRTIO_F_VERSION_1);
  set(&vu, VHOST_USER_SET_OWNER, NULL, 0, -1);
  set(&vu, VHOST_USER_SET_FEATURES, &vu.features, sizeof vu.features, -1);
  return vu;
}

void vhost_user_get_config(struct vhost_user *vu, void *config, uint32_t size) {
  struct config message = {.size = size};
  uint32_t length = offsetof(struct config, payload) + size;
  send_message(vu, VHOST_USER_GET_CONFIG, 0, &message, length, -1);
  receive_reply(vu, VHOST_USER_GET_CONFIG, &message, length);
  memcpy(config, message.payload, size);
}

void vhost_user_set_memory(struct vhost_user *vu, const struct memory *memory) {
  struct memory_table table = {.regions = 1, .region = {{GUEST_BASE, memory->size, (uintptr_t)memory->base, 0}}};
  set(vu, VHOST_USER_SET_MEM_TABLE, &table, sizeof table, memory->fd);
}

void vhost_user_set_ring(struct vhost_user *vu, const struct memory *memory, uint32_t index,
                         const struct ring_layout *layout, int kick, int call) {
  struct vring_state number = {index, layout->size}, base = {index, 0}, enable = {index, 1};
  uintptr_t start = (uintptr_t)memory->base;
  struct vring_address address = {.index = index,
                                  .descriptors = start + layout->descriptors,
                                  .available = start + layout->available,
                                  .used = start + layout->used};
  uint64_t id = index;
  set(vu, VHOST_USER_SET_VRING_NUM, &number, sizeof number, -1);
  set(vu, VHOST_USER_SET_VRING_BASE, &base, sizeof base, -1);
  set(vu, VHOST_USER_SET_VRING_ADDR, &address, sizeof address, -1);
  set(vu, VHOST_USER_SET_VRING_CALL, &id, sizeof id, call);
  set(vu, VHOST_USER_SET_VRING_KICK, &id, sizeof id, kick);
  set(vu, VHOST_USER_SET_VRING_ENABLE, &enable, sizeof enable, -1);
}

void vhost_user_stop_ring(struct vhost_user *vu, uint32_t index) {
  struct vring_state base = {index, 0};
  send_message(vu, VHOST_USER_GET_VRING_BASE, 0, &base, sizeof base, -1);
  receive_reply(vu, VHOST_USER_GET_VRING_BASE, &base, sizeof base);
}
