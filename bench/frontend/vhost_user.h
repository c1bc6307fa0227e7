// The front-end side of the vhost-user protocol, as much of it as driving one device without a guest takes.
// Source: QEMU documentation, "Vhost-user Protocol".
#pragma once
#include <stddef.h>
#include <stdint.h>

#define VIRTIO_RING_F_EVENT_IDX (1ull << 29)
#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30)
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VHOST_USER_PROTOCOL_F_MQ (1ull << 0)
#define VHOST_USER_PROTOCOL_F_REPLY_ACK (1ull << 3)
#define VHOST_USER_PROTOCOL_F_CONFIG (1ull << 9)

// Guest memory: one memfd, seen by the back end at guest address GUEST_BASE.
struct memory {
  int fd;
  uint8_t *base;
  size_t size;
};
#define GUEST_BASE 0x100000ull

struct vhost_user {
  int socket;
  uint64_t features;
  uint64_t protocol_features;
};

// Where a ring's parts lie, as offsets into the memory.
struct ring_layout {
  uint16_t size;
  size_t descriptors, available, used;
};

// Ends the program with a line that says what failed.
_Noreturn void die(const char *what);

struct memory memory_create(size_t size);
// Connects and negotiates: the features of `wanted` that the back end offers, and ownership.
struct vhost_user vhost_user_connect(const char *path, uint64_t wanted);
void vhost_user_get_config(struct vhost_user *vu, void *config, uint32_t size);
void vhost_user_set_memory(struct vhost_user *vu, const struct memory *memory);
// Hands a ring over and starts it.
void vhost_user_set_ring(struct vhost_user *vu, const struct memory *memory, uint32_t index,
                         const struct ring_layout *layout, int kick, int call);
// Stops a ring; returns once the back end no longer touches it.
void vhost_user_stop_ring(struct vhost_user *vu, uint32_t index);
