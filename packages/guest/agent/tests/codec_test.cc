// Hostile input for the wire format, the messages and the framing. Built with the address and undefined
// behaviour sanitizers, run by test/agent-codec.test.ts; each line of output is one passed check.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../messages.h"
#include "../ttrpc.h"
#include "../wire.h"

using namespace agent;

namespace {

int failures = 0;

void check(bool ok, const char* what) {
  if (!ok) failures++;
  printf("%s %s\n", ok ? "ok" : "FAILED", what);
}

std::string bytes(std::initializer_list<int> values) {
  std::string out;
  for (const int value : values) out.push_back(static_cast<char>(value));
  return out;
}

// Copied to the heap at its exact size, so that one byte too many is seen.
template <typename T>
bool decodes(const std::string& in, T& out) {
  std::vector<char> exact(in.begin(), in.end());
  return decode(std::string_view(exact.data(), exact.size()), out);
}

bool any_message_decodes(const std::string& in) {
  CreateSandboxRequest sandbox;
  CreateContainerRequest container;
  ExecProcessRequest exec;
  UpdateContainerRequest update;
  ReseedRequest reseed;
  DateTimeRequest date;
  CallRequest call;
  FilesRequest files;
  UnpackRequest unpack;
  ProcessRequest process;
  bool any = decodes(in, sandbox);
  any |= decodes(in, container);
  any |= decodes(in, exec);
  any |= decodes(in, update);
  any |= decodes(in, reseed);
  any |= decodes(in, date);
  any |= decodes(in, call);
  any |= decodes(in, files);
  any |= decodes(in, unpack);
  any |= decodes(in, process);
  return any;
}

void hostile_messages() {
  check(!any_message_decodes(bytes({0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01})), "A3: varint of 11 bytes");
  check(!any_message_decodes(bytes({0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})), "A3: varint above 2^64");
  check(!any_message_decodes(bytes({0x0a, 0x7f, 'x'})), "A3: length past the end");
  check(!any_message_decodes(bytes({0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'x'})), "A3: length of 2^62");
  check(!any_message_decodes(bytes({0x00})), "A3: field number 0");
  check(!any_message_decodes(bytes({0x0b})), "A3: group");
  check(!any_message_decodes(std::string(100000, 0x0b)), "A3: groups nested 10^5 deep");
  check(!any_message_decodes(bytes({0x0e})) && !any_message_decodes(bytes({0x0f})), "A3: wire types 6 and 7");
  check(!any_message_decodes(bytes({0x09, 1, 2, 3})), "A3: truncated fixed64");
  check(!any_message_decodes(bytes({0x0a})), "A3: tag without value");
  ProcessRequest request;
  check(!decodes(bytes({0x08, 0x01}), request), "A3: number where a text is due");
  check(!decodes(bytes({0x0a, 0x02, 'a', 0x00}), request), "A3: NUL inside a text");
  check(decodes(bytes({0x0a, 0x01, 'a', 0xf8, 0x3f, 0x01}), request) && request.container_id == "a", "unknown fields are skipped");
  std::string deep = bytes({0x0a, 0x00});
  for (int i = 0; i < 1000; i++) {
    WireWriter outer;
    outer.put(6, deep);
    deep = outer.bytes();
  }
  CreateContainerRequest container;
  decodes(deep, container);
  check(true, "A3: messages nested 1000 deep");
  CreateSandboxRequest many;
  WireWriter writer;
  for (size_t i = 0; i <= kMaxItems; i++) writer.put(2, "x");
  check(!decodes(writer.bytes(), many), "A3: more list items than allowed");
}

void round_trip() {
  WireWriter user, process, root, spec, request;
  user.put(1, 7ull);
  user.put(3, bytes({0x01, 0x80, 0x01}));  // packed: 1, 128
  user.put(3, 5ull);                       // and one that is not
  process.put_message(3, user);
  process.put(4, "/bin/true");
  process.put(11, static_cast<uint64_t>(-5));
  root.put(1, "/run/x");
  root.put(2, 1ull);
  spec.put_message(2, process);
  spec.put_message(3, root);
  request.put(1, "id");
  request.put_message(6, spec);
  request.put(10, 0xffffffffull);
  CreateContainerRequest out;
  const bool ok = decodes(request.bytes(), out) && out.container_id == "id" && out.ports.out == 0xffffffff &&
                  out.spec.root.readonly && out.spec.process.oom_score_adj == -5 && out.spec.process.user.uid == 7 &&
                  out.spec.process.user.additional_gids == std::vector<uint32_t>{1, 128, 5};
  check(ok, "what is written is read");
}

struct Recorder : FrameParser::Sink {
  std::vector<std::pair<uint32_t, std::string>> requests;
  std::vector<uint32_t> refusals;
  void request(uint32_t stream, std::string_view data) override { requests.emplace_back(stream, data); }
  void refused(uint32_t stream, const Status&) override { refusals.push_back(stream); }
};

std::string frame(uint32_t length, uint32_t stream, int type, int flags, const std::string& data = {}) {
  std::string out;
  for (const uint32_t word : {length, stream})
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(word >> shift));
  out.push_back(static_cast<char>(type));
  out.push_back(static_cast<char>(flags));
  return out + data;
}

void framing() {
  Recorder seen;
  FrameParser parser(seen);
  std::string in = frame(3, 1, 1, 0, "abc") + frame(0, 3, 1, 0);
  bool ok = true;
  for (const char byte : in) ok &= parser.push(&byte, 1);
  check(ok && seen.requests.size() == 2 && seen.requests[0].second == "abc", "frames come out of single bytes");

  in = frame(0, 4, 1, 0) + frame(0, 3, 1, 0) + frame(0, 5, 1, 2) + frame(2, 99, 3, 0, "xx") + frame(0, 7, 9, 0);
  ok = parser.push(in.data(), in.size());
  check(ok && seen.requests.size() == 2 && seen.refusals == std::vector<uint32_t>{4, 3, 5},
        "A2: even, repeated and streaming ids are refused, data and unknown types ignored");

  const uint32_t over = kFrameDataMax + 1;
  in = frame(over, 9, 1, 0, std::string(over, 'x')) + frame(1, 11, 1, 0, "y");
  ok = parser.push(in.data(), in.size());
  check(ok && seen.refusals.back() == 9 && seen.requests.back().first == 11, "A1: an oversized frame is skipped");

  in = frame(0xffffffff, 13, 1, 0);
  check(!parser.push(in.data(), in.size()), "A1: a length of 2^32 - 1 ends the connection");
}

void fuzz(unsigned seed, int rounds) {
  std::mt19937 random(seed);
  CreateContainerRequest ignored;
  for (int round = 0; round < rounds; round++) {
    std::string in(random() % 64, '\0');
    for (auto& byte : in) {
      // Mostly what looks like tags and small lengths.
      byte = static_cast<char>(random() % 4 == 0 ? random() : (random() % 12) << 3 | (random() % 3 == 0 ? 2 : random() % 8));
    }
    any_message_decodes(in);
    Recorder seen;
    FrameParser parser(seen);
    parser.push(in.data(), in.size());
  }
  printf("ok A3: %d random messages of seed %u\n", rounds, seed);
}

}  // namespace

int main(int argc, char** argv) {
  hostile_messages();
  round_trip();
  framing();
  fuzz(argc > 1 ? static_cast<unsigned>(atoi(argv[1])) : 1, argc > 2 ? atoi(argv[2]) : 100000);
  return failures == 0 ? 0 : 1;
}
