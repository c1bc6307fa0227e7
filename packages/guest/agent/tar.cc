#include "tar.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "paths.h"

namespace agent {

namespace {

constexpr size_t kNameMax = 100, kChunk = 64 * 1024;
constexpr uint64_t kIdMax = 07777777, kSizeMax = 077777777777;
constexpr char kWhiteout[] = ".wh.", kOpaque[] = ".wh..wh..opq";

// The way from a descriptor that only holds a file to the file. Jobs work in /proc/self/fd.
std::string fd_path(int fd) { return std::to_string(fd); }

std::string padding(uint64_t size) { return std::string(-size & (kTarBlock - 1), '\0'); }

// "LENGTH KEY=VALUE\n", where LENGTH counts its own digits too.
std::string pax_record(const std::string& key, std::string_view value) {
  const std::string rest = " " + key + "=" + std::string(value) + "\n";
  size_t length = rest.size() + 1;
  while (std::to_string(length).size() + rest.size() > length) length++;
  return std::to_string(length) + rest;
}

// Before the epoch the fraction counts the other way.
std::string pax_time(const timespec& time) {
  const bool negative = time.tv_sec < 0 && time.tv_nsec > 0;
  char text[64];
  if (time.tv_nsec == 0) snprintf(text, sizeof text, "%lld", static_cast<long long>(time.tv_sec));
  else snprintf(text, sizeof text, "%s%lld.%09ld", negative ? "-" : "",
                static_cast<long long>(negative ? -(time.tv_sec + 1) : time.tv_sec), negative ? 1000000000 - time.tv_nsec : time.tv_nsec);
  return text;
}

void octal(char* at, size_t size, uint64_t value) {
  for (size_t i = size - 1; i-- > 0; value >>= 3) at[i] = static_cast<char>('0' + (value & 7));
}

std::string ustar_block(char type, const std::string& path, const std::string& link, const struct stat& st, uint64_t size) {
  std::string block(kTarBlock, '\0');
  char* at = block.data();
  memcpy(at, path.data(), std::min(path.size(), kNameMax));
  octal(at + 100, 8, st.st_mode & 07777);
  octal(at + 108, 8, st.st_uid > kIdMax ? 0 : st.st_uid);
  octal(at + 116, 8, st.st_gid > kIdMax ? 0 : st.st_gid);
  octal(at + 124, 12, size > kSizeMax ? 0 : size);
  octal(at + 136, 12, static_cast<uint64_t>(std::clamp<int64_t>(st.st_mtim.tv_sec, 0, static_cast<int64_t>(kSizeMax))));
  at[156] = type;
  memcpy(at + 157, link.data(), std::min(link.size(), kNameMax));
  memcpy(at + 257, "ustar\0" "00", 8);
  const bool device = type == '3' || type == '4';
  octal(at + 329, 8, device ? major(st.st_rdev) : 0);
  octal(at + 337, 8, device ? minor(st.st_rdev) : 0);
  memset(at + 148, ' ', 8);
  unsigned sum = 0;
  for (const unsigned char byte : block) sum += byte;
  snprintf(at + 148, 8, "%06o", sum);
  return block;
}

char type_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return '0';
    case S_IFLNK: return '2';
    case S_IFCHR: return '3';
    case S_IFBLK: return '4';
    case S_IFDIR: return '5';
    case S_IFIFO: return '6';
    default: return 0;
  }
}

// What overlayfs keeps for itself is no part of a file.
bool kept(std::string_view name) {
  return name.rfind("trusted.overlay.", 0) != 0 && name.rfind("user.overlay.", 0) != 0 && name != "security.selinux";
}

Status read_xattrs(int fd, const std::string& path, std::vector<std::pair<std::string, std::string>>& out) {
  const std::string file = fd_path(fd);
  std::string names(kTarXattrBytesMax, '\0'), value(kTarXattrBytesMax, '\0');
  const ssize_t size = listxattr(file.c_str(), names.data(), names.size());
  if (size < 0) return errno == ENOTSUP ? Status{} : errno_status("attributes of " + path, errno);
  names.resize(static_cast<size_t>(size));
  size_t total = 0;
  for (const auto name : split(names, '\0')) {
    if (name.empty() || !kept(name)) continue;
    const std::string key(name);
    const ssize_t n = getxattr(file.c_str(), key.c_str(), value.data(), value.size());
    if (n < 0) continue;
    total += key.size() + static_cast<size_t>(n);
    if (total > kTarXattrBytesMax) return {Code::resource_exhausted, "too many attributes of " + path, {}};
    out.emplace_back(key, value.substr(0, static_cast<size_t>(n)));
  }
  return {};
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

Status LayerWriter::change(const Change& change) {
  if (whiteouts_ && base_name(change.path).rfind(kWhiteout, 0) == 0)
    return {Code::failed_precondition, "\"" + change.path.substr(0, 256) + "\" cannot be in a layer, where its name means a deletion", {}};
  if (change.kind == ChangeKind::deleted) {
    const size_t name = change.path.size() - base_name(change.path).size();
    return whiteout(change.path.substr(0, name) + kWhiteout + change.path.substr(name));
  }
  Entry entry{type_of(change.st.st_mode), change.path, {}, change.st, 0, {}};
  // Sockets.
  if (entry.type == 0) return {};
  if (entry.type == '5') entry.path += '/';
  Status status = read_xattrs(change.fd, change.path, entry.xattrs);
  if (!status.ok()) return status;
  if (entry.type == '0' || entry.type == '2') return file(change, std::move(entry));
  status = header(entry);
  return status.ok() && change.opaque ? whiteout(entry.path + kOpaque) : status;
}

Status LayerWriter::whiteout(const std::string& path) {
  Entry entry{'0', path, {}, {}, 0, {}};
  return header(entry);
}

Status LayerWriter::file(const Change& change, Entry entry) {
  if (entry.type == '2') {
    char text[4096];
    const ssize_t n = readlinkat(change.fd, "", text, sizeof text);
    if (n < 0) return errno_status("read link " + change.path, errno);
    entry.link.assign(text, static_cast<size_t>(n));
    return header(entry);
  }
  if (change.st.st_nlink > 1) {
    const auto [first, is_new] = linked_.try_emplace({change.st.st_dev, change.st.st_ino}, change.path);
    if (!is_new) {
      entry.type = '1';
      entry.link = first->second;
      entry.xattrs.clear();
      return header(entry);
    }
  }
  entry.size = static_cast<uint64_t>(change.st.st_size);
  total_ += entry.size;
  if (entry.size > kTarBytesMax || total_ > kTarBytesMax)
    return {Code::resource_exhausted, "the container's changes are more than a layer holds, at " + change.path, {}};
  const Fd fd(open(fd_path(change.fd).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return errno_status("read " + change.path, errno);
  const Status status = header(entry);
  return status.ok() ? contents(fd.get(), entry.size, change.path) : status;
}

Status LayerWriter::header(const Entry& entry) {
  const struct stat& st = entry.st;
  std::string pax;
  if (entry.path.size() > kNameMax) pax += pax_record("path", entry.path);
  if (entry.link.size() > kNameMax) pax += pax_record("linkpath", entry.link);
  if (entry.size > kSizeMax) pax += pax_record("size", std::to_string(entry.size));
  if (st.st_uid > kIdMax) pax += pax_record("uid", std::to_string(st.st_uid));
  if (st.st_gid > kIdMax) pax += pax_record("gid", std::to_string(st.st_gid));
  if (st.st_mtim.tv_nsec != 0 || st.st_mtim.tv_sec < 0 || st.st_mtim.tv_sec > static_cast<int64_t>(kSizeMax))
    pax += pax_record("mtime", pax_time(st.st_mtim));
  for (const auto& [name, value] : entry.xattrs) pax += pax_record("SCHILY.xattr." + name, value);
  if (!pax.empty()) {
    const Status status = out_.put(ustar_block('x', "PaxHeader", {}, {}, pax.size()) + pax + padding(pax.size()));
    if (!status.ok()) return status;
  }
  return out_.put(ustar_block(entry.type, entry.path, entry.link, st, entry.size));
}

Status LayerWriter::contents(int fd, uint64_t size, const std::string& path) {
  std::string chunk(kChunk, '\0');
  for (uint64_t left = size; left > 0;) {
    const ssize_t n = read(fd, chunk.data(), static_cast<size_t>(std::min<uint64_t>(left, kChunk)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_status("read " + path, errno);
    if (n == 0) return {Code::internal, path + " became shorter while it was read", {}};
    const Status status = out_.put(std::string_view(chunk.data(), static_cast<size_t>(n)));
    if (!status.ok()) return status;
    left -= static_cast<uint64_t>(n);
  }
  return out_.put(padding(size));
}

Status LayerWriter::finish() { return out_.put(std::string(2 * kTarBlock, '\0')); }

}  // namespace agent
