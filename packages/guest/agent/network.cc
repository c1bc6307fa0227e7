#include "network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fd.h"

namespace agent {

namespace {

// linux/ipv6.h and linux/ipv6_route.h, which cannot be included beside the C library's headers.
struct Ifreq6 {
  in6_addr address;
  uint32_t prefix_length;
  int interface_index;
};
struct Route6 {
  in6_addr destination, source, gateway;
  uint32_t type;
  uint16_t destination_length, source_length;
  uint32_t metric;
  unsigned long info;
  uint32_t flags;
  int interface_index;
};

constexpr size_t kAddressesMax = 16;
constexpr size_t kRoutesMax = 64;
constexpr uint64_t kMtuMax = 65535;
constexpr int kDeviceWaitMs = 2000;
constexpr uint32_t kRouteMetric = 1;

Status invalid(std::string what) { return {Code::invalid_argument, std::move(what), {}}; }

// A number from 0 to `most`, or -1.
int parse_bits(const std::string& text, int most) {
  if (text.empty() || text.size() > 3 || text.find_first_not_of("0123456789") != text.npos) return -1;
  const int bits = atoi(text.c_str());
  return bits <= most ? bits : -1;
}

in_addr mask_of(int bits) { return {bits == 0 ? 0 : htonl(~0u << (32 - bits))}; }

sockaddr to_sockaddr(in_addr address) {
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_addr = address;
  sockaddr out;
  memcpy(&out, &in, sizeof out);
  return out;
}

bool copy_name(const std::string& name, char (&into)[IFNAMSIZ]) {
  if (name.empty() || name.size() >= IFNAMSIZ || name.find('/') != name.npos) return false;
  memcpy(into, name.c_str(), name.size() + 1);
  return true;
}

// The index of an interface, whose driver is starting already; 0 when it does not come.
int wait_for_interface(const std::string& name) {
  for (int ms = 0; ms < kDeviceWaitMs; ms++) {
    if (const unsigned index = if_nametoindex(name.c_str())) return static_cast<int>(index);
    usleep(1000);
  }
  return 0;
}

Status add_address4(int socket, ifreq request, const IpAddress& address) {
  in_addr ip;
  const int bits = parse_bits(address.mask, 32);
  if (inet_pton(AF_INET, address.address.c_str(), &ip) != 1 || bits < 0)
    return invalid("\"" + address.address + "/" + address.mask + "\" is no IPv4 address");
  request.ifr_addr = to_sockaddr(ip);
  if (ioctl(socket, SIOCSIFADDR, &request) != 0) return errno_status("address " + address.address, errno);
  request.ifr_netmask = to_sockaddr(mask_of(bits));
  if (ioctl(socket, SIOCSIFNETMASK, &request) != 0) return errno_status("netmask of " + address.address, errno);
  return {};
}

Status add_address6(int index, const IpAddress& address) {
  Ifreq6 request = {};
  const int bits = parse_bits(address.mask, 128);
  if (inet_pton(AF_INET6, address.address.c_str(), &request.address) != 1 || bits < 0)
    return invalid("\"" + address.address + "/" + address.mask + "\" is no IPv6 address");
  request.prefix_length = static_cast<uint32_t>(bits);
  request.interface_index = index;
  const Fd fd(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || (ioctl(fd.get(), SIOCSIFADDR, &request) != 0 && errno != EEXIST))
    return errno_status("address " + address.address, errno);
  return {};
}

// A kernel without IPv6 has no such settings.
void set_ipv6(const std::string& device, const char* setting, const char* value) {
  const Fd fd(open(("/proc/sys/net/ipv6/conf/" + device + "/" + setting).c_str(), O_WRONLY | O_CLOEXEC));
  if (fd && write(fd.get(), value, strlen(value)) < 0) return;
}

// Whoever gives a guest its addresses knows that nobody else has them: without the check they can be used at once, and not
// after a second. It has these and no others: what it sent from one that a router had it make would not be let out.
void own_addresses_only(const std::string& device) {
  set_ipv6(device, "accept_dad", "0");
  set_ipv6(device, "autoconf", "0");
}

// "ADDRESS/BITS", or everything.
bool parse_network(const std::string& text, int family, void* address, int* bits) {
  *bits = 0;
  if (text.empty()) return true;
  const size_t slash = text.find('/');
  if (slash == text.npos) return false;
  *bits = parse_bits(text.substr(slash + 1), family == AF_INET ? 32 : 128);
  return *bits >= 0 && inet_pton(family, text.substr(0, slash).c_str(), address) == 1;
}

Status add_route4(const Route& route) {
  in_addr destination = {}, gateway = {};
  int bits;
  char device[IFNAMSIZ];
  if (!parse_network(route.dest, AF_INET, &destination, &bits) || !copy_name(route.device, device))
    return invalid("\"" + route.dest + "\" is no IPv4 route");
  rtentry entry = {};
  entry.rt_dst = to_sockaddr(destination);
  entry.rt_genmask = to_sockaddr(mask_of(bits));
  entry.rt_flags = RTF_UP;
  entry.rt_dev = device;
  if (!route.gateway.empty()) {
    if (inet_pton(AF_INET, route.gateway.c_str(), &gateway) != 1) return invalid("\"" + route.gateway + "\" is no gateway");
    entry.rt_gateway = to_sockaddr(gateway);
    entry.rt_flags |= RTF_GATEWAY;
  }
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || (ioctl(fd.get(), SIOCADDRT, &entry) != 0 && errno != EEXIST))
    return errno_status("route to \"" + route.dest + "\"", errno);
  return {};
}

Status add_route6(const Route& route) {
  Route6 entry = {};
  int bits;
  if (!parse_network(route.dest, AF_INET6, &entry.destination, &bits))
    return invalid("\"" + route.dest + "\" is no IPv6 route");
  entry.destination_length = static_cast<uint16_t>(bits);
  entry.metric = kRouteMetric;
  entry.flags = RTF_UP;
  entry.interface_index = static_cast<int>(if_nametoindex(route.device.c_str()));
  if (!route.gateway.empty()) {
    if (inet_pton(AF_INET6, route.gateway.c_str(), &entry.gateway) != 1)
      return invalid("\"" + route.gateway + "\" is no gateway");
    entry.flags |= RTF_GATEWAY;
  }
  const Fd fd(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || (ioctl(fd.get(), SIOCADDRT, &entry) != 0 && errno != EEXIST))
    return errno_status("route to \"" + route.dest + "\"", errno);
  return {};
}

}  // namespace

Status set_interface(const Interface& interface) {
  ifreq request = {};
  if (!copy_name(interface.device, request.ifr_name)) return invalid("\"" + interface.device + "\" is no interface");
  if (interface.addresses.size() > kAddressesMax) return invalid("too many addresses");
  if (interface.mtu > kMtuMax) return invalid("the MTU is too large");
  const int index = wait_for_interface(interface.device);
  if (index == 0) return {Code::not_found, "the interface \"" + interface.device + "\" does not exist", {}};
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_status("socket", errno);
  request.ifr_mtu = static_cast<int>(interface.mtu);
  if (interface.mtu != 0 && ioctl(fd.get(), SIOCSIFMTU, &request) != 0) return errno_status("MTU of " + interface.device, errno);
  own_addresses_only(interface.device);
  if (ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return errno_status("flags of " + interface.device, errno);
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return errno_status("start of " + interface.device, errno);
  for (const auto& address : interface.addresses) {
    const Status status = address.family == 0 ? add_address4(fd.get(), request, address) : add_address6(index, address);
    if (!status.ok()) return status;
  }
  return {};
}

Status add_routes(const Routes& routes) {
  if (routes.routes.size() > kRoutesMax) return invalid("too many routes");
  for (const auto& route : routes.routes) {
    const Status status = route.family == 0 ? add_route4(route) : add_route6(route);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace agent
