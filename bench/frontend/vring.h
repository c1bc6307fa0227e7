// The driver side of a split virtqueue with EVENT_IDX. Source: virtio 1.3, section 2.7.
#pragma once
#include "vhost_user.h"

#define VRING_DESC_F_NEXT 1
#define VRING_DESC_F_WRITE 2

struct vring_descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

struct vring_used_element {
  uint32_t id, length;
};

struct vring {
  uint16_t size;
  int event_idx;
  int kick, call;
  struct vring_descriptor *descriptors;
  volatile uint16_t *available;  // flags, idx, ring[size], used_event
  volatile uint16_t *used;       // flags, idx, elements[size], avail_event
  uint16_t next_available, notified, last_used;
  uint64_t kicks, waits;
};

// Lays a ring out at `offset`; returns the offset after it.
size_t vring_create(struct vring *ring, struct ring_layout *layout, const struct memory *memory, size_t offset,
                    uint16_t size, int event_idx);

// Offers the chain that begins at descriptor `head`; the back end sees it with vring_publish.
void vring_offer(struct vring *ring, uint16_t head);
// Shows everything offered to the back end and wakes it if it asked for that.
void vring_publish(struct vring *ring);
// Takes one completed chain; returns 0 when there is none.
int vring_take(struct vring *ring, struct vring_used_element *element);
// Asks to be told about the next completion; returns 0 when there is one already.
int vring_arm(struct vring *ring);
// Sleeps until the back end has completed something.
void vring_wait(struct vring *ring);
