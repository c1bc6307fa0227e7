// See ring.h, and io_uring_setup(2), io_uring_enter(2). No liburing: it is these system calls and six words of memory.
#include "ring.h"

#include <algorithm>
#include <cstring>

#include <sys/mman.h>
#include <sys/syscall.h>

namespace tsvmm {
namespace {

/** Operations under way at a time; as many as a queue of a device has. */
constexpr uint32_t kEntries = 256;
/** One mapping for both rings (5.4), results are never dropped (5.5), a list of segments is copied at once (5.5). */
constexpr uint32_t kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;

int Setup(uint32_t flags, io_uring_params* params) {
  *params = {};
  params->flags = flags;
  return static_cast<int>(syscall(__NR_io_uring_setup, kEntries, params));
}

int Enter(int fd, uint32_t to_submit, uint32_t to_complete) {
  uint32_t flags = to_complete > 0 ? IORING_ENTER_GETEVENTS : 0;
  return static_cast<int>(Retry([&] { return syscall(__NR_io_uring_enter, fd, to_submit, to_complete, flags, nullptr, 0); }));
}

// The other side of these words is the kernel.
uint32_t Load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
void Store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

}  // namespace

void Ring::Unmap::operator()(uint8_t* data) const { munmap(data, length); }

Ring::Memory Ring::MapPart(size_t length, uint64_t offset) const {
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.Get(),
                    static_cast<off_t>(offset));
  return Memory(data == MAP_FAILED ? nullptr : static_cast<uint8_t*>(data), Unmap{length});
}

bool Ring::Map(const io_uring_params& params) {
  const io_sqring_offsets& sq = params.sq_off;
  const io_cqring_offsets& cq = params.cq_off;
  size_t length = std::max(sq.array + params.sq_entries * sizeof(uint32_t),
                           cq.cqes + params.cq_entries * sizeof(io_uring_cqe));
  rings_ = MapPart(length, IORING_OFF_SQ_RING);
  entries_ = MapPart(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  if (rings_ == nullptr || entries_ == nullptr) return false;
  // SAFETY: the kernel lays out these words inside the length that it gave by the two arrays at their ends.
  auto word = [&](uint32_t offset) { return reinterpret_cast<uint32_t*>(rings_.get() + offset); };
  sq_head_ = word(sq.head);
  sq_tail_ = word(sq.tail);
  sq_mask_ = *word(sq.ring_mask);
  cq_head_ = word(cq.head);
  cq_tail_ = word(cq.tail);
  cq_mask_ = *word(cq.ring_mask);
  // SAFETY: as above; both are arrays of as many as the masks let be named.
  cqes_ = reinterpret_cast<io_uring_cqe*>(rings_.get() + cq.cqes);
  sqes_ = reinterpret_cast<io_uring_sqe*>(entries_.get());
  // Entry i of the queue is always entry i of the array.
  for (uint32_t i = 0; i < params.sq_entries; i++) word(sq.array)[i] = i;
  return true;
}

Ring* Ring::Open(Napi::Env env) {
  auto ring = std::unique_ptr<Ring>(new Ring());
  io_uring_params params;
  // Results wait for this thread's next system call, and do not interrupt it (5.19).
  ring->fd_.Reset(Setup(IORING_SETUP_COOP_TASKRUN, &params));
  if (ring->fd_.Get() < 0 && errno == EINVAL) ring->fd_.Reset(Setup(0, &params));
  if (ring->fd_.Get() < 0 || (params.features & kFeatures) != kFeatures || !ring->Map(params)) return nullptr;
  ring->env_ = env;
  ring->slots_.resize(kEntries);
  for (uint32_t slot = 0; slot < kEntries; slot++) ring->free_.push_back(slot);
  ring->context_ = std::make_unique<Napi::AsyncContext>(env, "tsvmm:Ring");
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  // The ring's fd is readable while there are results.
  if (uv_poll_init(loop, &ring->poll_, ring->fd_.Get()) != 0) return nullptr;
  Ring* self = ring.release();
  self->poll_.data = self;
  uv_poll_start(&self->poll_, UV_READABLE, OnReady);
  self->HoldLoop();
  napi_add_async_cleanup_hook(env, OnTeardown, self, &self->cleanup_);
  return self;
}

Ring* Ring::Of(Napi::Env env) {
  auto* instance = env.GetInstanceData<Instance>();
  if (instance->ring_refused) return nullptr;
  if (!std::exchange(instance->ring_tried, true)) instance->ring = Open(env);
  return instance->ring;
}

bool Ring::Add(std::unique_ptr<RingOp>* op) {
  if (free_.empty()) return false;
  uint32_t slot = free_.back();
  free_.pop_back();
  slots_[slot] = std::move(*op);
  Fill(slot);
  return true;
}

/** Puts what is left of an operation into the queue. An operation has one entry at a time, so there is room. */
void Ring::Fill(uint32_t slot) {
  RingOp::Rest rest = slots_[slot]->Next();
  uint32_t tail = *sq_tail_;
  io_uring_sqe* sqe = &sqes_[tail & sq_mask_];
  *sqe = {};
  sqe->opcode = rest.write ? IORING_OP_WRITEV : IORING_OP_READV;
  sqe->fd = rest.fd;
  sqe->off = static_cast<uint64_t>(rest.offset);
  // SAFETY: kept by the operation, which lives in its slot until the kernel has given its result.
  sqe->addr = reinterpret_cast<uint64_t>(rest.segments);
  sqe->len = static_cast<uint32_t>(rest.segment_count);
  sqe->user_data = slot;
  Store(sq_tail_, tail + 1);
}

std::unique_ptr<RingOp> Ring::Release(uint32_t slot) {
  free_.push_back(slot);
  return std::move(slots_[slot]);
}

void Ring::Submit() {
  for (;;) {
    uint32_t waiting = *sq_tail_ - Load(sq_head_);
    if (waiting == 0) break;
    if (Enter(fd_.Get(), waiting, 0) > 0) continue;
    LeaveUnsubmitted();
    break;
  }
  HoldLoop();
}

/** Short of memory, say. Nobody else reads the queue, so the entries that the kernel did not take can be taken back. */
void Ring::LeaveUnsubmitted() {
  uint32_t head = Load(sq_head_);
  uint32_t tail = *sq_tail_;
  Store(sq_tail_, head);
  for (uint32_t at = head; at != tail; at++) {
    std::unique_ptr<RingOp> op = Release(static_cast<uint32_t>(sqes_[at & sq_mask_].user_data));
    op->Leave(env_, std::move(op));
  }
}

void Ring::Reap(std::vector<std::unique_ptr<RingOp>>* ended) {
  uint32_t head = *cq_head_;
  for (; head != Load(cq_tail_); head++) {
    const io_uring_cqe& cqe = cqes_[head & cq_mask_];
    auto slot = static_cast<uint32_t>(cqe.user_data);
    if (slots_[slot]->Take(cqe.res)) {
      ended->push_back(Release(slot));
    } else {
      Fill(slot);
    }
  }
  Store(cq_head_, head);
}

void Ring::HoldLoop() {
  auto* handle = reinterpret_cast<uv_handle_t*>(&poll_);
  if (InFlight() > 0) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void Ring::OnReady(uv_poll_t* poll, int, int) {
  auto* self = static_cast<Ring*>(poll->data);
  Napi::Env env = self->env_;
  Napi::HandleScope handles(env);
  std::vector<std::unique_ptr<RingOp>> ended;
  self->Reap(&ended);
  self->Submit();
  // One scope for all: promises and ticks of JavaScript run when it has heard of every one.
  Napi::CallbackScope scope(env, *self->context_);
  for (auto& op : ended) {
    op->Finish(env);
    op.reset();
  }
}

/** The isolate ends. The kernel may write to memory until the last result is there, so it is waited for. */
void Ring::OnTeardown(napi_async_cleanup_hook_handle, void* data) {
  auto* self = static_cast<Ring*>(data);
  Napi::Env(self->env_).GetInstanceData<Instance>()->ring = nullptr;
  std::vector<std::unique_ptr<RingOp>> ended;
  while (self->InFlight() > 0) {
    uint32_t waiting = *self->sq_tail_ - Load(self->sq_head_);
    bool is_lost = Enter(self->fd_.Get(), waiting, 1) < 0 && errno != EBUSY && errno != EAGAIN;
    self->Reap(&ended);
    if (!is_lost) continue;
    // What cannot be waited for keeps its memory for ever.
    for (auto& op : self->slots_) op.release();
    break;
  }
  uv_close(reinterpret_cast<uv_handle_t*>(&self->poll_), OnClosed);
}

void Ring::OnClosed(uv_handle_t* closed) {
  auto* self = static_cast<Ring*>(closed->data);
  napi_remove_async_cleanup_hook(self->cleanup_);
  delete self;
}

}  // namespace tsvmm
