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

enum Opcode { kRead = 0, kWrite = 1, kFdatasync = 2, kPunchHole = 3, kZeroRange = 4, kOpcodes = 5 };
constexpr uint32_t kNowaitReads = 1;
constexpr uint32_t kNowaitOthers = 2;
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

struct Memory {
  uint8_t* data;
  size_t size;
};

/** The buffers that segments index into. Addresses hold until JavaScript runs again. */
struct Regions {
  uint32_t count;
  napi_value buffers[kMaxRegions];
  Memory memory[kMaxRegions];
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
  void* data = nullptr;
  size_t length = 0;
  if (napi_get_arraybuffer_info(info.Env(), info[0], &data, &length) != napi_ok) {
    ThrowType(info.Env(), "rows", "an ArrayBuffer");
  }
  rows.capacity = static_cast<uint32_t>(CheckInteger(info[1], "capacity", 1, kMaxCapacity));
  rows.segment_capacity = static_cast<uint32_t>(CheckInteger(info[2], "segmentCapacity", 1, kMaxSegmentCapacity));
  size_t op_bytes = size_t{rows.capacity} * 4 * sizeof(int32_t);
  size_t column = size_t{rows.capacity} * sizeof(double);
  if (length != op_bytes + 2 * column + size_t{rows.segment_capacity} * 3 * sizeof(double)) {
    throw Napi::RangeError::New(info.Env(), "rows have the wrong length");
  }
  // SAFETY: the length checked above is the sum of the four arrays; every one starts at a multiple of 8.
  auto* first = static_cast<uint8_t*>(data);
  rows.ops = reinterpret_cast<int32_t*>(first);
  rows.offsets = reinterpret_cast<double*>(first + op_bytes);
  rows.results = reinterpret_cast<double*>(first + op_bytes + column);
  rows.segments = reinterpret_cast<double*>(first + op_bytes + 2 * column);
  return rows;
}

void CheckRegions(Napi::Value value, Regions* regions) {
  Napi::Array list = CheckArray(value, "regions", kMaxRegions);
  regions->count = list.Length();
  // In two steps: reading an array element may run a getter, which may close a mapping.
  for (uint32_t i = 0; i < regions->count; i++) regions->buffers[i] = list.Get(i);
  for (uint32_t i = 0; i < regions->count; i++) {
    void* data = nullptr;
    Memory* memory = &regions->memory[i];
    if (napi_get_arraybuffer_info(value.Env(), regions->buffers[i], &data, &memory->size) != napi_ok) {
      ThrowType(value.Env(), "regions", "an array of ArrayBuffers");
    }
    memory->data = static_cast<uint8_t*>(data);
  }
}

/** True if `value` is an integer in [0, most]; then stored in `*out`. */
bool ToIndex(double value, double most, uint64_t* out) {
  if (!(value >= 0 && value <= most) || std::trunc(value) != value) return false;
  *out = static_cast<uint64_t>(value);
  return true;
}

/** Resolves one segment row; 0 or a negative errno. */
int ResolveSegment(const double* row, const Regions& regions, iovec* out) {
  uint64_t region, offset, length;
  if (!ToIndex(row[0], kMaxRegions, &region) || !ToIndex(row[1], kMaxOffset, &offset) ||
      !ToIndex(row[2], kMaxOffset, &length)) {
    return -EINVAL;
  }
  if (region >= regions.count) return -EFAULT;
  const Memory& target = regions.memory[region];
  if (offset > target.size || length > target.size - offset) return -EFAULT;
  // SAFETY: [offset, offset + length) lies inside the region (checked above).
  *out = {target.data + offset, static_cast<size_t>(length)};
  return 0;
}

/** Copies and checks row `index`; `iov` has room for kMaxSegments. 0 or a negative errno. */
int ResolveOp(const Rows& rows, uint32_t index, const Regions& regions, Op* op, iovec* iov) {
  const int32_t* row = rows.ops + size_t{index} * 4;
  op->opcode = row[0];
  op->fd = row[1];
  int64_t first = row[2];
  int64_t count = row[3];
  op->segment_count = 0;
  op->length = 0;
  uint64_t offset;
  if (op->opcode < 0 || op->opcode >= kOpcodes || op->fd < 0) return -EINVAL;
  if (op->opcode == kFdatasync) return 0;
  if (first < 0 || count < 0 || first > rows.segment_capacity || count > rows.segment_capacity - first) return -EINVAL;
  if (!ToIndex(rows.offsets[index], kMaxOffset, &offset)) return -EINVAL;
  op->offset = static_cast<off_t>(offset);
  const double* segments = rows.segments + first * 3;
  if (op->opcode == kPunchHole || op->opcode == kZeroRange) {
    uint64_t length;
    if (count != 1 || !ToIndex(segments[2], kMaxOffset, &length)) return -EINVAL;
    op->length = static_cast<off_t>(length);
    return 0;
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
    ssize_t moved = op.opcode == kRead ? preadv2(op.fd, iov, count, at, flags) : pwritev2(op.fd, iov, count, at, flags);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return -errno;
    if (moved == 0) break;
    total += static_cast<double>(moved);
    at += moved;
    Advance(&iov, &count, static_cast<size_t>(moved));
  }
  return total;
}

/** Carries out a checked operation; bytes or a negative errno. */
double Execute(const Op& op, iovec* iov, uint32_t nowait) {
  bool wait = (nowait & (op.opcode == kRead ? kNowaitReads : kNowaitOthers)) == 0;
  if (op.opcode == kRead || op.opcode == kWrite) return Transfer(op, iov, wait ? 0 : RWF_NOWAIT);
  if (!wait) return -EAGAIN;
  int result;
  do {
    if (op.opcode == kFdatasync) {
      result = fdatasync(op.fd);
    } else {
      int mode = op.opcode == kPunchHole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
      result = fallocate(op.fd, mode | FALLOC_FL_KEEP_SIZE, op.offset, op.length);
    }
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : static_cast<double>(op.length);
}

Napi::Value RunSync(const Napi::CallbackInfo& info) {
  Regions regions;
  iovec iov[kMaxSegments];
  CheckRegions(info[3], &regions);
  auto nowait = static_cast<uint32_t>(CheckInteger(info[5], "flags", 0, 3));
  Rows rows = CheckRows(info);
  auto count = static_cast<uint32_t>(CheckInteger(info[4], "count", 0, rows.capacity));
  for (uint32_t i = 0; i < count; i++) {
    Op op;
    int error = ResolveOp(rows, i, regions, &op, iov);
    rows.results[i] = error != 0 ? error : Execute(op, iov, nowait);
  }
  return info.Env().Undefined();
}

/** What the operations of one runAsync share; dies with the last of them. */
struct Call {
  Call() = default;
  ~Call() {
    for (Region* region : mapped) {
      if (region == nullptr) continue;
      region->in_flight--;
      region->Unref();
    }
  }
  Napi::FunctionReference callback;
  /** By region index; nullptr for an ArrayBuffer that is not a mapping's. */
  std::vector<Region*> mapped;
};

struct AsyncOp {
  std::shared_ptr<Call> call;
  napi_async_work work = nullptr;
  uint32_t index = 0;
  Op op = {};
  UniqueFd fd;
  // SAFETY: addresses inside mappings that `call` keeps mapped.
  std::vector<iovec> iov;
  /** The result is there before it starts. */
  bool done = false;
  double result = 0;
};

void ExecuteAsync(napi_env, void* data) {
  auto* op = static_cast<AsyncOp*>(data);
  if (!op->done) op->result = Execute(op->op, op->iov.data(), 0);
}

void CompleteAsync(napi_env env, napi_status, void* data) {
  std::unique_ptr<AsyncOp> op(static_cast<AsyncOp*>(data));
  Napi::HandleScope scope(env);
  napi_delete_async_work(env, op->work);
  napi_value arguments[2] = {Napi::Number::New(env, op->index), Napi::Number::New(env, op->result)};
  napi_value callback = op->call->callback.Value();
  napi_value receiver = Napi::Env(env).Undefined();
  // The fd and, after the last operation, the mappings are let go before JavaScript hears of it.
  op.reset();
  // Node turns what the callback throws into an uncaughtException.
  napi_call_function(env, receiver, callback, 2, arguments, nullptr);
}

/** True if every segment of the operation lies in a mapping. */
bool IsMapped(const Call& call, const Op& op, const double* segments) {
  for (int i = 0; i < op.segment_count; i++) {
    if (call.mapped[static_cast<size_t>(segments[i * 3])] == nullptr) return false;
  }
  return true;
}

std::unique_ptr<AsyncOp> Prepare(const std::shared_ptr<Call>& call, const Rows& rows, uint32_t index,
                                 const Regions& regions) {
  auto op = std::make_unique<AsyncOp>();
  op->call = call;
  op->index = index;
  iovec iov[kMaxSegments];
  op->result = ResolveOp(rows, index, regions, &op->op, iov);
  op->done = op->result != 0;
  if (op->done) return op;
  const double* segments = rows.segments + static_cast<size_t>(rows.ops[size_t{index} * 4 + 2]) * 3;
  if (!IsMapped(*call, op->op, segments)) {
    // JavaScript could transfer or shrink this memory while a thread works on it, so it is done here and now.
    op->result = Execute(op->op, iov, 0);
    op->done = true;
    return op;
  }
  op->iov.assign(iov, iov + op->op.segment_count);
  op->fd.Reset(fcntl(op->op.fd, F_DUPFD_CLOEXEC, 3));
  op->op.fd = op->fd.Get();
  op->done = op->op.fd < 0;
  if (op->done) op->result = -errno;
  return op;
}

std::shared_ptr<Call> MakeCall(Napi::Function callback, const Regions& regions) {
  auto call = std::make_shared<Call>();
  call->callback = Napi::Persistent(callback);
  for (uint32_t i = 0; i < regions.count; i++) {
    Region* region = Region::Find(regions.memory[i].data);
    call->mapped.push_back(region);
    if (region == nullptr) continue;
    region->Ref();
    region->in_flight++;
  }
  return call;
}

Napi::Value RunAsync(const Napi::CallbackInfo& info) {
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
  std::shared_ptr<Call> call = MakeCall(callback, regions);
  Rows rows = CheckRows(info);
  Napi::String name = Napi::String::New(env, "tsvmm:IoBatch");
  std::vector<std::unique_ptr<AsyncOp>> ops;
  for (uint32_t index : indexes) {
    auto op = Prepare(call, rows, index, regions);
    if (napi_create_async_work(env, nullptr, name, ExecuteAsync, CompleteAsync, op.get(), &op->work) != napi_ok) {
      throw Napi::Error::New(env);
    }
    ops.push_back(std::move(op));
  }
  for (auto& op : ops) {
    if (napi_queue_async_work(env, op->work) == napi_ok) op.release();
  }
  return env.Undefined();
}

}  // namespace

void RegisterIo(Napi::Env env, Napi::Object exports) {
  Export<RunSync>(env, exports, "runSync");
  Export<RunAsync>(env, exports, "runAsync");
}

}  // namespace tsvmm
