// Frames whose content can be checked, and the sockets that they go through on the host: a packet socket on an
// interface, whose messages begin with a virtio-net header (PACKET_VNET_HDR), or a UDP socket, which sees the payload
// alone.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { ETHERNET_SIZE = 14, VNET_SIZE = 12, PACKET_VNET_SIZE = 10, MAX_FRAME = 65549 };
enum { GUEST_PORT = 5301, HOST_PORT = 5302 };

// What is sent: a UDP datagram, or above one segment a TCP packet that is yet to be cut up, unless it is to go whole.
struct shape {
  uint32_t frame;    // bytes with all headers
  uint32_t payload;  // where the payload begins in it
  int is_cut;
};

struct shape shape_of(uint32_t frame, int may_be_cut);
// Writes a frame with everything but its number.
void frame_make(uint8_t *frame, const struct shape *shape, const uint8_t from[4], const uint8_t to[4]);
// Writes the virtio-net header of such a frame, PACKET_VNET_SIZE or VNET_SIZE bytes.
void frame_header(uint8_t *header, size_t size, const struct shape *shape);
// Numbers a payload; others with another tag are not counted.
void payload_number(uint8_t *payload, uint32_t size, uint32_t tag, uint32_t number);
// 1 if the payload begins as one of this tag, and its number.
int payload_is(const uint8_t *payload, uint32_t tag, uint32_t *number);
// Ends the program unless bytes [at, at + length) of a payload of `size` bytes are what was sent.
void payload_check(const uint8_t *bytes, uint32_t length, uint32_t at, uint32_t size, uint32_t number);

enum { BATCH_BYTES = 1 << 20, MAX_BATCH = 64 };

// One end on the host.
struct host {
  int fd;
  size_t before;  // bytes of a message before its payload
  size_t size;    // bytes of a message
  int batch;      // messages a system call
  uint8_t *messages;
};

// `name` of a network namespace, as `ip netns` has it. The calling thread's own is what it was afterwards.
int socket_in(const char *name, int family, int type, int protocol);
// A packet socket on an interface, ready to send frames of `shape` and to receive them.
struct host host_packet(const char *name, const char *interface, const struct shape *shape, const uint8_t from[4],
                        const uint8_t to[4]);
// A UDP socket on the loopback interface, which receives on HOST_PORT, or one that sends to GUEST_PORT.
struct host host_udp(const char *name, int sends, const struct shape *shape);
