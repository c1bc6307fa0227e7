// Batched file I/O straight on guest memory. See src/io.ts for the rows and what is promised.
#include "check.h"
#include "mapping.h"

#include <climits>
#include <cmath>
#include <memory>
#include <vector>

#include <fcntl.h>
#include <sys/uio.h>

namespace tsvmm {
namespace {

enum Opcode {
  kRead = 0,
  kWrite = 1,
  kFdatasync = 2,
  kPunchHole = 3,
  kZeroRange = 4,
  kReceive = 5,
  kSend = 6,
  kOpcodes = 7
};
constexpr uint32_t kNowaitReads = 1;
constexpr uint32_t kNowaitOthers = 2;
constexpr uint32_t kStopAtFailure = 4;
constexpr uint32_t kMaxRegions = 1024;
constexpr size_t kMaxSegments = IOV_MAX;
constexpr double kMaxCapacity = 65536;
constexpr double kMaxSegmentCapacity = 1048576;
constexpr double kMaxOffset = 9007199254740991.0;

/** The arrays of an IoBatch, all in one ArrayBuffer; twin of the constructor in src/io.ts. */
struct Rows {
  uint32_t capacity;
  uint32_t segment_capacity;
  // SAFETY: each points into the batch's ArrayBuffer, whose length CheckRows compared with the capacities.
  const int32_t* ops;
  const double* offsets;
  double* results;
  const double* segments;
};

/** The buffers that segments index into. Addresses hold until JavaScript runs again. */
struct Regions {
  uint32_t count;
  Bytes memory[kMaxRegions];
};

/** One operation, checked. */
struct Op {
  int opcode;
  int fd;
  off_t offset;
  /** For punch and zero. */
  off_t length;
  int segment_count;
};

Rows CheckRows(const Napi::CallbackInfo& info) {
  Rows rows;
  Bytes bytes = CheckArrayBuffer(info.Env(), info[0], "rows");
  rows.capacity = static_cast<uint32_t>(CheckInteger(info[1], "capacity", 1, kMaxCapacity));
  rows.segment_capacity = static_cast<uint32_t>(CheckInteger(info[2], "segmentCapacity", 1, kMaxSegmentCapacity));
  size_t op_bytes = size_t{rows.capacity} * 4 * sizeof(int32_t);
  size_t column = size_t{rows.capacity} * sizeof(double);
  if (bytes.length != op_bytes + 2 * column + size_t{rows.segment_capacity} * 3 * sizeof(double)) {
    throw Napi::RangeError::New(info.Env(), "rows have the wrong length");
  }
  // SAFETY: the length checked above is the sum of the four arrays; every one starts at a multiple of 8.
  rows.ops = reinterpret_cast<int32_t*>(bytes.data);
  rows.offsets = reinterpret_cast<double*>(bytes.data + op_bytes);
  rows.results = reinterpret_cast<double*>(bytes.data + op_bytes + column);
  rows.segments = reinterpret_cast<double*>(bytes.data + op_bytes + 2 * column);
  return rows;
}

void CheckRegions(Napi::Value value, Regions* regions) {
  Napi::Array list = CheckArray(value, "regions", kMaxRegions);
  regions->count = list.Length();
  // In two steps: reading an array element may run a getter, which may close a mapping.
  napi_value buffers[kMaxRegions];
  for (uint32_t i = 0; i < regions->count; i++) buffers[i] = list.Get(i);
  for (uint32_t i = 0; i < regions->count; i++) {
    regions->memory[i] = CheckArrayBuffer(value.Env(), buffers[i], "an item of regions");
  }
}

/** True if `value` is an integer in [0, most]; then stored in `*out`. */
template <typename Integer>
bool ToIndex(double value, double most, Integer* out) {
  if (!(value >= 0 && value <= most) || std::trunc(value) != value) return false;
  *out = static_cast<Integer>(value);
  return true;
}

/** Resolves one segment row; 0 or a negative errno. */
int ResolveSegment(const double* row, const Regions& regions, iovec* out) {
  size_t region, offset, length;
  if (!ToIndex(row[0], kMaxRegions, &region) || !ToIndex(row[1], kMaxOffset, &offset) ||
      !ToIndex(row[2], kMaxOffset, &length)) {
    return -EINVAL;
  }
  if (region >= regions.count) return -EFAULT;
  const Bytes& target = regions.memory[region];
  if (offset > target.length || length > target.length - offset) return -EFAULT;
  // SAFETY: [offset, offset + length) lies inside the region (checked above).
  *out = {target.data + offset, length};
  return 0;
}

/** Copies and checks row `index`; `iov` has room for kMaxSegments. 0 or a negative errno. */
int ResolveOp(const Rows& rows, uint32_t index, const Regions& regions, Op* op, iovec* iov) {
  const int32_t* row = rows.ops + size_t{index} * 4;
  *op = {row[0], row[1], 0, 0, 0};
  int64_t first = row[2];
  int64_t count = row[3];
  if (op->opcode < 0 || op->opcode >= kOpcodes || op->fd < 0) return -EINVAL;
  if (op->opcode == kFdatasync) return 0;
  if (first < 0 || count < 0 || first > rows.segment_capacity || count > rows.segment_capacity - first) return -EINVAL;
  if (!ToIndex(rows.offsets[index], kMaxOffset, &op->offset)) return -EINVAL;
  const double* segments = rows.segments + first * 3;
  if (op->opcode == kPunchHole || op->opcode == kZeroRange) {
    return count == 1 && ToIndex(segments[2], kMaxOffset, &op->length) ? 0 : -EINVAL;
  }
  if (count > static_cast<int64_t>(kMaxSegments)) return -EINVAL;
  for (int64_t i = 0; i < count; i++) {
    int error = ResolveSegment(segments + i * 3, regions, &iov[i]);
    if (error != 0) return error;
  }
  op->segment_count = static_cast<int>(count);
  return 0;
}

/** Drops the first `bytes` of a list of segments, and empty ones after it. */
void Advance(iovec** iov, int* count, size_t bytes) {
  while (*count > 0 && bytes >= (*iov)->iov_len) {
    bytes -= (*iov)->iov_len;
    ++*iov;
    --*count;
  }
  if (*count == 0) return;
  // SAFETY: bytes < iov_len here.
  (*iov)->iov_base = static_cast<uint8_t*>((*iov)->iov_base) + bytes;
  (*iov)->iov_len -= bytes;
}

/** Reads or writes all segments; bytes moved (less only at the end of the file) or a negative errno. */
double Transfer(const Op& op, iovec* iov, int flags) {
  int count = op.segment_count;
  off_t at = op.offset;
  double total = 0;
  Advance(&iov, &count, 0);
  while (count > 0) {
    auto* transfer = op.opcode == kRead ? preadv2 : pwritev2;
    ssize_t moved = Retry([&] { return transfer(op.fd, iov, count, at, flags); });
    if (moved < 0) return -errno;
    if (moved == 0) break;
    total += static_cast<double>(moved);
    at += moved;
    Advance(&iov, &count, static_cast<size_t>(moved));
  }
  return total;
}

/** One message in or out of a character device or socket, never continued; bytes or a negative errno. */
double TransferMessage(const Op& op, const iovec* iov) {
  auto* transfer = op.opcode == kReceive ? readv : writev;
  ssize_t moved = Retry([&] { return transfer(op.fd, iov, op.segment_count); });
  return moved < 0 ? -errno : static_cast<double>(moved);
}

/** Carries out a checked operation; bytes or a negative errno. */
double Execute(const Op& op, iovec* iov, uint32_t nowait) {
  if (op.opcode == kReceive || op.opcode == kSend) return TransferMessage(op, iov);
  bool wait = (nowait & (op.opcode == kRead ? kNowaitReads : kNowaitOthers)) == 0;
  if (op.opcode == kRead || op.opcode == kWrite) return Transfer(op, iov, wait ? 0 : RWF_NOWAIT);
  if (!wait) return -EAGAIN;
  int mode = FALLOC_FL_KEEP_SIZE | (op.opcode == kPunchHole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  int result = Retry([&] {
    return op.opcode == kFdatasync ? fdatasync(op.fd) : fallocate(op.fd, mode, op.offset, op.length);
  });
  return result < 0 ? -errno : static_cast<double>(op.length);
}

void RunSync(const Napi::CallbackInfo& info) {
  Regions regions;
  iovec iov[kMaxSegments];
  CheckRegions(info[3], &regions);
  auto flags = static_cast<uint32_t>(CheckInteger(info[5], "flags", 0, 7));
  Rows rows = CheckRows(info);
  auto count = static_cast<uint32_t>(CheckInteger(info[4], "count", 0, rows.capacity));
  bool stopped = false;
  for (uint32_t i = 0; i < count; i++) {
    Op op;
    int error = stopped ? -ECANCELED : ResolveOp(rows, i, regions, &op, iov);
    rows.results[i] = error != 0 ? error : Execute(op, iov, flags);
    stopped = stopped || ((flags & kStopAtFailure) != 0 && rows.results[i] < 0);
  }
}

/** What the operations of one runAsync share; dies with the last of them. */
struct Call {
  Call(Napi::Function function, const Regions& regions) : callback(Napi::Persistent(function)) {
    for (uint32_t i = 0; i < regions.count; i++) mapped.push_back(Region::Find(regions.memory[i].data));
    for (const RegionRef& region : mapped) {
      if (region != nullptr) region->in_flight++;
    }
  }
  ~Call() {
    for (const RegionRef& region : mapped) {
      if (region != nullptr) region->in_flight--;
    }
  }
  Napi::FunctionReference callback;
  /** By region index; nullptr for an ArrayBuffer that is not a mapping's. */
  std::vector<RegionRef> mapped;
};

class AsyncOp : public Napi::AsyncWorker {
 public:
  AsyncOp(Napi::Env env, std::shared_ptr<Call> call, uint32_t index)
      : AsyncWorker(env, "tsvmm:IoBatch"), call_(std::move(call)), index_(index) {}

  /** Checks the row, and takes what a thread needs to carry it out. */
  void Prepare(const Rows& rows, const Regions& regions) {
    iovec iov[kMaxSegments];
    result_ = ResolveOp(rows, index_, regions, &op_, iov);
    if (result_ != 0) return;
    if (!IsMapped(rows.segments + static_cast<size_t>(rows.ops[size_t{index_} * 4 + 2]) * 3)) {
      // JavaScript could transfer or shrink this memory while a thread works on it, so it is done here and now.
      result_ = tsvmm::Execute(op_, iov, 0);
      return;
    }
    iov_.assign(iov, iov + op_.segment_count);
    fd_.Reset(fcntl(op_.fd, F_DUPFD_CLOEXEC, 3));
    op_.fd = fd_.Get();
    if (op_.fd < 0) result_ = -errno;
  }

 protected:
  void Execute() override {
    if (fd_.Get() >= 0) result_ = tsvmm::Execute(op_, iov_.data(), 0);
  }

  void OnOK() override {
    napi_value arguments[2] = {Napi::Number::New(Env(), index_), Napi::Number::New(Env(), result_)};
    napi_value callback = call_->callback.Value();
    // The fd and, after the last operation, the mappings are let go before JavaScript hears of it.
    fd_.Reset();
    call_.reset();
    // Node turns what the callback throws into an uncaughtException.
    napi_call_function(Env(), Env().Undefined(), callback, 2, arguments, nullptr);
  }

 private:
  /** True if every segment of the operation lies in a mapping. */
  bool IsMapped(const double* segments) const {
    for (int i = 0; i < op_.segment_count; i++) {
      if (call_->mapped[static_cast<size_t>(segments[i * 3])] == nullptr) return false;
    }
    return true;
  }

  std::shared_ptr<Call> call_;
  uint32_t index_;
  Op op_ = {};
  /** Open only if a thread is to carry the operation out. */
  UniqueFd fd_;
  // SAFETY: addresses inside mappings that call_ keeps mapped.
  std::vector<iovec> iov_;
  double result_ = 0;
};

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
  Regions regions;
  CheckRegions(info[3], &regions);
  auto call = std::make_shared<Call>(callback, regions);
  Rows rows = CheckRows(info);
  std::vector<std::unique_ptr<AsyncOp>> ops;
  for (uint32_t index : indexes) {
    ops.push_back(std::make_unique<AsyncOp>(env, call, index));
    ops.back()->Prepare(rows, regions);
  }
  for (auto& op : ops) {
    op->Queue();
    op.release();
  }
}

}  // namespace

void RegisterIo(Napi::Env env, Napi::Object exports) {
  Export<RunSync>(env, exports, "runSync");
  Export<RunAsync>(env, exports, "runAsync");
}

}  // namespace tsvmm
