// Exits that vCPU threads answer by themselves. See src/exit-table.ts for what each action does.
#pragma once

#include <napi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

struct kvm_run;

namespace tsvmm {

/** What becomes of an access; src/exit-table.ts has these numbers. */
enum ExitAction : uint8_t { kDeliver, kIgnore, kCell, kClearBits, kSink, kExitActions };

/** Keys of MMIO addresses have this bit, those of ports have not. */
constexpr uint64_t kMmio = uint64_t{1} << 63;

/** Keys [start, end). */
struct ExitRow {
  uint64_t start, end;
  uint32_t cell;
  std::atomic<uint8_t> read, write;
};

/** Rows sorted by key that do not overlap. */
struct ExitRows {
  explicit ExitRows(size_t count) : rows(new ExitRow[count]), count(count) {}
  /** The row that has `key`, or nullptr. */
  ExitRow* Find(uint64_t key) const;
  std::unique_ptr<ExitRow[]> rows;
  size_t count;
};

/** Shared by the vCPU threads of a machine and by JavaScript. */
class ExitTable {
 public:
  ExitTable(size_t cell_count, size_t sink_size) : cells(cell_count), sink_(sink_size) {}

  /** Answers an access in the `size` bytes from `run`, or leaves it to JavaScript: false. `*wake`: look at the sink. */
  bool Answer(kvm_run* run, size_t size, bool* wake);
  /** Moves bytes out of the sink. */
  size_t Take(uint8_t* into, size_t most);

  std::vector<std::atomic<uint32_t>> cells;
  /** Replaced only while `users` is 0. */
  ExitRows rows{0};
  /** vCPU threads that are not paused. */
  std::atomic<uint32_t> users{0};
  std::atomic<uint64_t> unclaimed{0};

 private:
  struct Access;
  bool Sink(const Access& access, bool* wake);

  std::mutex mutex_;
  /** A ring, under mutex_. */
  std::vector<uint8_t> sink_;
  size_t sink_start_ = 0;
  size_t sink_used_ = 0;
};

/** The table behind the object that RegisterExitTable's class made; throws a TypeError for any other value. */
std::shared_ptr<ExitTable> CheckExitTable(Napi::Value value);

}  // namespace tsvmm
