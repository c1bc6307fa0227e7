// An io_uring of one isolate: reads and writes that wait for a device, without a thread for each.
#pragma once

#include "check.h"

#include <memory>
#include <vector>

#include <linux/io_uring.h>
#include <sys/uio.h>
#include <uv.h>

namespace tsvmm {

/** A read or write that a ring carries out, in as many pieces as the kernel makes of it. */
class RingOp {
 public:
  /** What is left to do. */
  struct Rest {
    bool write;
    int fd;
    off_t offset;
    // SAFETY: the operation keeps the list and the memory that it names until it dies.
    const iovec* segments;
    int segment_count;
  };
  virtual ~RingOp() = default;
  virtual Rest Next() const = 0;
  /** Takes the kernel's result, bytes or a negative errno; true if nothing is left to do. */
  virtual bool Take(int32_t result) = 0;
  /** Tells JavaScript. */
  virtual void Finish(Napi::Env env) = 0;
  /** The kernel takes nothing more now: what is left is to be done without a ring. */
  virtual void Leave(Napi::Env env, std::unique_ptr<RingOp> self) = 0;
};

/** Lives until its isolate ends, which waits for what is under way. */
class Ring {
 public:
  /** The ring of the isolate; nullptr where kernel, limits or a seccomp filter allow none, or the user wants none. */
  static Ring* Of(Napi::Env env);

  /** Takes `*op` and starts it with the next Submit; false if as many as there may be are under way. */
  bool Add(std::unique_ptr<RingOp>* op);
  void Submit();

 private:
  struct Unmap {
    size_t length;
    void operator()(uint8_t* data) const;
  };
  using Memory = std::unique_ptr<uint8_t, Unmap>;

  Ring() = default;
  static Ring* Open(Napi::Env env);
  bool Map(const io_uring_params& params);
  Memory MapPart(size_t length, uint64_t offset) const;
  void Fill(uint32_t slot);
  std::unique_ptr<RingOp> Release(uint32_t slot);
  void LeaveUnsubmitted();
  /** Takes all results there are; what has ended is added to `*ended`. */
  void Reap(std::vector<std::unique_ptr<RingOp>>* ended);
  size_t InFlight() const { return slots_.size() - free_.size(); }
  /** Keeps the event loop alive while operations are under way. */
  void HoldLoop();
  static void OnReady(uv_poll_t* poll, int status, int events);
  static void OnTeardown(napi_async_cleanup_hook_handle, void* data);
  static void OnClosed(uv_handle_t* closed);

  napi_env env_ = nullptr;
  UniqueFd fd_;
  Memory rings_{nullptr, Unmap{0}};
  Memory entries_{nullptr, Unmap{0}};
  // SAFETY: these point into rings_ and entries_, at offsets that the kernel gave and Map checked.
  uint32_t* sq_head_ = nullptr;
  uint32_t* sq_tail_ = nullptr;
  uint32_t sq_mask_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  uint32_t* cq_head_ = nullptr;
  uint32_t* cq_tail_ = nullptr;
  uint32_t cq_mask_ = 0;
  io_uring_cqe* cqes_ = nullptr;
  /** What is under way, by the number that the kernel hands back. */
  std::vector<std::unique_ptr<RingOp>> slots_;
  std::vector<uint32_t> free_;
  std::unique_ptr<Napi::AsyncContext> context_;
  uv_poll_t poll_ = {};
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
};

}  // namespace tsvmm
