// Plays a guest's virtio-vsock driver over vhost-user, with buffers of Linux's sizes (3,776 bytes with the header to
// receive, which is a page less what the socket buffer needs itself; up to 64 KiB to send), opens one stream to the
// host and moves bytes through it for a given time. Every received byte is checked. Prints one line of JSON. With a
// path instead of a device it does the same over a plain AF_UNIX stream.
//
//   vsock_bench device SOCKET send|receive|echo SECONDS [IDLE]  to host port 1024, 1025 or 1026; IDLE other streams stay open
//   vsock_bench unix SOCKET send|receive|echo SECONDS           the first byte written says which: 's', 'r' or 'e'
#define _GNU_SOURCE
#include "pattern.h"
#include "vring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { RX = 0, TX = 1, EVENT = 2, QUEUES = 3, QUEUE_SIZE = 128 };
enum { HEADER_SIZE = 44, RX_BUFFER = 3776, RX_SLOT = 4096, TX_PAYLOAD = 65536, TX_SLOTS = 64, EVENT_BUFFER = 8 };
enum { OP_REQUEST = 1, OP_RESPONSE = 2, OP_RST = 3, OP_SHUTDOWN = 4, OP_RW = 5, OP_CREDIT_UPDATE = 6, OP_CREDIT_REQUEST = 7 };
enum { HOST_CID = 2, GUEST_CID = 3, GUEST_PORT = 50000, SEND_PORT = 1024, RECEIVE_PORT = 1025, ECHO_PORT = 1026, TYPE_STREAM = 1 };
enum { SEND, RECEIVE, ECHO };
enum { MAX_SAMPLES = 1 << 20, MAX_IDLE = 4096 };
enum { BUFFER_SPACE = 256 * 1024, READ_SIZE = 65536, WATCHDOG_SECONDS = 60 };
#define MEMORY_SIZE (32u << 20)

struct __attribute__((packed)) packet {
  uint64_t source_cid, target_cid;
  uint32_t source_port, target_port, length;
  uint16_t type, op;
  uint32_t flags, buffer_space, forwarded;
};

struct guest {
  struct memory memory;
  struct vring rings[QUEUES];
  size_t buffers[QUEUES];  // offset of the first buffer of each queue
  uint16_t free_slots[TX_SLOTS];
  int free_count;
  uint32_t host_port;
  uint32_t sent, host_space, host_forwarded;  // what we sent, and what the host granted and consumed
  uint32_t received, told;                    // what we consumed, and what of it the host was told
  uint64_t total;
  uint32_t source_port;  // of the stream that is worked on
  int connected, ended;
};

static double clock_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// Byte n of a stream in either direction.
static uint8_t stream_byte(uint64_t n) { return (uint8_t)(n % 251); }

static uint8_t stream_template[TX_PAYLOAD + 251];

static void check_bytes(const uint8_t *bytes, uint32_t length, uint64_t from) {
  errno = EILSEQ;
  if (memcmp(bytes, stream_template + from % 251, length) != 0) die("the stream brought wrong bytes");
}

static size_t tx_slot(struct guest *guest, uint16_t slot) {
  return guest->buffers[TX] + (size_t)slot * (4096 + TX_PAYLOAD);
}

static void send_packet(struct guest *guest, uint16_t op, uint32_t length) {
  uint16_t slot = guest->free_slots[--guest->free_count];
  size_t at = tx_slot(guest, slot);
  *(struct packet *)(guest->memory.base + at) = (struct packet){.source_cid = GUEST_CID,
                                                                .target_cid = HOST_CID,
                                                                .source_port = guest->source_port,
                                                                .target_port = guest->host_port,
                                                                .length = length,
                                                                .type = TYPE_STREAM,
                                                                .op = op,
                                                                .flags = op == OP_SHUTDOWN ? 3 : 0,
                                                                .buffer_space = BUFFER_SPACE,
                                                                .forwarded = guest->received};
  guest->told = guest->received;
  uint16_t first = (uint16_t)(slot * 2);
  uint16_t flags = length ? VRING_DESC_F_NEXT : 0;
  struct vring_descriptor *descriptors = &guest->rings[TX].descriptors[first];
  descriptors[0] = (struct vring_descriptor){GUEST_BASE + at, HEADER_SIZE, flags, (uint16_t)(first + 1)};
  descriptors[1] = (struct vring_descriptor){GUEST_BASE + at + 4096, length, 0, 0};
  vring_offer(&guest->rings[TX], first);
}

// Sends as much as slots and the host's credit allow.
static void send_data(struct guest *guest) {
  while (guest->free_count > 1) {
    uint32_t credit = guest->host_space - (guest->sent - guest->host_forwarded);
    uint32_t length = credit < TX_PAYLOAD ? credit : TX_PAYLOAD;
    if (length == 0) return;
    uint16_t slot = guest->free_slots[guest->free_count - 1];
    memcpy(guest->memory.base + tx_slot(guest, slot) + 4096, stream_template + guest->total % 251, length);
    send_packet(guest, OP_RW, length);
    guest->sent += length;
    guest->total += length;
  }
}

static void handle(struct guest *guest, const struct packet *packet, const uint8_t *payload, uint32_t used) {
  errno = EPROTO;
  if (used < HEADER_SIZE || packet->length > used - HEADER_SIZE || packet->target_port != guest->source_port) die("bad packet");
  guest->host_space = packet->buffer_space;
  guest->host_forwarded = packet->forwarded;
  if (packet->op == OP_RESPONSE) guest->connected = 1;
  if (packet->op == OP_RST || packet->op == OP_SHUTDOWN) guest->ended = 1;
  if (packet->op != OP_RW) return;
  check_bytes(payload, packet->length, guest->total);
  guest->total += packet->length;
  guest->received += packet->length;
}

// What a reader does after each read() of READ_SIZE: as Linux, it tells the host of the room it made when the host knows
// of less than one largest packet's, or when there is nothing left to read (virtio_transport_stream_do_dequeue).
static void tell_credit(struct guest *guest, int read_out) {
  uint32_t untold = guest->received - guest->told;
  if (untold == 0 || guest->free_count == 0) return;
  if (BUFFER_SPACE - untold >= TX_PAYLOAD && !read_out) return;
  send_packet(guest, OP_CREDIT_UPDATE, 0);
  vring_publish(&guest->rings[TX]);
}

// Takes everything that came; gives the buffers back.
static void receive(struct guest *guest) {
  struct vring_used_element element;
  int given = 0;
  uint32_t read_until = guest->received + READ_SIZE;
  for (; vring_take(&guest->rings[RX], &element); given++) {
    uint8_t *buffer = guest->memory.base + guest->buffers[RX] + (size_t)element.id * RX_SLOT;
    handle(guest, (struct packet *)buffer, buffer + HEADER_SIZE, element.length);
    vring_offer(&guest->rings[RX], (uint16_t)element.id);
    if ((int32_t)(guest->received - read_until) < 0) continue;
    tell_credit(guest, 0);
    read_until += READ_SIZE;
  }
  if (given) vring_publish(&guest->rings[RX]);
  while (vring_take(&guest->rings[TX], &element)) guest->free_slots[guest->free_count++] = (uint16_t)(element.id / 2);
  tell_credit(guest, 1);
}

static void set_up(struct guest *guest, const char *path) {
  guest->memory = memory_create(MEMORY_SIZE);
  struct vhost_user vu = vhost_user_connect(path, VIRTIO_RING_F_EVENT_IDX);
  vhost_user_set_memory(&vu, &guest->memory);
  int event_idx = (vu.features & VIRTIO_RING_F_EVENT_IDX) != 0;
  struct ring_layout layouts[QUEUES];
  size_t at = 0;
  for (int queue = 0; queue < QUEUES; queue++) {
    at = vring_create(&guest->rings[queue], &layouts[queue], &guest->memory, at, QUEUE_SIZE, event_idx);
  }
  guest->buffers[RX] = at;
  guest->buffers[TX] = at + QUEUE_SIZE * RX_SLOT;
  guest->buffers[EVENT] = guest->buffers[TX] + TX_SLOTS * (4096 + TX_PAYLOAD);
  for (uint16_t index = 0; index < QUEUE_SIZE; index++) {
    uint64_t address = GUEST_BASE + guest->buffers[RX] + (uint64_t)index * RX_SLOT;
    guest->rings[RX].descriptors[index] = (struct vring_descriptor){address, RX_BUFFER, VRING_DESC_F_WRITE, 0};
    vring_offer(&guest->rings[RX], index);
  }
  guest->rings[EVENT].descriptors[0] =
      (struct vring_descriptor){GUEST_BASE + guest->buffers[EVENT], EVENT_BUFFER, VRING_DESC_F_WRITE, 0};
  vring_offer(&guest->rings[EVENT], 0);
  for (uint16_t slot = 0; slot < TX_SLOTS; slot++) guest->free_slots[guest->free_count++] = slot;
  for (uint32_t queue = 0; queue < QUEUES; queue++) {
    vhost_user_set_ring(&vu, &guest->memory, queue, &layouts[queue], guest->rings[queue].kick, guest->rings[queue].call);
  }
  vring_publish(&guest->rings[RX]);
  vring_publish(&guest->rings[EVENT]);
}

// Sleeps until something came, or a packet of ours was taken.
static void wait_for_host(struct guest *guest) {
  if (!vring_arm(&guest->rings[RX]) || !vring_arm(&guest->rings[TX])) return;
  struct pollfd calls[2] = {{.fd = guest->rings[RX].call, .events = POLLIN}, {.fd = guest->rings[TX].call, .events = POLLIN}};
  if (poll(calls, 2, -1) < 1) die("poll");
  uint64_t count;
  for (int i = 0; i < 2; i++) {
    if (calls[i].revents && read(calls[i].fd, &count, sizeof count) != sizeof count) die("call");
  }
}

static void print_result(uint64_t bytes, double seconds) {
  printf("{\"bytes\":%lu,\"seconds\":%.6f,\"bytesPerSecond\":%.1f}\n", bytes, seconds, (double)bytes / seconds);
}

// Opens a stream and waits for the answer.
static void connect_to(struct guest *guest, uint32_t from, uint32_t to) {
  guest->source_port = from;
  guest->host_port = to;
  guest->connected = 0;
  send_packet(guest, OP_REQUEST, 0);
  vring_publish(&guest->rings[TX]);
  for (receive(guest); !guest->connected; receive(guest)) {
    errno = ECONNRESET;
    if (guest->ended) die("the host refused the stream");
    wait_for_host(guest);
  }
}

static uint32_t samples[MAX_SAMPLES];

static void print_echo(uint64_t count) {
  printf("{\"echoes\":%lu,\"medianUs\":%.2f}\n", count, median(samples, count) / 1e3);
}

// One byte there and back.
static int echo_device(struct guest *guest, double seconds) {
  double end = clock_seconds() + seconds;
  uint64_t count = 0;
  for (double begun = clock_seconds(); count < MAX_SAMPLES && begun < end; count++) {
    guest->memory.base[tx_slot(guest, guest->free_slots[guest->free_count - 1]) + 4096] = stream_byte(count);
    send_packet(guest, OP_RW, 1);
    guest->sent++;
    vring_publish(&guest->rings[TX]);
    for (receive(guest); guest->total <= count; receive(guest)) wait_for_host(guest);
    double done = clock_seconds();
    samples[count] = (uint32_t)((done - begun) * 1e9);
    begun = done;
  }
  print_echo(count);
  return 0;
}

static int run_device(const char *path, int verb, double seconds, int idle) {
  static struct guest guest;
  int sends = verb == SEND;
  set_up(&guest, path);
  for (int i = 0; i < idle; i++) connect_to(&guest, GUEST_PORT + 1 + (uint32_t)i, SEND_PORT);
  connect_to(&guest, GUEST_PORT, verb == SEND ? SEND_PORT : verb == RECEIVE ? RECEIVE_PORT : ECHO_PORT);
  if (verb == ECHO) return echo_device(&guest, seconds);
  double start = clock_seconds(), end = start + seconds;
  while (clock_seconds() < end) {
    receive(&guest);
    errno = ECONNRESET;
    if (guest.ended) die("the host ended the stream");
    if (sends) send_data(&guest);
    vring_publish(&guest.rings[TX]);
    wait_for_host(&guest);
  }
  // What the host has not consumed does not count.
  uint64_t waiting = sends ? guest.sent - guest.host_forwarded : 0;
  print_result(guest.total - waiting, clock_seconds() - start);
  return 0;
}

static int echo_unix(int fd, double seconds) {
  uint64_t count = 0;
  double end = clock_seconds() + seconds;
  for (double begun = clock_seconds(); count < MAX_SAMPLES && begun < end; count++) {
    uint8_t byte = stream_byte(count);
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) die("echo");
    check_bytes(&byte, 1, count);
    double done = clock_seconds();
    samples[count] = (uint32_t)((done - begun) * 1e9);
    begun = done;
  }
  print_echo(count);
  return 0;
}

static int run_unix(const char *path, int verb, double seconds) {
  int sends = verb == SEND;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  static uint8_t buffer[TX_PAYLOAD];
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) die(path);
  if (write(fd, &"sre"[verb], 1) != 1) die("write");
  if (verb == ECHO) return echo_unix(fd, seconds);
  uint64_t total = 0;
  double start = clock_seconds(), end = start + seconds;
  while (clock_seconds() < end) {
    const uint8_t *from = stream_template + total % 251;
    ssize_t size = sends ? write(fd, from, TX_PAYLOAD) : read(fd, buffer, TX_PAYLOAD);
    if (size <= 0) die("stream");
    if (!sends) check_bytes(buffer, (uint32_t)size, total);
    total += (uint64_t)size;
  }
  print_result(total, clock_seconds() - start);
  return 0;
}

int main(int argc, char **argv) {
  const char *verbs[] = {"send", "receive", "echo"};
  int verb = 0;
  while (argc >= 5 && verb < 3 && strcmp(argv[3], verbs[verb]) != 0) verb++;
  int idle = argc == 6 ? atoi(argv[5]) : 0;
  if (argc < 5 || argc > 6 || verb == 3 || idle < 0 || idle > MAX_IDLE) {
    fprintf(stderr, "usage: vsock_bench device|unix SOCKET send|receive|echo SECONDS [IDLE]\n");
    return 2;
  }
  for (size_t n = 0; n < sizeof stream_template; n++) stream_template[n] = stream_byte(n);
  alarm(WATCHDOG_SECONDS);
  double seconds = atof(argv[4]);
  return strcmp(argv[1], "unix") == 0 ? run_unix(argv[2], verb, seconds) : run_device(argv[2], verb, seconds, idle);
}
