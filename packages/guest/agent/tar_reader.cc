#include "tar_reader.h"

#include <algorithm>
#include <cstring>

#include "changes.h"
#include "paths.h"
#include "tar.h"

namespace agent {

namespace {

constexpr size_t kPaxMax = 1024 * 1024, kContentMax = 64 * 1024;
constexpr char kMagic[] = "ustar\0" "00", kXattr[] = "SCHILY.xattr.", kTypes[] = "01256";
constexpr uint64_t kNoId = 0xffffffff;

Status bad(const char* what) { return {Code::invalid_argument, std::string("the tar stream has ") + what, {}}; }

// Up to its NUL.
std::string text_field(const std::string& block, size_t at, size_t size) {
  const char* from = block.data() + at;
  return std::string(from, strnlen(from, size));
}

// Digits, then NULs or spaces.
bool octal_field(const std::string& block, size_t at, size_t size, uint64_t& out) {
  size_t i = at;
  out = 0;
  for (; i < at + size && block[i] >= '0' && block[i] <= '7'; i++) out = out * 8 + static_cast<uint64_t>(block[i] - '0');
  if (i == at) return false;
  for (; i < at + size; i++)
    if (block[i] != '\0' && block[i] != ' ') return false;
  return true;
}

bool sum_is_right(const std::string& block) {
  uint64_t said = 0, sum = 8 * ' ';
  for (size_t i = 0; i < block.size(); i++)
    if (i < 148 || i >= 156) sum += static_cast<unsigned char>(block[i]);
  return octal_field(block, 148, 8, said) && said == sum;
}

bool is_zero(const std::string& block) { return block.find_first_not_of('\0') == block.npos; }

// Seconds since the epoch with a fraction of up to nine digits.
bool parse_time(std::string_view text, timespec& out) {
  const bool negative = !text.empty() && text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t dot = text.find('.');
  std::string fraction(dot == text.npos ? "" : text.substr(dot + 1));
  uint64_t seconds = 0, nanoseconds = 0;
  if (fraction.size() > 9 || !parse_number(text.substr(0, dot), seconds) || seconds > (1ull << 40)) return false;
  fraction.resize(9, '0');
  if (!parse_number(fraction, nanoseconds)) return false;
  const auto whole = static_cast<int64_t>(seconds), part = static_cast<int64_t>(nanoseconds);
  out.tv_sec = !negative ? whole : part == 0 ? -whole : -whole - 1;
  out.tv_nsec = !negative || part == 0 ? part : 1000000000 - part;
  return true;
}

bool parse_id(std::string_view text, uint32_t& out) {
  uint64_t number = 0;
  if (!parse_number(text, number) || number >= kNoId) return false;
  out = static_cast<uint32_t>(number);
  return true;
}

}  // namespace

Status TarReader::next(TarEntry& out) {
  out = {};
  std::string block, records;
  Status status = in_.get(padding_, block);
  padding_ = 0;
  // An entry, or the extension before it.
  for (bool extended = false; status.ok();) {
    status = in_.get(kTarBlock, block);
    if (!status.ok()) break;
    if (is_zero(block)) return extended ? bad("an extension without its entry") : end();
    if (++entries_ > 2 * kChangesMax) return {Code::resource_exhausted, "the tar stream has too many entries", {}};
    if (block[156] != 'x') return entry(block, records, out);
    uint64_t size = 0;
    if (extended || !sum_is_right(block) || !octal_field(block, 124, 12, size)) return bad("a wrong extension");
    extended = true;
    status = extension(size, records);
  }
  return status;
}

// The second zero block, and nothing after it.
Status TarReader::end() {
  std::string block;
  const Status status = in_.get(kTarBlock, block);
  if (!status.ok()) return status;
  return is_zero(block) && in_.at_end() ? Status{} : bad("something after its end");
}

// What the extension says wins over the header.
Status TarReader::entry(const std::string& block, const std::string& records, TarEntry& out) {
  Status status = header(block, out);
  if (status.ok()) status = apply(records, out);
  if (!status.ok()) return status;
  if (out.size != 0 && out.type != '0') return bad("content where none can be");
  total_ += std::min(out.size, kTarBytesMax + 1);
  if (total_ > kTarBytesMax) return {Code::resource_exhausted, "the tar stream holds more than 64 GiB", {}};
  left_ = out.size;
  padding_ = -out.size & (kTarBlock - 1);
  return {};
}

Status TarReader::header(const std::string& block, TarEntry& out) {
  uint64_t mode, uid, gid, size, mtime;
  if (memcmp(block.data() + 257, kMagic, 8) != 0 || block[345] != '\0' || !sum_is_right(block)) return bad("a wrong header");
  if (!octal_field(block, 100, 8, mode) || !octal_field(block, 108, 8, uid) || !octal_field(block, 116, 8, gid) ||
      !octal_field(block, 124, 12, size) || !octal_field(block, 136, 12, mtime))
    return bad("a wrong number");
  if (block[156] == '\0' || !strchr(kTypes, block[156])) return bad("an entry that is no file, folder, link or FIFO");
  out.type = block[156];
  out.path = text_field(block, 0, 100);
  out.link = text_field(block, 157, 100);
  out.uid = static_cast<uid_t>(uid);
  out.gid = static_cast<gid_t>(gid);
  out.size = size;
  out.mtime.tv_sec = static_cast<time_t>(mtime);
  out.mode = static_cast<mode_t>(mode & 07777);
  return {};
}

Status TarReader::extension(uint64_t size, std::string& body) {
  std::string rest;
  if (size > kPaxMax) return {Code::resource_exhausted, "the tar stream has an extension of more than 1 MiB", {}};
  const Status status = in_.get(size, body);
  return status.ok() ? in_.get(-size & (kTarBlock - 1), rest) : status;
}

Status TarReader::apply(const std::string& body, TarEntry& out) {
  Status status;
  for (size_t at = 0; status.ok() && at < body.size();) {
    const size_t space = body.find(' ', at);
    uint64_t length = 0;
    if (space == body.npos || !parse_number(std::string_view(body).substr(at, space - at), length)) return bad("a wrong record");
    if (length > body.size() - at || length <= space - at + 1 || body[at + length - 1] != '\n') return bad("a wrong record");
    const size_t equals = body.find('=', space), end = at + length - 1;
    if (equals == body.npos || equals >= end) return bad("a wrong record");
    status = record(body.substr(space + 1, equals - space - 1), std::string_view(body).substr(equals + 1, end - equals - 1), out);
    at += length;
  }
  return status;
}

Status TarReader::record(const std::string& key, std::string_view value, TarEntry& out) {
  const size_t xattr = sizeof kXattr - 1;
  bool right = false;
  if (key == "path" || key == "linkpath") {
    right = !value.empty() && value.find('\0') == value.npos;
    (key == "path" ? out.path : out.link) = value;
  } else if (key == "size") {
    right = parse_number(value, out.size);
  } else if (key == "uid") {
    right = parse_id(value, out.uid);
  } else if (key == "gid") {
    right = parse_id(value, out.gid);
  } else if (key == "mtime") {
    right = parse_time(value, out.mtime);
  } else if (key.compare(0, xattr, kXattr) == 0) {
    right = key.find('\0') == key.npos;
    out.xattrs.emplace_back(key.substr(xattr), value);
  }
  return right ? Status{} : bad("a wrong record");
}

Status TarReader::content(std::string& chunk) {
  const Status status = in_.get(static_cast<size_t>(std::min<uint64_t>(left_, kContentMax)), chunk);
  left_ -= chunk.size();
  return status;
}

}  // namespace agent
