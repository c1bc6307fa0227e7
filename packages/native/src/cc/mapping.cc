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
namespace {

/** The unit of ranges; pages may be a multiple of it. */
constexpr size_t kUnit = 4096;
constexpr size_t kGuard = 64 * 1024;
constexpr size_t kMaxRegions = 4096;
/** Bits for the number of units of a mapping: up to 2^20 of them. */
constexpr int kCountBits = 21;

// A signal handler belongs to the process, so this table does too. The addon is linked with -z nodelete: a Worker that
// ends does not unload it.
Region regions[kMaxRegions];
std::atomic<size_t> regions_used{0};
struct sigaction previous_action;
std::once_flag handler_once;

/** Number of the first unit and number of units: what address [start, start + length) a region has, in one word. */
uint64_t MakeRange(const void* start, size_t length) {
  return reinterpret_cast<uintptr_t>(start) / kUnit << kCountBits | length / kUnit;
}
uintptr_t StartOf(uint64_t range) { return (range >> kCountBits) * kUnit; }
uintptr_t EndOf(uint64_t range) { return StartOf(range) + (range & ((1 << kCountBits) - 1)) * kUnit; }

void OnBusError(int number, siginfo_t* info, void* context) {
  int saved = errno;
  // A signal that some process sent (si_code <= 0) has no address.
  bool contained = info->si_code > 0 && Region::ContainFault(reinterpret_cast<uintptr_t>(info->si_addr));
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

}  // namespace

const char* WhyNotMappable(int fd, struct stat* facts) {
  if (fstat(fd, facts) < 0) return "fstat failed";
  struct statfs system;
  if (S_ISREG(facts->st_mode) && fstatfs(fd, &system) < 0) return "fstatfs failed";
  errno = EINVAL;
  if (!S_ISREG(facts->st_mode)) return "not a regular file";
  return system.f_type == HUGETLBFS_MAGIC ? "huge pages are not supported" : nullptr;
}

bool Region::ContainFault(uintptr_t address) {
  for (size_t i = 0, used = regions_used.load(); i < used; i++) {
    uint64_t range = regions[i].range_.load();
    if (address < StartOf(range) || address >= EndOf(range)) continue;
    uintptr_t from = address / page_size * page_size;
    // To the end at once: whoever shrank the file took the rest as well, and one fault per page would be slow.
    // SAFETY: [from, end) lies in a mapping of ours that is live, as this very access to it faulted.
    void* where = reinterpret_cast<void*>(from);
    int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
    if (mmap(where, EndOf(range) - from, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return false;
    regions[i].faulted_.store(true);
    return true;
  }
  return false;
}

/** Takes a free place of the table; nullptr with errno if there is none. */
Region* Region::Claim(uint64_t range) {
  for (size_t i = 0; i < kMaxRegions; i++) {
    uint64_t free = 0;
    if (!regions[i].range_.compare_exchange_strong(free, range)) continue;
    size_t used = regions_used.load();
    while (used < i + 1 && !regions_used.compare_exchange_weak(used, i + 1)) continue;
    return &regions[i];
  }
  errno = ENOMEM;
  return nullptr;
}

RegionRef Region::Map(int fd, uint64_t offset, size_t size, bool writable, bool guard) {
  std::call_once(handler_once, InstallHandler);
  size_t length = (size + page_size - 1) / page_size * page_size;
  size_t fence = guard ? kGuard : 0;
  // Only where an address and its place in the file agree can the kernel, and KVM for its guests, use a huge page.
  size_t align = length >= kHugePage ? kHugePage : page_size;
  size_t reserve = length + 2 * fence + align;
  void* base = mmap(nullptr, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  // SAFETY: [data, data + length) lies inside the reservation made above, which nobody else knows.
  auto first = reinterpret_cast<uintptr_t>(base) + fence;
  auto* data = reinterpret_cast<uint8_t*>((first + align - 1) / align * align);
  // Private for a reader, so that a stray write changes a copy instead of killing the process.
  int sharing = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : writable ? MAP_SHARED : MAP_PRIVATE;
  void* got = mmap(data, length, PROT_READ | PROT_WRITE, sharing | MAP_FIXED, fd, static_cast<off_t>(offset));
  Region* region = got == MAP_FAILED ? nullptr : Claim(MakeRange(data, length));
  if (region == nullptr) {
    int error = errno;
    munmap(base, reserve);
    errno = error;
    return nullptr;
  }
  madvise(data, length, MADV_DONTDUMP);
  // A child would share its pages until one of the two writes, and then one of them has a copy.
  if (fd < 0) madvise(data, length, MADV_DONTFORK);
  region->data_ = data;
  region->size_ = size;
  region->base_ = static_cast<uint8_t*>(base);
  region->length_ = reserve;
  return region->Ref();
}

RegionRef Region::Find(const void* data) {
  if (data == nullptr) return nullptr;
  for (size_t i = 0, used = regions_used.load(); i < used; i++) {
    // Other threads may change other places meanwhile; the one that holds live memory of this thread stays.
    if (StartOf(regions[i].range_.load()) == reinterpret_cast<uintptr_t>(data)) return regions[i].Ref();
  }
  return nullptr;
}

void RegionUnref::operator()(Region* region) const {
  if (--region->refs_ > 0) return;
  uint8_t* base = region->base_;
  size_t length = region->length_;
  region->faulted_.store(false);
  // From here on another thread may claim it.
  region->range_.store(0);
  // SAFETY: the last reference is gone: no ArrayBuffer and no I/O has an address inside.
  munmap(base, length);
}

namespace {

class MappingObject : public Napi::ObjectWrap<MappingObject> {
 public:
  explicit MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {}

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeMapping",
                       {InstanceAccessor<&MappingObject::GetFd>("fd"),
                        InstanceAccessor<&MappingObject::GetFaulted>("faulted"),
                        InstanceAccessor<&MappingObject::GetInFlight>("inFlight"),
                        InstanceAccessor<&MappingObject::GetClosed>("closed"),
                        InstanceMethod<&MappingObject::Advise>("advise"),
                        InstanceMethod<&MappingObject::Close>("close")});
  }

  /** Maps a part of `fd`, which it takes over, or with an empty one memory without a file. */
  static Napi::Value Make(Napi::Env env, UniqueFd fd, uint64_t offset, size_t size, bool writable, bool guard) {
    RegionRef region = Region::Map(fd.Get(), offset, size, writable, guard);
    if (region == nullptr) ThrowErrno(env, errno, "mmap");
    Napi::Object object = env.GetInstanceData<Instance>()->mapping_class.New({});
    auto* self = Unwrap(object);
    self->region_ = std::move(region);
    self->fd_ = std::move(fd);
    object.Set("buffer", self->MakeBuffer(env));
    object.Set("size", static_cast<double>(size));
    object.Set("hostAddress", Napi::BigInt::New(env, reinterpret_cast<uint64_t>(self->region_->Data())));
    return object;
  }

 private:
  Napi::Value MakeBuffer(Napi::Env env) {
    napi_value buffer;
    auto hold = std::make_unique<RegionRef>(region_->Ref());
    // SAFETY: the hold's reference keeps the memory mapped until V8 lets go of it or Close detached the buffer.
    napi_status status =
        napi_create_external_arraybuffer(env, region_->Data(), region_->Size(), Finalize, hold.get(), &buffer);
    if (status != napi_ok) throw Napi::Error::New(env);
    hold_ = hold.release();
    buffer_ = Napi::Persistent(Napi::ArrayBuffer(env, buffer));
    return buffer_.Value();
  }

  /** V8 runs this some time after the last view is gone. */
  static void Finalize(napi_env, void*, void* hold) { delete static_cast<RegionRef*>(hold); }

  Napi::Value GetFd(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), fd_.Get()); }
  Napi::Value GetFaulted(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), region_ == nullptr ? faulted_ : region_->Faulted());
  }
  Napi::Value GetInFlight(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), region_ == nullptr ? 0 : region_->in_flight);
  }

  Napi::Value GetClosed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), region_ == nullptr); }

  /** advise(offset, size, advice): madvise(2) on whole pages of the mapping; 0 or the error's number. */
  Napi::Value Advise(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (region_ == nullptr) return Napi::Number::New(env, EBADF);
    auto offset = static_cast<size_t>(CheckInteger(info[0], "offset", 0, kMaxSize));
    auto size = static_cast<size_t>(CheckInteger(info[1], "size", 0, kMaxSize));
    auto advice = static_cast<int>(CheckInteger(info[2], "advice", 0, 1000));
    bool allowed = advice == MADV_DONTNEED || advice == MADV_HUGEPAGE;
    if (!allowed || offset % page_size != 0 || size % page_size != 0) return Napi::Number::New(env, EINVAL);
    if (offset > region_->Size() || size > region_->Size() - offset) return Napi::Number::New(env, EINVAL);
    // SAFETY: [offset, offset + size) was just checked to lie in the region, which this object holds.
    int result = madvise(region_->Data() + offset, size, advice);
    return Napi::Number::New(env, result < 0 ? errno : 0);
  }

  void Close(const Napi::CallbackInfo& info) {
    if (region_ == nullptr) return;
    faulted_ = region_->Faulted();
    size_t length = CheckArrayBuffer(info.Env(), buffer_.Value(), "buffer").length;
    // Only a buffer that still had our memory, and now has not, gives its reference back early. Memory that somebody
    // transferred to another ArrayBuffer stays mapped until V8 drops that one.
    if (length == region_->Size() && napi_detach_arraybuffer(info.Env(), buffer_.Value()) == napi_ok) hold_->reset();
    // V8 may delete a hold at any time after a detach.
    hold_ = nullptr;
    fd_.Reset();
    region_.reset();
  }

  RegionRef region_;
  // SAFETY: what Finalize deletes; cleared when Close has detached the buffer.
  RegionRef* hold_ = nullptr;
  UniqueFd fd_;
  bool faulted_ = false;
  Napi::Reference<Napi::ArrayBuffer> buffer_;
};

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
  return MappingObject::Make(env, std::move(fd), 0, size, true, guard);
}

Napi::Value CreatePrivateMapping(const Napi::CallbackInfo& info) {
  size_t size = CheckSize(info[0]);
  bool guard = CheckBoolean(info[1], "guard");
  return MappingObject::Make(info.Env(), UniqueFd(), 0, size, true, guard);
}

/** The part of an fd that is to be mapped; `fd` is a duplicate, made after all arguments are checked. */
struct Part {
  UniqueFd fd;
  uint64_t offset;
  size_t size;
};

Part CheckPart(const Napi::CallbackInfo& info) {
  int original = CheckFd(info[0]);
  auto offset = static_cast<uint64_t>(CheckInteger(info[1], "offset", 0, 9007199254740991.0));
  if (offset % kUnit != 0) throw Napi::RangeError::New(info.Env(), "offset must be a multiple of 4096");
  size_t size = CheckSize(info[2]);
  return {Duplicate(info.Env(), original), offset, size};
}

Napi::Value MapFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  bool writable = CheckBoolean(info[3], "writable");
  bool guard = CheckBoolean(info[4], "guard");
  bool memory_only = CheckBoolean(info[5], "inMemory");
  Part part = CheckPart(info);
  // First of all, as fstat on a file that the peer serves through FUSE could wait for ever.
  if (memory_only && fcntl(part.fd.Get(), F_GET_SEALS) < 0) {
    ThrowErrno(env, EINVAL, "mmap", "the file is not memory (memfd or tmpfs)");
  }
  struct stat facts;
  const char* reason = WhyNotMappable(part.fd.Get(), &facts);
  if (reason != nullptr) ThrowErrno(env, errno, "mmap", reason);
  auto file_size = static_cast<uint64_t>(facts.st_size);
  if (part.offset > file_size || part.size > file_size - part.offset) {
    ThrowErrno(env, EOVERFLOW, "mmap", "offset + size is beyond the end of the file");
  }
  return MappingObject::Make(env, std::move(part.fd), part.offset, part.size, writable, guard);
}

Napi::Value MapDevice(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Part part = CheckPart(info);
  struct stat facts;
  Check(env, fstat(part.fd.Get(), &facts), "fstat");
  // The kernel's anonymous inodes (a vCPU, say) have no file type at all.
  bool is_device = S_ISCHR(facts.st_mode) || (facts.st_mode & S_IFMT) == 0;
  if (!is_device) ThrowErrno(env, EINVAL, "mmap", "not a device or kernel object");
  return MappingObject::Make(env, std::move(part.fd), part.offset, part.size, true, false);
}

}  // namespace

void RegisterMapping(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<Instance>()->mapping_class = Napi::Persistent(MappingObject::Define(env));
  Export<CreateMapping>(env, exports, "createMapping");
  Export<CreatePrivateMapping>(env, exports, "createPrivateMapping");
  Export<MapFile>(env, exports, "mapFile");
  Export<MapDevice>(env, exports, "mapDevice");
}

}  // namespace tsvmm
