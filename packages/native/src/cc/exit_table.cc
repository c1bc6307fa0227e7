#include "check.h"
#include "exit_table.h"

#include <algorithm>
#include <cstring>

#include <linux/kvm.h>

namespace tsvmm {

/** One access of the guest: `count` times `width` bytes at `data`. */
struct ExitTable::Access {
  uint64_t key;
  // SAFETY: count * width bytes inside the kvm_run mapping (checked by Answer).
  uint8_t* data;
  size_t width, count;
  bool write;
};

ExitRow* ExitRows::Find(uint64_t key) const {
  ExitRow* last = rows.get() + count;
  ExitRow* after = std::upper_bound(rows.get(), last, key, [](uint64_t k, const ExitRow& row) { return k < row.start; });
  return after != rows.get() && key < (after - 1)->end ? after - 1 : nullptr;
}

bool ExitTable::Answer(kvm_run* run, size_t size, bool* wake) {
  Access access;
  if (run->exit_reason == KVM_EXIT_MMIO) {
    access = {run->mmio.phys_addr | kMmio, run->mmio.data, run->mmio.len, 1, run->mmio.is_write != 0};
    if (access.width > sizeof run->mmio.data) return false;
  } else if (run->exit_reason == KVM_EXIT_IO) {
    uint64_t offset = run->io.data_offset;
    uint64_t length = uint64_t{run->io.size} * run->io.count;
    if (offset > size || length > size - offset) return false;
    // SAFETY: [offset, offset + length) lies inside the mapping (checked above).
    uint8_t* data = reinterpret_cast<uint8_t*>(run) + offset;
    access = {run->io.port, data, run->io.size, run->io.count, run->io.direction == KVM_EXIT_IO_OUT};
  } else {
    return false;
  }
  ExitRow* row = rows.Find(access.key);
  if (row == nullptr) unclaimed.fetch_add(1, std::memory_order_relaxed);
  uint8_t action = row == nullptr ? uint8_t{kIgnore} : access.write ? row->write.load() : row->read.load();
  if (action == kIgnore) {
    if (!access.write) memset(access.data, 0xff, access.width * access.count);
    return true;
  }
  if (action == kSink) return Sink(access, wake);
  if (action == kDeliver || access.count != 1 || access.key != row->start) return false;
  if (access.width > row->end - row->start || access.width > sizeof(uint32_t)) return false;
  std::atomic<uint32_t>& cell = cells[row->cell];
  // Guests are little-endian, as their hosts are: a narrow access is at the low bytes.
  uint32_t value = action == kCell ? cell.load() : 0;
  if (action == kCell) {
    memcpy(access.data, &value, access.width);
  } else {
    memcpy(&value, access.data, access.width);
    cell.fetch_and(~value);
  }
  return true;
}

bool ExitTable::Sink(const Access& access, bool* wake) {
  std::lock_guard lock(mutex_);
  // All or nothing: what has no room becomes an exit, and waits for JavaScript like any other.
  if (access.width != 1 || access.count > sink_.size() - sink_used_) return false;
  *wake = sink_used_ == 0;
  for (size_t i = 0; i < access.count; i++) sink_[(sink_start_ + sink_used_++) % sink_.size()] = access.data[i];
  return true;
}

size_t ExitTable::Take(uint8_t* into, size_t most) {
  std::lock_guard lock(mutex_);
  size_t taken = std::min(most, sink_used_);
  for (size_t i = 0; i < taken; i++) into[i] = sink_[(sink_start_ + i) % sink_.size()];
  if (taken > 0) sink_start_ = (sink_start_ + taken) % sink_.size();
  sink_used_ -= taken;
  return taken;
}

namespace {

constexpr napi_type_tag kTag = {0x8f1d6a2c5b9e4170, 0xa64c03f7d2e81b95};
constexpr uint32_t kMaxRows = 4096;
/** Numbers for a row: space, start, end, read, write, cell. */
constexpr uint32_t kRowLength = 6;
constexpr double kMaxCells = 65536;
constexpr double kMaxSink = 16777216;

/** The key of address [0, 2^53) in space 0 (ports) or 1 (MMIO). */
uint64_t CheckKey(Napi::Value space, Napi::Value address) {
  uint64_t base = CheckInteger(space, "space", 0, 1) == 0 ? 0 : kMmio;
  return base | static_cast<uint64_t>(CheckInteger(address, "address", 0, 9007199254740991.0));
}

/** An action for reads (up to kCell) or for writes (all but kCell). */
uint8_t CheckAction(Napi::Value value, bool write) {
  auto action = static_cast<uint8_t>(CheckInteger(value, "action", kDeliver, write ? kExitActions - 1 : kCell));
  if (write && action == kCell) ThrowType(value.Env(), "action", "one for writes");
  return action;
}

class ExitTableObject : public Napi::ObjectWrap<ExitTableObject> {
 public:
  explicit ExitTableObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ExitTableObject>(info) {
    auto cells = static_cast<size_t>(CheckInteger(info[0], "cells", 1, kMaxCells));
    auto sink = static_cast<size_t>(CheckInteger(info[1], "sinkSize", 0, kMaxSink));
    table_ = std::make_shared<ExitTable>(cells, sink);
    auto* hold = new std::shared_ptr<ExitTable>(table_);
    // SAFETY: the hold keeps the table, and with it the cells, until V8 lets go of the buffer.
    auto buffer = Napi::ArrayBuffer::New(
        info.Env(), table_->cells.data(), cells * sizeof(uint32_t),
        [](Napi::Env, void*, std::shared_ptr<ExitTable>* held) { delete held; }, hold);
    Value().Set("cells", buffer);
    Value().TypeTag(&kTag);
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeExitTable",
                       {InstanceMethod<&ExitTableObject::ReplaceRows>("replaceRows"),
                        InstanceMethod<&ExitTableObject::SetAction>("setAction"),
                        InstanceMethod<&ExitTableObject::Answer>("answer"),
                        InstanceMethod<&ExitTableObject::Take>("take"),
                        InstanceAccessor<&ExitTableObject::GetUnclaimed>("unclaimed")});
  }

  std::shared_ptr<ExitTable> Table() const { return table_; }

 private:
  void ReplaceRows(const Napi::CallbackInfo& info) {
    Napi::Array list = CheckArray(info[0], "rows", kMaxRows * kRowLength);
    ExitRows rows(list.Length() / kRowLength);
    uint64_t previous = 0;
    for (uint32_t i = 0, at = 0; i < rows.count; i++, at += kRowLength) {
      ExitRow& row = rows.rows[i];
      row.start = CheckKey(list.Get(at), list.Get(at + 1));
      row.end = CheckKey(list.Get(at), list.Get(at + 2));
      row.read = CheckAction(list.Get(at + 3), false);
      row.write = CheckAction(list.Get(at + 4), true);
      row.cell = static_cast<uint32_t>(CheckInteger(list.Get(at + 5), "cell", 0, double(table_->cells.size() - 1)));
      if (row.start < previous || row.end <= row.start) throw Napi::RangeError::New(info.Env(), "rows must be sorted and apart");
      previous = row.end;
    }
    if (table_->users.load() != 0) throw Napi::Error::New(info.Env(), "rows are in use: pause every vCPU first");
    table_->rows = std::move(rows);
  }

  void SetAction(const Napi::CallbackInfo& info) {
    ExitRow* row = table_->rows.Find(CheckKey(info[0], info[1]));
    if (row == nullptr) throw Napi::RangeError::New(info.Env(), "no row has this address");
    bool write = CheckBoolean(info[2], "write");
    (write ? row->write : row->read).store(CheckAction(info[3], write));
  }

  Napi::Value Answer(const Napi::CallbackInfo& info) {
    Bytes page = CheckArrayBuffer(info.Env(), info[0], "run");
    if (page.length < sizeof(kvm_run)) throw Napi::RangeError::New(info.Env(), "run is smaller than a kvm_run");
    bool wake;
    bool answered = table_->Answer(reinterpret_cast<kvm_run*>(page.data), page.length, &wake);
    return Napi::Boolean::New(info.Env(), answered);
  }

  Napi::Value Take(const Napi::CallbackInfo& info) {
    Bytes into = CheckView(info[0], "into");
    return Napi::Number::New(info.Env(), static_cast<double>(table_->Take(into.data, into.length)));
  }

  Napi::Value GetUnclaimed(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(table_->unclaimed.load()));
  }

  std::shared_ptr<ExitTable> table_;
};

}  // namespace

std::shared_ptr<ExitTable> CheckExitTable(Napi::Value value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) ThrowType(value.Env(), "table", "an ExitTable");
  return ExitTableObject::Unwrap(value.As<Napi::Object>())->Table();
}

void RegisterExitTable(Napi::Env env, Napi::Object exports) { exports.Set("ExitTable", ExitTableObject::Define(env)); }

}  // namespace tsvmm
