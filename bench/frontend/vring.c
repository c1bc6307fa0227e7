#define _GNU_SOURCE
#include "vring.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { FLAGS = 0, INDEX = 1, RING = 2 };

static size_t align(size_t value, size_t to) { return (value + to - 1) / to * to; }

static volatile struct vring_used_element *used_elements(struct vring *ring) {
  return (volatile struct vring_used_element *)(ring->used + RING);
}

static volatile uint16_t *used_event(struct vring *ring) { return ring->available + RING + ring->size; }

static volatile uint16_t *avail_event(struct vring *ring) {
  return (volatile uint16_t *)(used_elements(ring) + ring->size);
}

size_t vring_create(struct vring *ring, struct ring_layout *layout, const struct memory *memory, size_t offset,
                    uint16_t size, int event_idx) {
  layout->size = size;
  layout->descriptors = align(offset, 16);
  layout->available = align(layout->descriptors + size * sizeof(struct vring_descriptor), 2);
  layout->used = align(layout->available + (RING + size + 1) * sizeof(uint16_t), 64);
  *ring = (struct vring){.size = size, .event_idx = event_idx};
  ring->descriptors = (struct vring_descriptor *)(memory->base + layout->descriptors);
  ring->available = (volatile uint16_t *)(memory->base + layout->available);
  ring->used = (volatile uint16_t *)(memory->base + layout->used);
  ring->kick = eventfd(0, EFD_CLOEXEC);
  ring->call = eventfd(0, EFD_CLOEXEC);
  if (ring->kick < 0 || ring->call < 0) die("eventfd");
  size_t end = layout->used + RING * sizeof(uint16_t) + size * sizeof(struct vring_used_element) + sizeof(uint16_t);
  return align(end, 4096);
}

void vring_offer(struct vring *ring, uint16_t head) {
  ring->available[RING + ring->next_available % ring->size] = head;
  ring->next_available++;
}

static int wants_kick(struct vring *ring) {
  if (!ring->event_idx) return !(ring->used[FLAGS] & 1);
  uint16_t event = *avail_event(ring);
  return (uint16_t)(ring->next_available - event - 1) < (uint16_t)(ring->next_available - ring->notified);
}

void vring_publish(struct vring *ring) {
  __atomic_store_n((uint16_t *)ring->available + INDEX, ring->next_available, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  int kick = wants_kick(ring);
  ring->notified = ring->next_available;
  if (!kick) return;
  uint64_t one = 1;
  ring->kicks++;
  if (write(ring->kick, &one, sizeof one) != sizeof one) die("kick");
}

static uint16_t used_index(struct vring *ring) {
  return __atomic_load_n((uint16_t *)ring->used + INDEX, __ATOMIC_ACQUIRE);
}

int vring_take(struct vring *ring, struct vring_used_element *element) {
  if (used_index(ring) == ring->last_used) return 0;
  volatile struct vring_used_element *from = &used_elements(ring)[ring->last_used % ring->size];
  element->id = from->id;
  element->length = from->length;
  ring->last_used++;
  return 1;
}

int vring_arm(struct vring *ring) {
  *used_event(ring) = ring->last_used;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return used_index(ring) == ring->last_used;
}

void vring_wait(struct vring *ring) {
  if (!vring_arm(ring)) return;
  // A back end may make the shared eventfd non-blocking (libvhost-user does), so read() alone may not sleep.
  struct pollfd call = {.fd = ring->call, .events = POLLIN};
  uint64_t count;
  ring->waits++;
  if (poll(&call, 1, -1) != 1 || read(ring->call, &count, sizeof count) != sizeof count) die("call");
}
