// Drives a vhost-user block device without a guest: a shared ring, a given depth, random or sequential reads or
// writes for a given time, every answer checked. Prints one line of JSON.
//
//   blk_bench make FILE BYTES                                     writes a file with the pattern that reads are checked against
//   blk_bench run SOCKET rand|seq|write SIZE DEPTH SECONDS SEED [QUEUES WARM_UP_SECONDS]
//
// With QUEUES each ring has a thread of its own that drives it, and all do so at a time; figures are those of all together.
// What comes in the first WARM_UP_SECONDS does not count.
#define _GNU_SOURCE
#include "pattern.h"
#include "vring.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, HEADER_SIZE = 16, MAX_DEPTH = 64, MAX_QUEUES = 8, QUEUE_SIZE = 256, FULL_CHECK_EVERY = 256, MAX_SAMPLES = 1 << 20 };
enum { VIRTIO_BLK_T_IN = 0, VIRTIO_BLK_T_OUT = 1 };
enum { WATCHDOG_SECONDS = 60 };

struct request_header {
  uint32_t type, reserved;
  uint64_t sector;
};

struct slot {
  struct request_header *header;
  uint8_t *data;
  uint8_t *status;
  uint64_t offset, begun;
};

struct job {
  int sequential, writes;
  uint32_t size, depth;
  double seconds, warm_up_seconds;
  uint64_t random, next, capacity;
  struct vring ring;
  struct slot slots[MAX_DEPTH];
  uint64_t completed, full_checks, sample_count;
  uint32_t *samples;  // nanoseconds of each request
  pthread_t thread;
  pthread_barrier_t *warm;
  double took, cpu_seconds;
};

static uint64_t next_offset(struct job *job) {
  uint64_t places = job->capacity / job->size;
  if (job->sequential) return job->next++ % places * job->size;
  job->random ^= job->random << 13;
  job->random ^= job->random >> 7;
  job->random ^= job->random << 17;
  return job->random % places * job->size;
}

static void check(struct job *job, struct slot *slot, uint32_t length) {
  errno = EIO;
  if (*slot->status != 0) die("a request failed");
  if (job->writes) return;
  if (length != job->size + 1) die("a read has the wrong length");
  int full = job->completed % FULL_CHECK_EVERY == 0;
  uint32_t stride = full ? 8 : job->size - 8;
  for (uint32_t at = 0; at < job->size; at += stride) {
    uint64_t word;
    memcpy(&word, slot->data + at, 8);
    errno = EILSEQ;
    if (word != pattern(slot->offset + at)) die("a read brought wrong data");
  }
  job->full_checks += full;
}

static void submit(struct job *job, uint32_t index) {
  struct slot *slot = &job->slots[index];
  slot->offset = next_offset(job);
  slot->header->sector = slot->offset / SECTOR;
  *slot->status = 0xff;
  slot->begun = now();
  vring_offer(&job->ring, (uint16_t)(index * 3));
}

// Descriptors never change: slot n always uses 3n, 3n+1 and 3n+2 with its own buffers.
static void prepare_slot(struct job *job, const struct memory *memory, uint32_t index, size_t at) {
  struct slot *slot = &job->slots[index];
  struct vring_descriptor *descriptors = &job->ring.descriptors[index * 3];
  uint16_t first = (uint16_t)(index * 3);
  slot->header = (struct request_header *)(memory->base + at);
  slot->status = memory->base + at + HEADER_SIZE;
  slot->data = memory->base + at + 4096;
  slot->header->type = job->writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
  uint16_t data_flags = job->writes ? VRING_DESC_F_NEXT : VRING_DESC_F_NEXT | VRING_DESC_F_WRITE;
  descriptors[0] = (struct vring_descriptor){GUEST_BASE + at, HEADER_SIZE, VRING_DESC_F_NEXT, first + 1};
  descriptors[1] = (struct vring_descriptor){GUEST_BASE + at + 4096, job->size, data_flags, first + 2};
  descriptors[2] = (struct vring_descriptor){GUEST_BASE + at + HEADER_SIZE, 1, VRING_DESC_F_WRITE, 0};
}

static void complete_one(struct job *job, const struct vring_used_element *element, uint64_t time) {
  errno = EPROTO;
  if (element->id % 3 != 0 || element->id / 3 >= job->depth) die("an unknown chain was completed");
  struct slot *slot = &job->slots[element->id / 3];
  check(job, slot, element->length);
  if (job->sample_count < MAX_SAMPLES) job->samples[job->sample_count++] = (uint32_t)(time - slot->begun);
  job->completed++;
}

// Keeps `depth` requests in flight until the time is over, then lets them end. Returns the seconds that it took.
static double drive(struct job *job, double seconds) {
  uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9);
  uint32_t in_flight = job->depth;
  for (uint32_t index = 0; index < job->depth; index++) submit(job, index);
  vring_publish(&job->ring);
  while (in_flight > 0) {
    struct vring_used_element element;
    uint64_t time = now();
    uint32_t resubmitted = 0;
    while (vring_take(&job->ring, &element)) {
      complete_one(job, &element, time);
      in_flight--;
      if (time >= end) continue;
      submit(job, element.id / 3);
      resubmitted++;
    }
    in_flight += resubmitted;
    if (resubmitted) vring_publish(&job->ring);
    if (in_flight > 0) vring_wait(&job->ring);
  }
  return (double)(now() - start) / 1e9;
}

static double thread_cpu(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *drive_ring(void *argument) {
  struct job *job = argument;
  if (job->warm_up_seconds > 0) drive(job, job->warm_up_seconds);
  job->completed = job->full_checks = job->sample_count = job->ring.kicks = job->ring.waits = 0;
  pthread_barrier_wait(job->warm);
  double cpu = thread_cpu();
  job->took = drive(job, job->seconds);
  job->cpu_seconds = thread_cpu() - cpu;
  return NULL;
}

static void print_result(struct job *jobs, uint32_t queues) {
  struct job all = {.samples = malloc(queues * MAX_SAMPLES * sizeof *all.samples)};
  for (struct job *job = jobs; job < jobs + queues; job++) {
    memcpy(all.samples + all.sample_count, job->samples, job->sample_count * sizeof *job->samples);
    all.sample_count += job->sample_count;
    all.completed += job->completed;
    all.full_checks += job->full_checks;
    all.ring.kicks += job->ring.kicks;
    all.ring.waits += job->ring.waits;
    all.cpu_seconds += job->cpu_seconds;
    if (job->took > all.took) all.took = job->took;
  }
  double median_us = median(all.samples, all.sample_count) / 1e3, rate = (double)all.completed / all.took;
  printf("{\"requests\":%lu,\"seconds\":%.6f,\"iops\":%.1f,\"bytesPerSecond\":%.1f,\"medianUs\":%.2f,"
         "\"kicks\":%lu,\"waits\":%lu,\"fullChecks\":%lu,\"frontEndCpuSeconds\":%.4f}\n",
         all.completed, all.took, rate, rate * jobs->size, median_us, all.ring.kicks, all.ring.waits, all.full_checks,
         all.cpu_seconds);
}

// Ring `index` with its requests at `at` of the memory. Returns where the next one may lie.
static size_t start_ring(struct job *job, struct vhost_user *vu, const struct memory *memory, uint32_t index, size_t at) {
  struct ring_layout layout;
  size_t stride = 4096 + (job->size + 4095) / 4096 * 4096;
  at = vring_create(&job->ring, &layout, memory, at, QUEUE_SIZE, (vu->features & VIRTIO_RING_F_EVENT_IDX) != 0);
  for (uint32_t slot = 0; slot < job->depth; slot++) prepare_slot(job, memory, slot, at + slot * stride);
  vhost_user_set_ring(vu, memory, index, &layout, job->ring.kick, job->ring.call);
  return at + job->depth * stride;
}

static int run(char **args, uint32_t queues, double warm_up_seconds) {
  struct job job = {.sequential = strcmp(args[1], "rand") != 0,
                    .writes = strcmp(args[1], "write") == 0,
                    .size = (uint32_t)atoi(args[2]),
                    .depth = (uint32_t)atoi(args[3]),
                    .seconds = atof(args[4]),
                    .warm_up_seconds = warm_up_seconds};
  errno = EINVAL;
  if (job.size < SECTOR || job.size % SECTOR || job.depth < 1 || job.depth > MAX_DEPTH) die("SIZE or DEPTH");
  if (queues < 1 || queues > MAX_QUEUES) die("QUEUES");
  alarm(WATCHDOG_SECONDS);
  struct memory memory = memory_create(queues * ((1 << 20) + job.depth * (8192 + (size_t)job.size)));
  struct vhost_user vu = vhost_user_connect(args[0], VIRTIO_RING_F_EVENT_IDX);
  vhost_user_get_config(&vu, &job.capacity, sizeof job.capacity);
  job.capacity *= SECTOR;
  vhost_user_set_memory(&vu, &memory);
  struct job *jobs = calloc(queues, sizeof *jobs);
  pthread_barrier_t warm;
  pthread_barrier_init(&warm, NULL, queues);
  size_t at = 0;
  for (uint32_t index = 0; index < queues; index++) {
    jobs[index] = job;
    jobs[index].random = (strtoull(args[5], NULL, 10) + index * 7919) | 1;
    jobs[index].next = job.capacity / job.size * index / queues;
    jobs[index].samples = malloc(MAX_SAMPLES * sizeof *job.samples);
    jobs[index].warm = &warm;
    at = start_ring(&jobs[index], &vu, &memory, index, at);
  }
  for (uint32_t index = 1; index < queues; index++)
    if (pthread_create(&jobs[index].thread, NULL, drive_ring, &jobs[index]) != 0) die("thread");
  drive_ring(jobs);
  for (uint32_t index = 1; index < queues; index++) pthread_join(jobs[index].thread, NULL);
  for (uint32_t index = 0; index < queues; index++) vhost_user_stop_ring(&vu, index);
  print_result(jobs, queues);
  return 0;
}

// The same reads as `run ... seq`, by the program itself.
static int plain(char **args) {
  int file = open(args[0], O_RDONLY | O_CLOEXEC);
  uint64_t capacity = file < 0 ? 0 : (uint64_t)lseek(file, 0, SEEK_END);
  uint32_t size = (uint32_t)atoi(args[1]);
  if (file < 0 || size < 8 || size % 8 || capacity < size) die(args[0]);
  uint8_t *data = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
  uint64_t start = now(), end = start + (uint64_t)(atof(args[2]) * 1e9), count = 0;
  for (; now() < end; count++) {
    uint64_t offset = count % (capacity / size) * size, word;
    if (pread(file, data, size, (off_t)offset) != (ssize_t)size) die("pread");
    memcpy(&word, data + size - 8, 8);
    errno = EILSEQ;
    if (word != pattern(offset + size - 8)) die("a read brought wrong data");
  }
  printf("{\"bytesPerSecond\":%.1f}\n", (double)count * size / ((double)(now() - start) / 1e9));
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "make") == 0) return make_file(argv[2], strtoull(argv[3], NULL, 10));
  if (argc == 8 && strcmp(argv[1], "run") == 0) return run(argv + 2, 1, 0);
  if (argc == 10 && strcmp(argv[1], "run") == 0) return run(argv + 2, (uint32_t)atoi(argv[8]), atof(argv[9]));
  if (argc == 5 && strcmp(argv[1], "plain") == 0) return plain(argv + 2);
  fprintf(stderr, "usage: blk_bench make FILE BYTES | plain FILE SIZE SECONDS | run SOCKET rand|seq|write SIZE DEPTH SECONDS SEED "
                  "[QUEUES WARM_UP_SECONDS]\n");
  return 2;
}
