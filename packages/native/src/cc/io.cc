// Batched file I/O straight on guest memory. See src/io.ts for the rows and what is promised.
#include "io.h"

#include <cmath>

#include <fcntl.h>

namespace tsvmm {
namespace {

constexpr uint32_t kStopAtFailure = 4;
constexpr double kMaxCapacity = 65536;
constexpr double kMaxSegmentCapacity = 1048576;
constexpr double kMaxOffset = 9007199254740991.0;

}  // namespace

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

namespace {

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

}  // namespace

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

namespace {

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

}  // namespace

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

namespace {

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

}  // namespace

void RegisterIo(Napi::Env env, Napi::Object exports) {
  Export<RunSync>(env, exports, "runSync");
  RegisterIoAsync(env, exports);
}

}  // namespace tsvmm
