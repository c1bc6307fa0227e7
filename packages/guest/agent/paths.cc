#include "paths.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "agent.h"

namespace agent {

bool valid_id(std::string_view id) {
  if (id.empty() || id.size() > 128 || id[0] == '.') return false;
  for (const char c : id) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!letter && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t at = 0;;) {
    const size_t end = text.find(separator, at);
    parts.push_back(text.substr(at, end - at));
    if (end == text.npos) return parts;
    at = end + 1;
  }
}

bool below_base(std::string_view path) {
  const std::string_view base = kBaseDir;
  if (path.size() <= base.size() + 1 || path.substr(0, base.size()) != base || path[base.size()] != '/') return false;
  for (const auto part : split(path, '/'))
    if (part == "..") return false;
  return true;
}

bool parse_number(std::string_view text, uint64_t& out) {
  if (text.empty() || text.size() > 19) return false;
  out = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    out = out * 10 + static_cast<uint64_t>(c - '0');
  }
  return true;
}

bool make_dirs(const std::string& path, unsigned mode) {
  if (mkdir(path.c_str(), mode) == 0 || errno == EEXIST) return true;
  if (errno != ENOENT) return false;
  for (size_t at = path.find('/', 1); at != path.npos; at = path.find('/', at + 1)) {
    if (mkdir(path.substr(0, at).c_str(), mode) != 0 && errno != EEXIST) return false;
  }
  return mkdir(path.c_str(), mode) == 0 || errno == EEXIST;
}

bool write_file(const std::string& path, std::string_view content) {
  const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC));
  if (!fd) return false;
  return write(fd.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size());
}

std::string read_file(const std::string& path, size_t max) {
  // Not to be kept waiting by a FIFO that somebody put there.
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return {};
  std::string out;
  char buffer[4096];
  while (out.size() < max) {
    const ssize_t n = read(fd.get(), buffer, std::min(sizeof buffer, max - out.size()));
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

}  // namespace agent
