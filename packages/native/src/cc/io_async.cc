// Operations that go on after the call: in the isolate's io_uring (ring.h) or in libuv's thread pool. See src/io.ts.
#include "io.h"
#include "mapping.h"
#include "ring.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <fcntl.h>

namespace tsvmm {
namespace {

/** What the operations of one runAsync share; dies with the last of them. */
class Call {
 public:
  Call(Napi::Function callback, const Regions& regions) : callback_(Napi::Persistent(callback)) {
    for (uint32_t i = 0; i < regions.count; i++) mapped_.push_back(Region::Find(regions.memory[i].data));
    for (const RegionRef& region : mapped_) {
      if (region != nullptr) region->in_flight++;
    }
  }
  ~Call() {
    for (const RegionRef& region : mapped_) {
      if (region != nullptr) region->in_flight--;
    }
  }

  /** False for an ArrayBuffer that is not a mapping's. */
  bool IsMapped(size_t region) const { return mapped_[region] != nullptr; }

  /** A duplicate of `fd`, the same for all operations, since the caller may close its own; -1 with errno. */
  int Keep(int fd) {
    auto kept = std::find_if(files_.begin(), files_.end(), [&](const File& file) { return file.original == fd; });
    if (kept != files_.end()) return kept->own.Get();
    UniqueFd own(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (own.Get() < 0) return -1;
    files_.push_back({fd, std::move(own)});
    return files_.back().own.Get();
  }

  napi_value Callback() const { return callback_.Value(); }

 private:
  struct File {
    int original;
    UniqueFd own;
  };
  Napi::FunctionReference callback_;
  std::vector<RegionRef> mapped_;
  std::vector<File> files_;
};

/** One operation that goes on after the call. */
class Pending : public RingOp {
 public:
  Pending(std::shared_ptr<Call> call, uint32_t index) : call_(std::move(call)), index_(index) {}

  /** Checks the row, and takes what is needed to carry it out later. */
  void Prepare(const Rows& rows, const Regions& regions) {
    iovec iov[kMaxSegments];
    result_ = ResolveOp(rows, index_, regions, &op_, iov);
    if (result_ != 0) return;
    if (!IsMapped(rows.segments + static_cast<size_t>(rows.ops[size_t{index_} * 4 + 2]) * 3)) {
      // JavaScript could transfer or shrink this memory while it is worked on, so it is done here and now.
      result_ = Execute(op_, iov, 0);
      return;
    }
    op_.fd = call_->Keep(op_.fd);
    if (op_.fd < 0) {
      result_ = -errno;
      return;
    }
    iov_.assign(iov, iov + op_.segment_count);
    rest_ = iov_.data();
    Advance(&rest_, &op_.segment_count, 0);
    is_open_ = true;
  }

  bool IsTransfer() const {
    return is_open_ && (op_.opcode == kRead || op_.opcode == kWrite) && op_.segment_count > 0;
  }

  /** Carries out what is left, in whatever thread. */
  void Run() {
    if (!is_open_) return;
    double result = Execute(op_, rest_, 0);
    result_ = result < 0 ? result : result_ + result;
  }

  Rest Next() const override { return {op_.opcode == kWrite, op_.fd, op_.offset, rest_, op_.segment_count}; }

  bool Take(int32_t result) override {
    if (result == -EINTR) return false;
    if (result <= 0) {
      if (result < 0) result_ = result;
      return true;
    }
    result_ += result;
    op_.offset += result;
    Advance(&rest_, &op_.segment_count, static_cast<size_t>(result));
    return op_.segment_count == 0;
  }

  void Finish(Napi::Env env) override {
    napi_value arguments[2] = {Napi::Number::New(env, index_), Napi::Number::New(env, result_)};
    napi_value callback = call_->Callback();
    // After the last operation the files and mappings are let go before JavaScript hears of it.
    call_.reset();
    ReportThrown(env, napi_call_function(env, env.Undefined(), callback, 2, arguments, nullptr));
  }

  void Leave(Napi::Env env, std::unique_ptr<RingOp> self) override;

 private:
  /** True if every segment of the operation lies in a mapping. */
  bool IsMapped(const double* segments) const {
    for (int i = 0; i < op_.segment_count; i++) {
      if (!call_->IsMapped(static_cast<size_t>(segments[i * 3]))) return false;
    }
    return true;
  }

  std::shared_ptr<Call> call_;
  uint32_t index_;
  Op op_ = {};
  /** There is something to carry out yet. */
  bool is_open_ = false;
  // SAFETY: addresses inside mappings that call_ keeps mapped; rest_ points into iov_.
  std::vector<iovec> iov_;
  iovec* rest_ = nullptr;
  /** Bytes so far, or a negative errno. */
  double result_ = 0;
};

/** An operation in libuv's thread pool; deletes itself. */
class PoolWork : public Napi::AsyncWorker {
 public:
  PoolWork(Napi::Env env, std::unique_ptr<RingOp> op) : AsyncWorker(env, "tsvmm:IoBatch"), op_(std::move(op)) {}

 protected:
  void Execute() override { static_cast<Pending*>(op_.get())->Run(); }
  void OnOK() override { op_->Finish(Env()); }

 private:
  std::unique_ptr<RingOp> op_;
};

void Pending::Leave(Napi::Env env, std::unique_ptr<RingOp> self) { (new PoolWork(env, std::move(self)))->Queue(); }

/** runAsync(rows, capacity, segmentCapacity, regions, indexes, callback, waits) */
void RunAsync(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  // Everything that could run JavaScript (a getter on an array) comes before addresses are looked up.
  uint32_t capacity = CheckRows(info).capacity;
  Napi::Array list = CheckArray(info[4], "indexes", capacity);
  std::vector<uint32_t> indexes;
  for (uint32_t i = 0, count = list.Length(); i < count; i++) {
    indexes.push_back(static_cast<uint32_t>(CheckInteger(list.Get(i), "indexes", 0, capacity - 1)));
  }
  Napi::Function callback = CheckFunction(info[5], "callback");
  Ring* ring = CheckBoolean(info[6], "waits") ? Ring::Of(env) : nullptr;
  Regions regions;
  CheckRegions(info[3], &regions);
  auto call = std::make_shared<Call>(callback, regions);
  Rows rows = CheckRows(info);
  for (uint32_t index : indexes) {
    auto pending = std::make_unique<Pending>(call, index);
    pending->Prepare(rows, regions);
    bool is_transfer = pending->IsTransfer();
    std::unique_ptr<RingOp> op = std::move(pending);
    if (ring == nullptr || !is_transfer || !ring->Add(&op)) (new PoolWork(env, std::move(op)))->Queue();
  }
  if (ring != nullptr) ring->Submit();
}

/** useRing(wanted): whether there is one. */
Napi::Value UseRing(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  env.GetInstanceData<Instance>()->ring_refused = !CheckBoolean(info[0], "wanted");
  return Napi::Boolean::New(env, Ring::Of(env) != nullptr);
}

}  // namespace

void RegisterIoAsync(Napi::Env env, Napi::Object exports) {
  Export<RunAsync>(env, exports, "runAsync");
  Export<UseRing>(env, exports, "useRing");
}

}  // namespace tsvmm
