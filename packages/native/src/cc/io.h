// One operation on guest memory, checked, and how it is carried out in the calling thread. See src/io.ts.
#pragma once

#include "check.h"

#include <climits>

#include <sys/uio.h>

namespace tsvmm {

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
constexpr uint32_t kMaxRegions = 1024;
constexpr size_t kMaxSegments = IOV_MAX;

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

/** Arguments 0 to 2: rows, capacity, segmentCapacity. */
Rows CheckRows(const Napi::CallbackInfo& info);
void CheckRegions(Napi::Value value, Regions* regions);
/** Copies and checks row `index`; `iov` has room for kMaxSegments. 0 or a negative errno. */
int ResolveOp(const Rows& rows, uint32_t index, const Regions& regions, Op* op, iovec* iov);
/** Drops the first `bytes` of a list of segments, and empty ones after it. */
void Advance(iovec** iov, int* count, size_t bytes);
/** Carries out a checked operation; bytes or a negative errno. `nowait`: kNowaitReads, kNowaitOthers. */
double Execute(const Op& op, iovec* iov, uint32_t nowait);

void RegisterIoAsync(Napi::Env env, Napi::Object exports);

}  // namespace tsvmm
