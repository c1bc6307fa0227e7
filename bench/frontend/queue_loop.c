// The same work as the queue suite's, in C: the device side of a split ring pops chains of three descriptors, checks
// and walks each, and puts it on the used ring. Everything that a hostile driver could get wrong is checked.
// Prints nanoseconds per chain, the median of blocks of 20,000 chains.
//
//   queue_loop CHAINS
#define _GNU_SOURCE
#include "vring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { QUEUE_SIZE = 256, CHAIN = 3, IN_RING = 84, MEMORY_SIZE = 16 << 20, BUFFER = 4096, AVAIL_RING = 2, BLOCK_CHAINS = 20000 };
enum { VRING_DESC_F_INDIRECT = 4 };

struct device {
  const struct memory *memory;
  const struct ring_layout *layout;
  uint16_t next_available, next_used;
  uint64_t bytes;
};

static void *at(struct device *device, uint64_t address, uint64_t length) {
  uint64_t offset = address - GUEST_BASE;
  errno = EFAULT;
  if (address < GUEST_BASE || offset > device->memory->size || length > device->memory->size - offset) die("address");
  return device->memory->base + offset;
}

static uint32_t walk(struct device *device, uint16_t head) {
  uint32_t written = 0;
  uint16_t index = head;
  for (int left = device->layout->size; left > 0; left--) {
    errno = EPROTO;
    if (index >= device->layout->size) die("descriptor index");
    uint64_t where = GUEST_BASE + device->layout->descriptors + index * sizeof(struct vring_descriptor);
    struct vring_descriptor descriptor = *(struct vring_descriptor *)at(device, where, sizeof descriptor);
    if (descriptor.flags & VRING_DESC_F_INDIRECT) die("not expected here");
    volatile uint8_t *bytes = at(device, descriptor.address, descriptor.length);
    device->bytes += descriptor.length + (bytes != NULL);
    if (descriptor.flags & VRING_DESC_F_WRITE) written += descriptor.length;
    if (!(descriptor.flags & VRING_DESC_F_NEXT)) return written;
    index = descriptor.next;
  }
  die("a chain that loops");
}

static int serve(struct device *device) {
  const struct ring_layout *layout = device->layout;
  uint16_t *available = (uint16_t *)(device->memory->base + layout->available);
  uint16_t *used = (uint16_t *)(device->memory->base + layout->used);
  struct vring_used_element *elements = (struct vring_used_element *)(used + AVAIL_RING);
  uint16_t end = __atomic_load_n(&available[1], __ATOMIC_ACQUIRE);
  int served = 0;
  for (; device->next_available != end; served++) {
    uint16_t head = available[AVAIL_RING + device->next_available++ % layout->size];
    elements[device->next_used++ % layout->size] = (struct vring_used_element){head, walk(device, head)};
  }
  __atomic_store_n(&used[1], device->next_used, __ATOMIC_RELEASE);
  return served;
}

static void prepare(struct vring *ring) {
  for (uint16_t chain = 0; chain < IN_RING; chain++) {
    for (uint16_t part = 0; part < CHAIN; part++) {
      uint16_t flags = (part < CHAIN - 1 ? VRING_DESC_F_NEXT : 0) | (part > 0 ? VRING_DESC_F_WRITE : 0);
      uint16_t index = (uint16_t)(chain * CHAIN + part);
      uint64_t address = GUEST_BASE + (1 << 20) + (uint64_t)index * BUFFER;
      ring->descriptors[index] = (struct vring_descriptor){address, BUFFER, flags, (uint16_t)(index + 1)};
    }
  }
}

static double play(struct vring *ring, struct device *device) {
  struct timespec from, to;
  uint64_t nanoseconds = 0, done = 0;
  while (done < BLOCK_CHAINS) {
    for (uint16_t chain = 0; chain < IN_RING; chain++) vring_offer(ring, (uint16_t)(chain * CHAIN));
    __atomic_store_n((uint16_t *)ring->available + 1, ring->next_available, __ATOMIC_RELEASE);
    clock_gettime(CLOCK_MONOTONIC, &from);
    done += (uint64_t)serve(device);
    clock_gettime(CLOCK_MONOTONIC, &to);
    nanoseconds += (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000ull + (uint64_t)to.tv_nsec - (uint64_t)from.tv_nsec;
  }
  return (double)nanoseconds / (double)done;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  size_t blocks = argc == 2 ? strtoull(argv[1], NULL, 10) / BLOCK_CHAINS : 0;
  if (blocks == 0) return 2;
  struct memory memory = memory_create(MEMORY_SIZE);
  struct vring ring;
  struct ring_layout layout;
  vring_create(&ring, &layout, &memory, 0, QUEUE_SIZE, 0);
  prepare(&ring);
  struct device device = {.memory = &memory, .layout = &layout};
  double *times = calloc(blocks, sizeof *times);
  for (size_t block = 0; block < blocks; block++) times[block] = play(&ring, &device);
  qsort(times, blocks, sizeof *times, by_value);
  printf("{\"nsPerChain\":%.3f,\"bytes\":%lu}\n", times[blocks / 2], device.bytes);
  return 0;
}
