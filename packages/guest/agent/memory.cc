#include "memory.h"

#include <algorithm>
#include <string>

#include "paths.h"

namespace agent {

namespace {

// Of all memory one part in so many stays free, and not less than this.
constexpr uint64_t kReservePart = 16, kReserveKib = 4 * 1024;

// "Name:   1234 kB"
bool field(const std::string& text, const std::string& name, uint64_t& kib) {
  const size_t at = text.find(name + ":");
  const size_t from = at == text.npos ? at : text.find_first_not_of(' ', at + name.size() + 1);
  return from != text.npos && parse_number(std::string_view(text).substr(from, text.find(' ', from) - from), kib);
}

}  // namespace

bool memory_is_short() {
  const std::string text = read_file("../../meminfo", 4096);
  uint64_t total = 0, available = 0;
  if (!field(text, "MemTotal", total) || !field(text, "MemAvailable", available)) return false;
  return available < std::max(kReserveKib, total / kReservePart);
}

}  // namespace agent
