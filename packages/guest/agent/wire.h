// Protobuf wire format, as far as the agent needs it: a bounded reader and a writer.
// https://protobuf.dev/programming-guides/encoding/
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace agent {

// No repeated field of any message the agent knows needs more.
constexpr size_t kMaxItems = 4096;

// Walks the fields of one message. Every value is read and checked by next(); a wrong type, an overlong
// varint, a length past the end or a group (which could nest without end) makes ok() false for good.
class WireReader {
 public:
  explicit WireReader(std::string_view in) : at_(in.data()), end_(in.data() + in.size()) {}

  // Moves to the next field. False at the end and after an error.
  bool next();
  bool ok() const { return ok_; }
  uint32_t field() const { return field_; }

  void get(std::string& out);       // text: no NUL inside
  void get_bytes(std::string_view& out);
  void get(uint64_t& out);
  void get(int64_t& out);
  void get(uint32_t& out);
  void get(bool& out);
  void append(std::vector<std::string>& out);
  void append(std::vector<uint32_t>& out);  // packed or not
  // Calls decode(view, message) for a nested message; what decode refuses is refused here.
  template <typename T>
  void get_message(T& out) {
    std::string_view view;
    get_bytes(view);
    if (ok_ && !decode(view, out)) ok_ = false;
  }
  template <typename T>
  void append_message(std::vector<T>& out) {
    if (out.size() >= kMaxItems) ok_ = false;
    if (!ok_) return;
    out.emplace_back();
    get_message(out.back());
  }

 private:
  bool read_varint(uint64_t& out);
  bool read_fixed(size_t size);
  bool expect(uint8_t type);

  const char* at_;
  const char* end_;
  bool ok_ = true;
  uint32_t field_ = 0;
  uint8_t type_ = 0;
  uint64_t value_ = 0;
  std::string_view bytes_;
};

// Appends fields to a string. Default values are left out, as proto3 does.
class WireWriter {
 public:
  void put(uint32_t field, uint64_t value);
  void put(uint32_t field, std::string_view bytes);
  void put_message(uint32_t field, const WireWriter& message);
  const std::string& bytes() const { return out_; }

 private:
  void varint(uint64_t value);
  void raw(uint32_t field, std::string_view bytes);
  std::string out_;
};

}  // namespace agent
