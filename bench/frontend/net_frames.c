#define _GNU_SOURCE
#include "net_frames.h"

#include "pattern.h"
#include "vhost_user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IP_SIZE = 20, UDP_SIZE = 8, TCP_SIZE = 20, SEGMENT = 1448, SOCKET_BUFFER = 16 << 20 };
enum { NEEDS_CSUM = 1, GSO_TCPV4 = 1, CHECK_STRIDE = 1024, WORD = 8 };
enum { TRANSPORT = ETHERNET_SIZE + IP_SIZE, LARGEST_SEGMENT_FRAME = 1514 };

struct shape shape_of(uint32_t frame, int may_be_cut) {
  int is_cut = may_be_cut && frame > LARGEST_SEGMENT_FRAME;
  return (struct shape){frame, TRANSPORT + (is_cut ? TCP_SIZE : UDP_SIZE), is_cut};
}

static void put16(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static uint16_t checksum(const uint8_t *bytes, size_t length) {
  uint32_t sum = 0;
  for (size_t i = 0; i < length; i += 2) sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

static void fill_payload(uint8_t *payload, uint32_t size) {
  for (uint32_t at = 0; at + WORD <= size; at += WORD) {
    uint64_t word = pattern(at);
    memcpy(payload + at, &word, WORD);
  }
}

void frame_make(uint8_t *frame, const struct shape *shape, const uint8_t from[4], const uint8_t to[4]) {
  // To a machine that is none of these: a kernel that gets it looks no further than at this address.
  static const uint8_t macs[] = {2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 0x78, 8, 0};
  uint8_t *ip = frame + ETHERNET_SIZE, *transport = frame + TRANSPORT;
  memset(frame, 0, shape->payload);
  memcpy(frame, macs, sizeof macs);
  ip[0] = 0x45;
  put16(ip + 2, shape->frame - ETHERNET_SIZE);
  ip[8] = 64;
  ip[9] = shape->is_cut ? IPPROTO_TCP : IPPROTO_UDP;
  memcpy(ip + 12, from, 4);
  memcpy(ip + 16, to, 4);
  put16(ip + 10, checksum(ip, IP_SIZE));
  put16(transport, GUEST_PORT);
  put16(transport + 2, HOST_PORT);
  if (shape->is_cut) {
    transport[12] = TCP_SIZE / 4 << 4;
    transport[13] = 0x10;  // ACK
  } else {
    put16(transport + 4, shape->frame - TRANSPORT);
  }
  fill_payload(frame + shape->payload, shape->frame - shape->payload);
}

void frame_header(uint8_t *header, size_t size, const struct shape *shape) {
  memset(header, 0, size);
  if (!shape->is_cut) return;
  const uint16_t fields[] = {TRANSPORT + TCP_SIZE, SEGMENT, TRANSPORT, 16};
  header[0] = NEEDS_CSUM;
  header[1] = GSO_TCPV4;
  memcpy(header + 2, fields, sizeof fields);
}

void payload_number(uint8_t *payload, uint32_t size, uint32_t tag, uint32_t number) {
  uint64_t first = (uint64_t)tag << 32 | number, last = pattern((uint64_t)number * WORD);
  memcpy(payload, &first, WORD);
  memcpy(payload + size - WORD, &last, WORD);
}

int payload_is(const uint8_t *payload, uint32_t tag, uint32_t *number) {
  uint64_t first;
  memcpy(&first, payload, WORD);
  *number = (uint32_t)first;
  return first >> 32 == tag;
}

void payload_check(const uint8_t *bytes, uint32_t length, uint32_t at, uint32_t size, uint32_t number) {
  static uint8_t expected[MAX_FRAME + WORD];
  static int is_filled;
  if (!is_filled) fill_payload(expected, sizeof expected);
  is_filled = 1;
  uint32_t first = at < WORD ? WORD - at : 0, end = at + length < size ? length : size - WORD - at;
  errno = EILSEQ;
  for (uint32_t i = first; i + WORD <= end; i += CHECK_STRIDE)
    if (memcmp(bytes + i, expected + at + i, WORD) != 0) die("a frame brought wrong bytes");
  if (at + length < size) return;
  uint64_t last = pattern((uint64_t)number * WORD);
  if (length < WORD || memcmp(bytes + length - WORD, &last, WORD) != 0) die("a frame brought a wrong end");
}

int socket_in(const char *name, int family, int type, int protocol) {
  char path[256];
  snprintf(path, sizeof path, "/run/netns/%s", name);
  int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), other = open(path, O_RDONLY | O_CLOEXEC);
  if (own < 0 || other < 0 || setns(other, CLONE_NEWNET) != 0) die(path);
  int fd = socket(family, type | SOCK_CLOEXEC, protocol);
  if (fd < 0) die("socket");
  if (setns(own, CLONE_NEWNET) != 0) die("setns");
  close(own);
  close(other);
  int size = SOCKET_BUFFER;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0) die("SO_RCVBUFFORCE");
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0) die("SO_SNDBUFFORCE");
  return fd;
}

static struct host with_messages(int fd, size_t before, size_t size) {
  size_t most = BATCH_BYTES / size;
  struct host host = {fd, before, size, most > MAX_BATCH ? MAX_BATCH : (int)most, NULL};
  host.messages = calloc((size_t)host.batch, size);
  if (!host.messages) die("calloc");
  return host;
}

static int interface_index(int fd, const char *interface) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  // The socket's own namespace is asked, and not the thread's.
  if (ioctl(fd, SIOCGIFINDEX, &request) != 0) die(interface);
  return request.ifr_ifindex;
}

struct host host_packet(const char *name, const char *interface, const struct shape *shape, const uint8_t from[4],
                        const uint8_t to[4]) {
  // Nothing comes before it is bound to its interface. IPv4 only: it does not see what it sends.
  int fd = socket_in(name, AF_PACKET, SOCK_RAW, 0), one = 1;
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
  address.sll_ifindex = interface_index(fd, interface);
  if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0) die("PACKET_VNET_HDR");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) die("bind");
  struct host host = with_messages(fd, PACKET_VNET_SIZE + shape->payload, PACKET_VNET_SIZE + shape->frame);
  for (int i = 0; i < host.batch; i++) {
    uint8_t *message = host.messages + (size_t)i * host.size;
    frame_header(message, PACKET_VNET_SIZE, shape);
    frame_make(message + PACKET_VNET_SIZE, shape, from, to);
  }
  return host;
}

struct host host_udp(const char *name, int sends, const struct shape *shape) {
  int fd = socket_in(name, AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(sends ? GUEST_PORT : HOST_PORT)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if ((sends ? connect : bind)(fd, (struct sockaddr *)&address, sizeof address) != 0) die("UDP socket");
  struct host host = with_messages(fd, 0, shape->frame - shape->payload);
  for (int i = 0; i < host.batch; i++) fill_payload(host.messages + (size_t)i * host.size, (uint32_t)host.size);
  return host;
}
