// Drives a vhost-user file system device without a guest: FUSE requests on a shared ring. Prints one line of JSON.
//
//   fs_bench make FILE BYTES                                     writes a file with the pattern that reads are checked against
//   fs_bench read SOCKET NAME rand|seq SIZE DEPTH SECONDS SEED   reads NAME, which lies in the shared folder, for two seconds
//                                                                that do not count, and then for SECONDS
//   fs_bench names SOCKET COUNT                                  makes COUNT files, looks all up, lists, removes and forgets them
#define _GNU_SOURCE
#include "pattern.h"
#include "vring.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REQUEST_QUEUE = 1, QUEUE_SIZE = 256, MAX_DEPTH = 64, MAX_SAMPLES = 1 << 20, WATCHDOG_SECONDS = 120 };
enum { AREA = 4096, LIST_SIZE = 64 * 1024, FULL_CHECK_EVERY = 256, WARM_UP_NAMES = 2000, WARM_UP_LISTS = 20, WARM_UP_SECONDS = 2 };

// One request at a time: arguments go in, the answer comes out, data lands apart from it.
struct slot {
  struct fuse_in_header *in;
  struct fuse_out_header *out;
  uint8_t *data;
  uint64_t offset, begun;
};

struct session {
  struct vhost_user vu;
  struct memory memory;
  struct vring ring;
  struct slot slots[MAX_DEPTH];
  size_t stride;
};

static void *arguments(struct slot *slot) { return slot->in + 1; }
static void *answer(struct slot *slot) { return slot->out + 1; }

// Three descriptors: the request, the answer's header with its structure, and data for reads.
static void offer(struct session *session, uint32_t index, uint32_t opcode, uint64_t node, uint32_t size, uint32_t answer_size,
                  uint32_t data_size) {
  struct slot *slot = &session->slots[index];
  struct vring_descriptor *descriptors = &session->ring.descriptors[index * 3];
  uint64_t at = GUEST_BASE + (uint64_t)((uint8_t *)slot->in - session->memory.base);
  uint16_t first = (uint16_t)(index * 3);
  *slot->in = (struct fuse_in_header){.len = sizeof *slot->in + size, .opcode = opcode, .unique = index + 1, .nodeid = node};
  uint16_t more = data_size ? VRING_DESC_F_NEXT : 0;
  descriptors[0] = (struct vring_descriptor){at, slot->in->len, VRING_DESC_F_NEXT, first + 1};
  descriptors[1] = (struct vring_descriptor){at + AREA, sizeof *slot->out + answer_size, VRING_DESC_F_WRITE | more, first + 2};
  descriptors[2] = (struct vring_descriptor){at + 2 * AREA, data_size, VRING_DESC_F_WRITE, 0};
  slot->begun = now();
  vring_offer(&session->ring, first);
}

// Does one request and waits for its end. Returns bytes of the answer beside its header.
static uint32_t call(struct session *session, uint32_t opcode, uint64_t node, uint32_t size, uint32_t answer_size, uint32_t data_size) {
  struct vring_used_element element;
  offer(session, 0, opcode, node, size, answer_size, data_size);
  vring_publish(&session->ring);
  while (!vring_take(&session->ring, &element)) vring_wait(&session->ring);
  struct fuse_out_header *out = session->slots[0].out;
  errno = -out->error;
  if (out->error != 0) die("a request failed");
  return out->len - sizeof *out;
}

// Takes back what lookups and lists told of a node, as Linux does when it has no more use for it: there is no answer.
static void forget(struct session *session, uint64_t node, uint64_t lookups) {
  struct vring_used_element element;
  struct slot *slot = &session->slots[0];
  *(struct fuse_forget_in *)arguments(slot) = (struct fuse_forget_in){.nlookup = lookups};
  offer(session, 0, FUSE_FORGET, node, sizeof(struct fuse_forget_in), 0, 0);
  session->ring.descriptors[0].flags = 0;
  vring_publish(&session->ring);
  while (!vring_take(&session->ring, &element)) vring_wait(&session->ring);
}

static uint32_t put_name(struct slot *slot, uint32_t at, const char *name) {
  strcpy((char *)arguments(slot) + at, name);
  return at + (uint32_t)strlen(name) + 1;
}

static void open_session(struct session *session, const char *socket, uint32_t depth, uint32_t data_size) {
  alarm(WATCHDOG_SECONDS);
  session->stride = 2 * AREA + (data_size + AREA - 1) / AREA * AREA;
  session->memory = memory_create((1 << 20) + depth * session->stride);
  session->vu = vhost_user_connect(socket, VIRTIO_RING_F_EVENT_IDX);
  vhost_user_set_memory(&session->vu, &session->memory);
  struct ring_layout layout;
  int event_index = (session->vu.features & VIRTIO_RING_F_EVENT_IDX) != 0;
  size_t at = vring_create(&session->ring, &layout, &session->memory, 0, QUEUE_SIZE, event_index);
  for (uint32_t index = 0; index < depth; index++, at += session->stride) {
    uint8_t *base = session->memory.base + at;
    session->slots[index] = (struct slot){.in = (void *)base, .out = (void *)(base + AREA), .data = base + 2 * AREA};
  }
  vhost_user_set_ring(&session->vu, &session->memory, REQUEST_QUEUE, &layout, session->ring.kick, session->ring.call);
  struct fuse_init_in *init = arguments(&session->slots[0]);
  *init = (struct fuse_init_in){.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = 1 << 17,
                                .flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS};
  call(session, FUSE_INIT, 0, sizeof *init, sizeof(struct fuse_init_out), 0);
}

static uint64_t look_up(struct session *session, const char *name) {
  uint32_t size = put_name(&session->slots[0], 0, name);
  call(session, FUSE_LOOKUP, FUSE_ROOT_ID, size, sizeof(struct fuse_entry_out), 0);
  return ((struct fuse_entry_out *)answer(&session->slots[0]))->nodeid;
}

struct job {
  struct session session;
  int sequential;
  uint32_t size, depth;
  uint64_t random, next, length, node, handle, completed, sample_count;
  uint32_t *samples;
};

static uint64_t next_offset(struct job *job) {
  uint64_t places = job->length / job->size;
  if (job->sequential) return job->next++ % places * job->size;
  job->random ^= job->random << 13;
  job->random ^= job->random >> 7;
  job->random ^= job->random << 17;
  return job->random % places * job->size;
}

static void submit(struct job *job, uint32_t index) {
  struct slot *slot = &job->session.slots[index];
  slot->offset = next_offset(job);
  *(struct fuse_read_in *)arguments(slot) = (struct fuse_read_in){.fh = job->handle, .offset = slot->offset, .size = job->size};
  offer(&job->session, index, FUSE_READ, job->node, sizeof(struct fuse_read_in), 0, job->size);
}

static void check(struct job *job, struct slot *slot) {
  errno = EIO;
  if (slot->out->error != 0 || slot->out->len != sizeof *slot->out + job->size) die("a read failed");
  uint32_t stride = job->completed % FULL_CHECK_EVERY == 0 ? 8 : job->size - 8;
  for (uint32_t at = 0; at < job->size; at += stride) {
    uint64_t word;
    memcpy(&word, slot->data + at, 8);
    errno = EILSEQ;
    if (word != pattern(slot->offset + at)) die("a read brought wrong data");
  }
}

// Keeps `depth` reads in flight until the time is over, then lets them end. Returns the seconds that it took.
static double drive(struct job *job, double seconds) {
  struct vring *ring = &job->session.ring;
  uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9);
  uint32_t in_flight = job->depth;
  for (uint32_t index = 0; index < job->depth; index++) submit(job, index);
  vring_publish(ring);
  while (in_flight > 0) {
    struct vring_used_element element;
    uint64_t time = now();
    uint32_t resubmitted = 0;
    while (vring_take(ring, &element)) {
      uint32_t index = element.id / 3;
      struct slot *slot = &job->session.slots[index];
      check(job, slot);
      if (job->sample_count < MAX_SAMPLES) job->samples[job->sample_count++] = (uint32_t)(time - slot->begun);
      job->completed++;
      in_flight--;
      if (time >= end) continue;
      submit(job, index);
      resubmitted++;
    }
    in_flight += resubmitted;
    if (resubmitted) vring_publish(ring);
    if (in_flight > 0) vring_wait(ring);
  }
  return (double)(now() - start) / 1e9;
}

static int run_reads(char **args) {
  struct job job = {.sequential = strcmp(args[2], "seq") == 0,
                    .size = (uint32_t)atoi(args[3]),
                    .depth = (uint32_t)atoi(args[4]),
                    .random = strtoull(args[6], NULL, 10) | 1};
  errno = EINVAL;
  if (job.size < 16 || job.size % 8 || job.depth < 1 || job.depth > MAX_DEPTH) die("SIZE or DEPTH");
  job.samples = malloc(MAX_SAMPLES * sizeof *job.samples);
  open_session(&job.session, args[0], job.depth, job.size);
  struct slot *slot = &job.session.slots[0];
  job.node = look_up(&job.session, args[1]);
  job.length = ((struct fuse_entry_out *)answer(slot))->attr.size;
  *(struct fuse_open_in *)arguments(slot) = (struct fuse_open_in){0};
  call(&job.session, FUSE_OPEN, job.node, sizeof(struct fuse_open_in), sizeof(struct fuse_open_out), 0);
  job.handle = ((struct fuse_open_out *)answer(slot))->fh;
  // A server has to have run what it is measured at: one in JavaScript compiles it then.
  drive(&job, WARM_UP_SECONDS);
  job.completed = job.sample_count = job.session.ring.kicks = job.session.ring.waits = 0;
  double took = drive(&job, atof(args[5]));
  vhost_user_stop_ring(&job.session.vu, REQUEST_QUEUE);
  double rate = (double)job.completed / took;
  printf("{\"requests\":%lu,\"iops\":%.1f,\"bytesPerSecond\":%.1f,\"medianUs\":%.2f,\"kicks\":%lu,\"waits\":%lu}\n",
         job.completed, rate, rate * job.size, median(job.samples, job.sample_count) / 1e3, job.session.ring.kicks,
         job.session.ring.waits);
  return 0;
}

static void name_of(uint32_t number, char *name) { sprintf(name, "file-%06u", number); }

static void make_names(struct session *session, uint32_t count, uint64_t *nodes) {
  struct slot *slot = &session->slots[0];
  for (uint32_t i = 0; i < count; i++) {
    char name[32];
    name_of(i, name);
    *(struct fuse_create_in *)arguments(slot) = (struct fuse_create_in){.flags = 0102 /* O_RDWR | O_CREAT */, .mode = 0100644};
    uint32_t size = put_name(slot, sizeof(struct fuse_create_in), name);
    call(session, FUSE_CREATE, FUSE_ROOT_ID, size, sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), 0);
    struct fuse_entry_out *entry = answer(slot);
    nodes[i] = entry->nodeid;
    *(struct fuse_release_in *)arguments(slot) = (struct fuse_release_in){.fh = ((struct fuse_open_out *)(entry + 1))->fh};
    call(session, FUSE_RELEASE, nodes[i], sizeof(struct fuse_release_in), 0, 0);
  }
}

static void look_up_names(struct session *session, uint32_t count, uint64_t *nodes) {
  for (uint32_t i = 0; i < count; i++) {
    char name[32];
    name_of(i, name);
    errno = ESTALE;
    if (look_up(session, name) != nodes[i]) die("a name has another file");
  }
}

static void list_names(struct session *session, uint32_t count) {
  struct slot *slot = &session->slots[0];
  *(struct fuse_open_in *)arguments(slot) = (struct fuse_open_in){0};
  call(session, FUSE_OPENDIR, FUSE_ROOT_ID, sizeof(struct fuse_open_in), sizeof(struct fuse_open_out), 0);
  uint64_t handle = ((struct fuse_open_out *)answer(slot))->fh, offset = 0;
  uint32_t seen = 0, length;
  do {
    *(struct fuse_read_in *)arguments(slot) = (struct fuse_read_in){.fh = handle, .offset = offset, .size = LIST_SIZE};
    length = call(session, FUSE_READDIRPLUS, FUSE_ROOT_ID, sizeof(struct fuse_read_in), 0, LIST_SIZE);
    for (uint32_t at = 0; at < length; at += FUSE_DIRENTPLUS_SIZE((struct fuse_direntplus *)(slot->data + at))) {
      struct fuse_direntplus *entry = (void *)(slot->data + at);
      seen += strncmp(entry->dirent.name, "file-", 5) == 0;
      offset = entry->dirent.off;
    }
  } while (length > 0);
  errno = ENOENT;
  if (seen != count) die("a list is not whole");
}

// Each was told of `told` times: when it was made, looked up and listed.
static void remove_names(struct session *session, uint32_t count, const uint64_t *nodes, uint64_t told) {
  for (uint32_t i = 0; i < count; i++) {
    char name[32];
    name_of(i, name);
    call(session, FUSE_UNLINK, FUSE_ROOT_ID, put_name(&session->slots[0], 0, name), 0, 0);
    forget(session, nodes[i], told);
  }
}

// Servers are measured warm, as with blk: this does not count.
static void warm_up(struct session *session, uint32_t count, uint64_t *nodes) {
  uint64_t end = now() + WARM_UP_SECONDS * 1000000000ull;
  while (now() < end) {
    make_names(session, count, nodes);
    look_up_names(session, count, nodes);
    for (int i = 0; i < WARM_UP_LISTS; i++) list_names(session, count);
    remove_names(session, count, nodes, 2 + WARM_UP_LISTS);
  }
}

static int run_names(char **args) {
  uint32_t count = (uint32_t)atoi(args[1]);
  uint64_t *nodes = malloc(count * sizeof *nodes);
  struct session session = {0};
  open_session(&session, args[0], 1, LIST_SIZE);
  warm_up(&session, count < WARM_UP_NAMES ? count : WARM_UP_NAMES, nodes);
  uint64_t times[5] = {now()};
  make_names(&session, count, nodes);
  times[1] = now();
  look_up_names(&session, count, nodes);
  times[2] = now();
  list_names(&session, count);
  times[3] = now();
  remove_names(&session, count, nodes, 3);
  times[4] = now();
  vhost_user_stop_ring(&session.vu, REQUEST_QUEUE);
  const char *names[] = {"create", "lookup", "list", "unlink"};
  for (int i = 0; i < 4; i++)
    printf("%s\"%sUs\":%.3f", i ? "," : "{", names[i], (double)(times[i + 1] - times[i]) / 1e3 / count);
  printf("}\n");
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "make") == 0) return make_file(argv[2], strtoull(argv[3], NULL, 10));
  if (argc == 9 && strcmp(argv[1], "read") == 0) return run_reads(argv + 2);
  if (argc == 4 && strcmp(argv[1], "names") == 0) return run_names(argv + 2);
  fprintf(stderr, "usage: fs_bench make FILE BYTES | read SOCKET NAME rand|seq SIZE DEPTH SECONDS SEED | names SOCKET COUNT\n");
  return 2;
}
