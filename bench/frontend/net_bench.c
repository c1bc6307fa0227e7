// Moves frames between a guest's network card and the host for a given time, and checks all that arrive. The guest's
// driver is played by this program, over vhost-user with merged receive buffers of Linux's sizes; or there is none, and
// the other end of a veth pair has its place. The host's end is a packet socket on a tap device or on the veth pair, or
// a UDP socket behind passt. Both ends are processes of this program, each on its own CPU. Who sends is never further
// ahead than WINDOW_FRAMES or WINDOW_BYTES of what arrived, as TCP would have it; of what goes through passt by as much
// less as its sockets hold. Prints one line of JSON.
//
//   net_bench device SOCKET NAMESPACE INTERFACE VERB SIZE SECONDS GUEST_CPU HOST_CPU   SIZE: of a frame, bytes
//   net_bench udp SOCKET NAMESPACE - VERB SIZE SECONDS GUEST_CPU HOST_CPU              through passt
//   net_bench veth NAMESPACE INTERFACE NAMESPACE INTERFACE VERB SIZE SECONDS GUEST_CPU HOST_CPU
//
// VERB: send (the guest does), receive, echo (a frame there and back; not for udp)
#define _GNU_SOURCE
#include "net_frames.h"
#include "pattern.h"
#include "vring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RX = 0, TX = 1, QUEUES = 2, QUEUE_SIZE = 256 };
enum { LARGE_BUFFER = 4096, SMALL_BUFFER = 1536, LARGE_FRAME = 1514 };
enum { SEND, RECEIVE, ECHO };
enum { WINDOW_FRAMES = 256, WINDOW_BYTES = 4 << 20, UDP_FRAMES = 128, UDP_BYTES = 96 << 10, LOST_AFTER_MS = 5, MAX_SAMPLES = 1 << 20, WATCHDOG_SECONDS = 60 };
enum { PIECE = 32768, MAX_PIECES = 3 };
#define MEMORY_SIZE (32u << 20)
#define NET_F_CSUM (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_HOST_TSO4 (1ull << 11)
#define NET_F_MRG_RXBUF (1ull << 15)

static const uint8_t GUEST_ADDRESS[4] = {10, 9, 0, 2}, HOST_ADDRESS[4] = {10, 9, 0, 1};

// What both processes see.
struct shared {
  uint32_t arrived;  // one more than the last number that came; who sends sleeps on it
  uint32_t wake_at;  // when to wake it; 0: it is awake
  uint64_t count, lost;
};

struct guest {
  struct memory memory;
  struct vring rings[QUEUES];
  size_t receive_at, send_at;  // offsets of the first buffers
  uint32_t receive_size, send_stride;
  int pieces;  // descriptors of a frame
  uint16_t free_slots[QUEUE_SIZE];
  int free_count;
};

static struct shared *shared;
static struct shape shape;
static uint32_t tag, sent, window, forgotten;
static double seconds;

static uint32_t payload_size(void) { return shape.frame - shape.payload; }

// How many more frames may be under way.
static uint32_t room(void) {
  uint32_t arrived = __atomic_load_n(&shared->arrived, __ATOMIC_ACQUIRE);
  uint32_t from = (int32_t)(arrived - forgotten) > 0 ? arrived : forgotten;
  return window - (sent - from);
}

// Sleeps until half of what is under way has arrived; what does not in time is lost.
static void wait_for_room(void) {
  uint32_t arrived = __atomic_load_n(&shared->arrived, __ATOMIC_ACQUIRE);
  __atomic_store_n(&shared->wake_at, sent - window / 2, __ATOMIC_SEQ_CST);
  struct timespec limit = {0, LOST_AFTER_MS * 1000000};
  if (room() == 0) syscall(SYS_futex, &shared->arrived, FUTEX_WAIT, arrived, &limit, NULL, 0);
  __atomic_store_n(&shared->wake_at, 0, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&shared->arrived, __ATOMIC_ACQUIRE) == arrived && room() == 0) forgotten = sent;
}

// Shows what came up to `number`, and wakes who waits for that.
static void show_arrived(uint32_t next, uint64_t count) {
  shared->lost += next - shared->arrived - count;
  shared->count += count;
  __atomic_store_n(&shared->arrived, next, __ATOMIC_SEQ_CST);
  uint32_t wake_at = __atomic_load_n(&shared->wake_at, __ATOMIC_SEQ_CST);
  if (wake_at && (int32_t)(next - wake_at) >= 0) syscall(SYS_futex, &shared->arrived, FUTEX_WAKE, 1, NULL, NULL, 0);
}

// --- the guest's driver ---

static uint8_t *send_slot(struct guest *guest, uint32_t slot) {
  return guest->memory.base + guest->send_at + (size_t)slot * guest->send_stride;
}

// Linux's driver has header and frame in one piece, and what is long in pages behind it.
static void make_send_slot(struct guest *guest, uint32_t slot) {
  uint8_t *at = send_slot(guest, slot);
  frame_header(at, VNET_SIZE, &shape);
  frame_make(at + VNET_SIZE, &shape, GUEST_ADDRESS, HOST_ADDRESS);
  uint32_t left = VNET_SIZE + shape.frame;
  uint64_t address = GUEST_BASE + (uint64_t)(at - guest->memory.base);
  for (int i = 0; i < guest->pieces; i++) {
    uint32_t part = i == guest->pieces - 1 ? left : i == 0 ? VNET_SIZE + shape.payload : PIECE;
    uint16_t index = (uint16_t)(slot * (uint32_t)guest->pieces + (uint32_t)i);
    uint16_t flags = i == guest->pieces - 1 ? 0 : VRING_DESC_F_NEXT;
    guest->rings[TX].descriptors[index] = (struct vring_descriptor){address, part, flags, (uint16_t)(index + 1)};
    address += part;
    left -= part;
  }
  guest->free_slots[guest->free_count++] = (uint16_t)slot;
}

static void make_buffers(struct guest *guest, size_t at) {
  guest->receive_size = shape.frame > LARGE_FRAME ? LARGE_BUFFER : SMALL_BUFFER;
  guest->receive_at = at;
  for (uint16_t index = 0; index < QUEUE_SIZE; index++) {
    uint64_t address = GUEST_BASE + at + (uint64_t)index * LARGE_BUFFER;
    guest->rings[RX].descriptors[index] =
        (struct vring_descriptor){address, guest->receive_size, VRING_DESC_F_WRITE, 0};
    vring_offer(&guest->rings[RX], index);
  }
  guest->send_at = at + (size_t)QUEUE_SIZE * LARGE_BUFFER;
  guest->send_stride = (VNET_SIZE + shape.frame + 2047) / 2048 * 2048;
  guest->pieces = shape.frame > PIECE ? MAX_PIECES : 1;
  // As many as the other side's socket has messages for: more would only be less often in the cache.
  uint32_t slots = shape.frame > LARGE_FRAME ? BATCH_BYTES / shape.frame : QUEUE_SIZE;
  for (uint32_t slot = 0; slot < slots; slot++) make_send_slot(guest, slot);
}

static void guest_start(struct guest *guest, const char *path) {
  guest->memory = memory_create(MEMORY_SIZE);
  uint64_t offloads = NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4;
  struct vhost_user vu = vhost_user_connect(path, VIRTIO_RING_F_EVENT_IDX | NET_F_MRG_RXBUF | offloads);
  errno = ENOTSUP;
  if (!(vu.features & NET_F_MRG_RXBUF)) die("the back end has no merged receive buffers");
  if (shape.is_cut && (vu.features & offloads) != offloads) die("the back end has no segmentation");
  vhost_user_set_memory(&vu, &guest->memory);
  int event_idx = (vu.features & VIRTIO_RING_F_EVENT_IDX) != 0;
  struct ring_layout layouts[QUEUES];
  size_t at = 0;
  for (int queue = 0; queue < QUEUES; queue++)
    at = vring_create(&guest->rings[queue], &layouts[queue], &guest->memory, at, QUEUE_SIZE, event_idx);
  make_buffers(guest, at);
  for (uint32_t queue = 0; queue < QUEUES; queue++)
    vhost_user_set_ring(&vu, &guest->memory, queue, &layouts[queue], guest->rings[queue].kick,
                        guest->rings[queue].call);
  vring_publish(&guest->rings[RX]);
}

static void take_sent(struct guest *guest) {
  struct vring_used_element element;
  while (vring_take(&guest->rings[TX], &element))
    guest->free_slots[guest->free_count++] = (uint16_t)(element.id / (uint32_t)guest->pieces);
}

static void guest_send(struct guest *guest, uint32_t number) {
  uint16_t slot = guest->free_slots[--guest->free_count];
  payload_number(send_slot(guest, slot) + VNET_SIZE + shape.payload, payload_size(), tag, number);
  vring_offer(&guest->rings[TX], (uint16_t)(slot * guest->pieces));
}

static void guest_send_all(struct guest *guest, uint64_t end) {
  while (now() < end) {
    take_sent(guest);
    uint32_t may = room();
    for (int i = 0; i < MAX_BATCH && may > 0 && guest->free_count > 0; i++, may--) guest_send(guest, sent++);
    vring_publish(&guest->rings[TX]);
    if (may == 0) wait_for_room();
    else if (guest->free_count == 0) vring_wait(&guest->rings[TX]);
  }
}

// A frame that comes in several buffers.
struct arriving {
  uint32_t buffers, done, number;
  int is_ours;
};

static uint8_t *receive_buffer(struct guest *guest, uint32_t id) {
  return guest->memory.base + guest->receive_at + (size_t)id * LARGE_BUFFER;
}

// Returns 1 when the frame is complete, and one of those that are counted.
static int guest_take(struct guest *guest, const struct vring_used_element *element, struct arriving *frame) {
  const uint8_t *bytes = receive_buffer(guest, element->id);
  uint32_t length = element->length, skip = 0;
  errno = EPROTO;
  if (length > guest->receive_size || length < 1) die("a buffer with too much in it, or nothing");
  if (frame->buffers == 0) {
    skip = VNET_SIZE + shape.payload;
    *frame = (struct arriving){.buffers = bytes[10] | (uint32_t)bytes[11] << 8};
    if (frame->buffers == 0) die("a frame in no buffers");
    int is_long = length >= skip + 16 && bytes[VNET_SIZE + 12] == 8 && bytes[VNET_SIZE + 13] == 0;
    frame->is_ours = is_long && payload_is(bytes + skip, tag, &frame->number);
  }
  if (frame->is_ours) {
    payload_check(bytes + skip, length - skip, frame->done, payload_size(), frame->number);
    frame->done += length - skip;
  }
  if (--frame->buffers > 0 || !frame->is_ours) return 0;
  errno = EMSGSIZE;
  if (frame->done != payload_size()) die("a frame came with another length");
  return 1;
}

// Takes what came, and gives the buffers back. Returns how many frames there were.
static uint64_t guest_receive(struct guest *guest, struct arriving *frame) {
  struct vring_used_element element;
  uint64_t count = 0;
  uint32_t next = shared->arrived;
  int given = 0;
  for (; given < QUEUE_SIZE / 2 && vring_take(&guest->rings[RX], &element); given++) {
    if (guest_take(guest, &element, frame)) {
      errno = EPROTO;
      if ((int32_t)(frame->number - next) < 0) die("a frame came twice");
      next = frame->number + 1;
      count++;
    }
    vring_offer(&guest->rings[RX], (uint16_t)element.id);
  }
  if (given) vring_publish(&guest->rings[RX]);
  if (count) show_arrived(next, count);
  return count;
}

static void guest_receive_all(struct guest *guest, uint64_t end) {
  for (struct arriving frame = {0}; now() < end; vring_wait(&guest->rings[RX])) guest_receive(guest, &frame);
}

// --- the host, and both ends of a veth pair ---

static void make_list(struct host *host, struct mmsghdr *list, struct iovec *parts) {
  for (int i = 0; i < host->batch; i++) {
    parts[i] = (struct iovec){host->messages + (size_t)i * host->size, host->size};
    list[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[i], .msg_iovlen = 1}};
  }
}

static void host_send_all(struct host *host, uint64_t end) {
  struct mmsghdr list[MAX_BATCH];
  struct iovec parts[MAX_BATCH];
  make_list(host, list, parts);
  while (now() < end) {
    uint32_t may = room();
    int count = may < (uint32_t)host->batch ? (int)may : host->batch;
    for (int i = 0; i < count; i++)
      payload_number(host->messages + (size_t)i * host->size + host->before, payload_size(), tag, sent + (uint32_t)i);
    for (int done = 0; done < count;) {
      int some = sendmmsg(host->fd, list + done, (unsigned)(count - done), 0);
      if (some < 0 && errno == ENOBUFS) some = 1;  // no room for it on the way: it is lost
      if (some < 0 && errno == ECONNREFUSED) continue;
      if (some < 0) die("sendmmsg");
      done += some;
    }
    sent += (uint32_t)count;
    if (room() == 0) wait_for_room();
  }
}

// Returns how many frames there were.
static uint64_t host_receive(struct host *host, struct mmsghdr *list) {
  int some = recvmmsg(host->fd, list, (unsigned)host->batch, MSG_WAITFORONE, NULL);
  if (some < 0) die("recvmmsg");
  uint64_t count = 0;
  uint32_t next = shared->arrived, number;
  for (int i = 0; i < some; i++) {
    const uint8_t *payload = host->messages + (size_t)i * host->size + host->before;
    if (list[i].msg_len != host->size || !payload_is(payload, tag, &number)) continue;
    payload_check(payload, payload_size(), 0, payload_size(), number);
    errno = EPROTO;
    if ((int32_t)(number - next) < 0) die("a frame came twice");
    next = number + 1;
    count++;
  }
  if (count) show_arrived(next, count);
  return count;
}

static void host_receive_all(struct host *host, uint64_t end) {
  struct mmsghdr list[MAX_BATCH];
  struct iovec parts[MAX_BATCH];
  make_list(host, list, parts);
  while (now() < end) host_receive(host, list);
}

static void host_send_one(struct host *host, uint32_t number) {
  payload_number(host->messages + host->before, payload_size(), tag, number);
  if (send(host->fd, host->messages, host->size, 0) != (ssize_t)host->size) die("send");
}

static void host_answer(struct host *host) {
  struct mmsghdr list[MAX_BATCH];
  struct iovec parts[MAX_BATCH];
  make_list(host, list, parts);
  for (;;)
    if (host_receive(host, list)) host_send_one(host, shared->arrived - 1);
}

// --- what runs where ---

// The guest, or the end of a veth pair that has its place.
struct near_end {
  struct guest *guest;
  struct host host;
};

static uint32_t samples[MAX_SAMPLES];

// The answer is not counted as one that arrived: it only has to come.
static void wait_for_answer(struct near_end *end, struct arriving *frame, uint32_t number) {
  struct vring_used_element element;
  for (int is_there = 0; end->guest && !is_there; vring_publish(&end->guest->rings[RX])) {
    vring_wait(&end->guest->rings[RX]);
    while (!is_there && vring_take(&end->guest->rings[RX], &element)) {
      is_there = guest_take(end->guest, &element, frame) && frame->number == number;
      vring_offer(&end->guest->rings[RX], (uint16_t)element.id);
    }
  }
  if (end->guest) return;
  uint8_t *payload = end->host.messages + end->host.before;
  for (uint32_t came = number + 1; came != number;) {
    ssize_t size = recv(end->host.fd, end->host.messages, end->host.size, 0);
    if (size != (ssize_t)end->host.size || !payload_is(payload, tag, &came)) came = number + 1;
  }
  payload_check(payload, payload_size(), 0, payload_size(), number);
}

static uint32_t echo_all(struct near_end *end, uint64_t until) {
  struct arriving frame = {0};
  uint32_t count = 0;
  for (uint64_t begun = now(); count < MAX_SAMPLES && begun < until; count++) {
    if (end->guest) {
      take_sent(end->guest);
      guest_send(end->guest, count);
      vring_publish(&end->guest->rings[TX]);
    } else {
      host_send_one(&end->host, count);
    }
    wait_for_answer(end, &frame, count);
    uint64_t done = now();
    samples[count] = (uint32_t)(done - begun);
    begun = done;
  }
  return count;
}

static void pin(const char *cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(atoi(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) die("sched_setaffinity");
}

static void child_ended(int signal) {
  (void)signal;
  _exit(1);  // it said why
}

// The host's end, until it is killed.
static pid_t start_host(struct host *host, int verb, const char *cpu) {
  signal(SIGCHLD, child_ended);
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child > 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pin(cpu);
  if (verb == SEND) host_receive_all(host, UINT64_MAX);
  else if (verb == RECEIVE) host_send_all(host, UINT64_MAX);
  else host_answer(host);
  return 0;
}

static void stop_host(pid_t child) {
  signal(SIGCHLD, SIG_DFL);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

static void run(struct near_end *end, struct host *host, int verb, char **cpus) {
  pin(cpus[0]);
  pid_t child = start_host(host, verb, cpus[1]);
  uint64_t begun = now(), until = begun + (uint64_t)(seconds * 1e9);
  uint32_t echoes = 0;
  if (verb == ECHO) echoes = echo_all(end, until);
  else if (verb == SEND && end->guest) guest_send_all(end->guest, until);
  else if (verb == SEND) host_send_all(&end->host, until);
  else if (end->guest) guest_receive_all(end->guest, until);
  else host_receive_all(&end->host, until);
  double took = (double)(now() - begun) / 1e9, count = (double)shared->count;
  stop_host(child);
  printf("{\"frames\":%.0f,\"lost\":%lu,\"framesPerSecond\":%.1f,\"bytesPerSecond\":%.1f,\"medianUs\":%.2f}\n", count,
         shared->lost, count / took, count * shape.frame / took, echoes ? median(samples, echoes) / 1e3 : 0);
}

static int verb_of(const char *word) {
  const char *verbs[] = {"send", "receive", "echo"};
  for (int verb = 0; verb < 3; verb++)
    if (strcmp(word, verbs[verb]) == 0) return verb;
  errno = EINVAL;
  die(word);
}

// SIZE SECONDS
static void set_up(char **args, int is_udp) {
  uint32_t size = (uint32_t)atoi(args[0]);
  seconds = atof(args[1]);
  errno = EINVAL;
  if (size < 64 || size > MAX_FRAME || seconds <= 0) die("SIZE or SECONDS");
  shape = shape_of(size, !is_udp);
  uint32_t frames = is_udp ? UDP_FRAMES : WINDOW_FRAMES, bytes = is_udp ? UDP_BYTES : WINDOW_BYTES;
  window = bytes / size < frames ? bytes / size : frames;
  tag = (uint32_t)getpid() | 0x80000000;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) die("mmap");
  alarm(WATCHDOG_SECONDS);
}

int main(int argc, char **argv) {
  static struct guest guest;
  struct near_end end = {0};
  if (argc == 10 && (strcmp(argv[1], "device") == 0 || strcmp(argv[1], "udp") == 0)) {
    int is_udp = strcmp(argv[1], "udp") == 0, verb = verb_of(argv[5]);
    set_up(argv + 6, is_udp);
    struct host host = is_udp ? host_udp(argv[3], verb == RECEIVE, &shape)
                              : host_packet(argv[3], argv[4], &shape, HOST_ADDRESS, GUEST_ADDRESS);
    guest_start(&guest, argv[2]);
    end.guest = &guest;
    run(&end, &host, verb, argv + 8);
    return 0;
  }
  if (argc == 11 && strcmp(argv[1], "veth") == 0) {
    set_up(argv + 7, 0);
    struct host host = host_packet(argv[4], argv[5], &shape, HOST_ADDRESS, GUEST_ADDRESS);
    end.host = host_packet(argv[2], argv[3], &shape, GUEST_ADDRESS, HOST_ADDRESS);
    run(&end, &host, verb_of(argv[6]), argv + 9);
    return 0;
  }
  fprintf(stderr, "usage: net_bench device|udp SOCKET NAMESPACE INTERFACE VERB SIZE SECONDS CPU CPU\n"
                  "       net_bench veth NAMESPACE INTERFACE NAMESPACE INTERFACE VERB SIZE SECONDS CPU CPU\n");
  return 2;
}
