#include "mapping.h"

#include <csignal>
#include <mutex>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "check.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace tsvmm {

constexpr size_t kPage = 4096;
constexpr size_t kGuard = 64 * 1024;
constexpr size_t kMaxFaultSlots = 4096;
constexpr double kMaxSize = 4294967296.0;

/** A mapping as the SIGBUS handler sees it. Written by one owner at a time, read without locks. */
struct FaultSlot {
  /** Odd while the fields below change. 0: never used. */
  std::atomic<uint32_t> version{0};
  std::atomic<bool> taken{false};
  std::atomic<bool> faulted{false};
  std::atomic<uintptr_t> start{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<uintptr_t> page{0};
  std::atomic<uintptr_t> data{0};
  std::atomic<Region*> region{nullptr};
};

namespace {

// A signal handler belongs to the process, so this table does too. The addon is linked with -z nodelete: a Worker that
// ends does not unload it.
FaultSlot fault_slots[kMaxFaultSlots];
std::atomic<size_t> fault_slots_used{0};
struct sigaction previous_action;
std::once_flag handler_once;

/** Consistent copy of a slot's range, or false while it changes. */
bool ReadSlot(const FaultSlot& slot, uintptr_t* start, uintptr_t* end, uintptr_t* page) {
  uint32_t before = slot.version.load();
  if (before & 1) return false;
  *start = slot.start.load();
  *end = slot.end.load();
  *page = slot.page.load();
  return slot.version.load() == before;
}

/** Replaces what the file no longer has by private zero pages. Async-signal-safe. */
bool ContainFault(uintptr_t address) {
  size_t used = fault_slots_used.load();
  for (size_t i = 0; i < used; i++) {
    uintptr_t start, end, page;
    if (!ReadSlot(fault_slots[i], &start, &end, &page) || address < start || address >= end) continue;
    uintptr_t from = address & ~(page - 1);
    // To the end at once: whoever shrank the file took the rest as well, and one fault per page would be slow.
    // SAFETY: [from, end) lies in a mapping of ours that is live, as this very access to it faulted.
    void* where = reinterpret_cast<void*>(from);
    void* got = mmap(where, end - from, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) return false;
    fault_slots[i].faulted.store(true);
    return true;
  }
  return false;
}

void OnBusError(int number, siginfo_t* info, void* context) {
  int saved = errno;
  // A signal that some process sent (si_code <= 0) has no address.
  bool contained = info->si_code > 0 && ContainFault(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved;
  if (contained) return;
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(number, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(number);
  } else {
    // Ends the process on return, as if this handler were not there.
    sigaction(SIGBUS, &previous_action, nullptr);
    raise(number);
  }
}

void InstallHandler() {
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, nullptr, &previous_action);
  sigaction(SIGBUS, &action, nullptr);
}

FaultSlot* TakeSlot() {
  std::call_once(handler_once, InstallHandler);
  for (size_t i = 0; i < kMaxFaultSlots; i++) {
    bool expected = false;
    if (!fault_slots[i].taken.compare_exchange_strong(expected, true)) continue;
    size_t used = fault_slots_used.load();
    while (used < i + 1 && !fault_slots_used.compare_exchange_weak(used, i + 1)) continue;
    return &fault_slots[i];
  }
  errno = ENOMEM;
  return nullptr;
}

void WriteSlot(FaultSlot* slot, uintptr_t start, uintptr_t end, uintptr_t page, uint8_t* data, Region* region) {
  slot->version.fetch_add(1);
  slot->faulted.store(false);
  slot->start.store(start);
  slot->end.store(end);
  slot->page.store(page);
  slot->data.store(reinterpret_cast<uintptr_t>(data));
  slot->region.store(region);
  slot->version.fetch_add(1);
}

void FreeSlot(FaultSlot* slot) {
  WriteSlot(slot, 0, 0, 0, nullptr, nullptr);
  slot->taken.store(false);
}

}  // namespace

Region* Region::Map(int fd, uint64_t offset, size_t size, bool writable, bool guard, size_t page) {
  FaultSlot* slot = TakeSlot();
  if (slot == nullptr) return nullptr;
  // Huge pages want aligned offsets, lengths and addresses; for ordinary pages the slack is zero.
  size_t delta = offset % page;
  size_t length = (delta + size + page - 1) / page * page;
  size_t fence = guard ? kGuard : 0;
  size_t slack = page > kPage ? page : 0;
  size_t reserve = length + 2 * fence + slack;
  void* base = mmap(nullptr, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    FreeSlot(slot);
    return nullptr;
  }
  auto first = (reinterpret_cast<uintptr_t>(base) + fence + page - 1) & ~(page - 1);
  // Private for a reader, so that a stray write changes a copy instead of killing the process.
  int sharing = (writable ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED;
  // SAFETY: [first, first + length) lies inside the reservation made above, which nobody else knows.
  void* where = reinterpret_cast<void*>(first);
  if (mmap(where, length, PROT_READ | PROT_WRITE, sharing, fd, static_cast<off_t>(offset - delta)) == MAP_FAILED) {
    int error = errno;
    munmap(base, reserve);
    FreeSlot(slot);
    errno = error;
    return nullptr;
  }
  madvise(where, length, MADV_DONTDUMP);
  auto* region = new Region();
  // SAFETY: delta < page and delta + size <= length.
  region->data_ = static_cast<uint8_t*>(where) + delta;
  region->size_ = size;
  region->base_ = static_cast<uint8_t*>(base);
  region->length_ = reserve;
  region->slot_ = slot;
  WriteSlot(slot, first, first + length, page, region->data_, region);
  return region;
}

Region* Region::Find(const void* data) {
  if (data == nullptr) return nullptr;
  size_t used = fault_slots_used.load();
  for (size_t i = 0; i < used; i++) {
    // Other threads may change other slots meanwhile; the one that holds live memory of this thread stays.
    if (fault_slots[i].data.load() == reinterpret_cast<uintptr_t>(data)) return fault_slots[i].region.load();
  }
  return nullptr;
}

bool Region::Faulted() const { return slot_->faulted.load(); }

void Region::Unref() {
  if (--refs_ > 0) return;
  FreeSlot(slot_);
  // SAFETY: the last reference is gone: no ArrayBuffer and no I/O has an address inside.
  munmap(base_, length_);
  delete this;
}

namespace {

/** The reference that an ArrayBuffer holds; V8 runs its finalizer some time after the last view is gone. */
struct BufferHold {
  Region* region;
};

class MappingObject : public Napi::ObjectWrap<MappingObject> {
 public:
  explicit MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {}
  ~MappingObject() override {
    if (region_ != nullptr) region_->Unref();
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeMapping",
                       {InstanceAccessor<&MappingObject::GetFd>("fd"),
                        InstanceAccessor<&MappingObject::GetFaulted>("faulted"),
                        InstanceAccessor<&MappingObject::GetInFlight>("inFlight"),
                        InstanceMethod<&MappingObject::Close>("close")});
  }

  /** Takes over `fd` and the reference that comes with `region`. */
  static Napi::Value Make(Napi::Env env, UniqueFd fd, Region* region) {
    int seals = fcntl(fd.Get(), F_GET_SEALS);
    Napi::Object object;
    try {
      object = env.GetInstanceData<Instance>()->mapping_class.New({});
    } catch (...) {
      region->Unref();
      throw;
    }
    auto* self = Unwrap(object);
    self->region_ = region;
    self->fd_ = std::move(fd);
    object.Set("buffer", self->MakeBuffer(env));
    object.Set("size", static_cast<double>(region->Size()));
    object.Set("hostAddress", Napi::BigInt::New(env, reinterpret_cast<uint64_t>(region->Data())));
    object.Set("inMemory", seals >= 0);
    object.Set("sealed", seals >= 0 && (seals & F_SEAL_SHRINK) != 0);
    return object;
  }

 private:
  Napi::Value MakeBuffer(Napi::Env env) {
    napi_value buffer;
    auto* hold = new BufferHold{region_};
    // SAFETY: the hold's reference keeps the memory mapped until V8 lets go of it or Close detached the buffer.
    napi_status status =
        napi_create_external_arraybuffer(env, region_->Data(), region_->Size(), Finalize, hold, &buffer);
    if (status != napi_ok) {
      delete hold;
      throw Napi::Error::New(env);
    }
    region_->Ref();
    hold_ = hold;
    buffer_ = Napi::Persistent(Napi::ArrayBuffer(env, buffer));
    return buffer_.Value();
  }

  static void Finalize(napi_env, void*, void* hint) {
    auto* hold = static_cast<BufferHold*>(hint);
    if (hold->region != nullptr) hold->region->Unref();
    delete hold;
  }

  Napi::Value GetFd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }
  Napi::Value GetFaulted(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), region_ == nullptr ? faulted_ : region_->Faulted());
  }
  Napi::Value GetInFlight(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), region_ == nullptr ? 0 : region_->in_flight);
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (region_ == nullptr) return info.Env().Undefined();
    faulted_ = region_->Faulted();
    void* data = nullptr;
    size_t length = 0;
    napi_value buffer = buffer_.Value();
    napi_get_arraybuffer_info(info.Env(), buffer, &data, &length);
    // Only a buffer that still had our memory, and now has not, gives its reference back early. Memory that somebody
    // transferred to another ArrayBuffer stays mapped until V8 drops that one.
    if (length == region_->Size() && napi_detach_arraybuffer(info.Env(), buffer) == napi_ok) {
      hold_->region = nullptr;
      region_->Unref();
    }
    // V8 may delete a hold at any time after a detach.
    hold_ = nullptr;
    fd_.Reset();
    std::exchange(region_, nullptr)->Unref();
    return info.Env().Undefined();
  }

  Region* region_ = nullptr;
  BufferHold* hold_ = nullptr;
  UniqueFd fd_;
  bool faulted_ = false;
  Napi::Reference<Napi::ArrayBuffer> buffer_;
};

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

size_t CheckSize(Napi::Value value) { return static_cast<size_t>(CheckInteger(value, "size", 1, kMaxSize)); }

Napi::Value CreateMapping(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string name = CheckString(info[0], "name");
  if (name.size() > 200) throw Napi::RangeError::New(env, "name must have at most 200 bytes");
  size_t size = CheckSize(info[1]);
  bool guard = CheckBoolean(info[2], "guard");
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd fd(memfd_create(name.c_str(), flags | MFD_NOEXEC_SEAL));
  // Kernels before 6.3 do not know the flag.
  if (fd.Get() < 0 && errno == EINVAL) fd.Reset(memfd_create(name.c_str(), flags));
  Check(env, fd.Get(), "memfd_create");
  Check(env, ftruncate(fd.Get(), static_cast<off_t>(size)), "ftruncate");
  Check(env, fcntl(fd.Get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), "fcntl");
  Region* region = Region::Map(fd.Get(), 0, size, true, guard, PageSize());
  if (region == nullptr) ThrowErrno(env, errno, "mmap");
  return MappingObject::Make(env, std::move(fd), region);
}

Napi::Value MapFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int original = CheckFd(info[0]);
  auto offset = static_cast<uint64_t>(CheckInteger(info[1], "offset", 0, 9007199254740991.0));
  if (offset % kPage != 0) throw Napi::RangeError::New(env, "offset must be a multiple of 4096");
  size_t size = CheckSize(info[2]);
  bool writable = CheckBoolean(info[3], "writable");
  bool guard = CheckBoolean(info[4], "guard");
  bool memory_only = CheckBoolean(info[5], "inMemory");
  UniqueFd fd(Check(env, fcntl(original, F_DUPFD_CLOEXEC, 3), "fcntl"));
  // First of all, as fstat on a file that the peer serves through FUSE could wait for ever.
  if (memory_only && fcntl(fd.Get(), F_GET_SEALS) < 0) {
    ThrowErrno(env, EINVAL, "mmap", "the file is not memory (memfd, tmpfs or hugetlbfs)");
  }
  struct stat facts;
  Check(env, fstat(fd.Get(), &facts), "fstat");
  if (!S_ISREG(facts.st_mode)) ThrowErrno(env, EINVAL, "mmap", "not a regular file");
  auto file_size = static_cast<uint64_t>(facts.st_size);
  if (offset > file_size || size > file_size - offset) {
    ThrowErrno(env, EOVERFLOW, "mmap", "offset + size is beyond the end of the file");
  }
  struct statfs system;
  Check(env, fstatfs(fd.Get(), &system), "fstatfs");
  size_t page = system.f_type == HUGETLBFS_MAGIC ? static_cast<size_t>(system.f_bsize) : PageSize();
  Region* region = Region::Map(fd.Get(), offset, size, writable, guard, page);
  if (region == nullptr) ThrowErrno(env, errno, "mmap");
  return MappingObject::Make(env, std::move(fd), region);
}

}  // namespace

void RegisterMapping(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<Instance>()->mapping_class = Napi::Persistent(MappingObject::Define(env));
  Export<CreateMapping>(env, exports, "createMapping");
  Export<MapFile>(env, exports, "mapFile");
}

}  // namespace tsvmm
