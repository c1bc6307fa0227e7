#include "wire.h"

namespace agent {

namespace {
constexpr uint8_t kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;
constexpr int kVarintBytesMax = 10;
}  // namespace

bool WireReader::read_varint(uint64_t& out) {
  out = 0;
  for (int i = 0; i < kVarintBytesMax; i++) {
    if (at_ == end_) return false;
    const auto byte = static_cast<uint8_t>(*at_++);
    // The tenth byte holds one bit of the 64.
    if (i == kVarintBytesMax - 1 && byte > 1) return false;
    out |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool WireReader::read_fixed(size_t size) {
  if (static_cast<size_t>(end_ - at_) < size) return false;
  value_ = 0;
  for (size_t i = 0; i < size; i++) value_ |= static_cast<uint64_t>(static_cast<uint8_t>(at_[i])) << (8 * i);
  at_ += size;
  return true;
}

bool WireReader::next() {
  if (!ok_ || at_ == end_) return false;
  uint64_t tag;
  ok_ = read_varint(tag) && tag >> 3 != 0 && tag >> 32 == 0;
  if (!ok_) return false;
  field_ = static_cast<uint32_t>(tag >> 3);
  type_ = tag & 7;
  switch (type_) {
    case kVarint:
      ok_ = read_varint(value_);
      break;
    case kFixed64:
      ok_ = read_fixed(8);
      break;
    case kFixed32:
      ok_ = read_fixed(4);
      break;
    case kLength: {
      uint64_t length;
      ok_ = read_varint(length) && length <= static_cast<uint64_t>(end_ - at_);
      if (!ok_) break;
      bytes_ = {at_, static_cast<size_t>(length)};
      at_ += length;
      break;
    }
    default:
      ok_ = false;
  }
  return ok_;
}

bool WireReader::expect(uint8_t type) {
  if (type_ != type) ok_ = false;
  return ok_;
}

void WireReader::get_bytes(std::string_view& out) {
  if (expect(kLength)) out = bytes_;
}

void WireReader::get(std::string& out) {
  if (!expect(kLength)) return;
  if (bytes_.find('\0') != bytes_.npos) {
    ok_ = false;
    return;
  }
  out.assign(bytes_);
}

void WireReader::get(uint64_t& out) {
  if (expect(kVarint)) out = value_;
}

void WireReader::get(int64_t& out) {
  if (expect(kVarint)) out = static_cast<int64_t>(value_);
}

void WireReader::get(uint32_t& out) {
  if (expect(kVarint)) out = static_cast<uint32_t>(value_);
}

void WireReader::get(bool& out) {
  if (expect(kVarint)) out = value_ != 0;
}

void WireReader::append(std::vector<std::string>& out) {
  if (out.size() >= kMaxItems) ok_ = false;
  if (!ok_) return;
  out.emplace_back();
  get(out.back());
}

void WireReader::append(std::vector<uint32_t>& out) {
  if (type_ == kVarint) {
    if (out.size() >= kMaxItems) ok_ = false;
    if (ok_) out.push_back(static_cast<uint32_t>(value_));
    return;
  }
  if (!expect(kLength)) return;
  WireReader packed(bytes_);
  while (packed.at_ != packed.end_ && ok_) {
    uint64_t value;
    ok_ = out.size() < kMaxItems && packed.read_varint(value);
    if (ok_) out.push_back(static_cast<uint32_t>(value));
  }
}

void WireWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
  out_.push_back(static_cast<char>(value));
}

void WireWriter::raw(uint32_t field, std::string_view bytes) {
  varint(field << 3 | kLength);
  varint(bytes.size());
  out_.append(bytes);
}

void WireWriter::put(uint32_t field, uint64_t value) {
  if (value == 0) return;
  varint(field << 3 | kVarint);
  varint(value);
}

void WireWriter::put(uint32_t field, std::string_view bytes) {
  if (!bytes.empty()) raw(field, bytes);
}

void WireWriter::put_message(uint32_t field, const WireWriter& message) { raw(field, message.bytes()); }

}  // namespace agent
