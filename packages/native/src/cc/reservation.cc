// Address space in which mappings of files come and go. See src/reservation.ts for what it promises.
#include <sys/mman.h>

#include "check.h"
#include "mapping.h"

namespace tsvmm {
namespace {

/** What is where no file is. */
constexpr int kNothing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

class ReservationObject : public Napi::ObjectWrap<ReservationObject> {
 public:
  explicit ReservationObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ReservationObject>(info) {
    Napi::Env env = info.Env();
    size_t size = CheckPages(info[0], "size", 1, kMaxSize);
    void* base = mmap(nullptr, size + kHugePage, PROT_NONE, kNothing, -1, 0);
    if (base == MAP_FAILED) ThrowErrno(env, errno, "mmap");
    // SAFETY: start_ is at most kHugePage behind the first of size + kHugePage bytes that are this object's.
    base_ = static_cast<uint8_t*>(base);
    start_ = base_ + (kHugePage - reinterpret_cast<uintptr_t>(base) % kHugePage);
    size_ = size;
    Napi::Object self = info.This().As<Napi::Object>();
    self.Set("size", static_cast<double>(size));
    self.Set("hostAddress", Napi::BigInt::New(env, reinterpret_cast<uint64_t>(start_)));
  }
  ~ReservationObject() override { Release(); }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "NativeReservation",
                       {InstanceMethod<&ReservationObject::Map>("map"),
                        InstanceMethod<&ReservationObject::Clear>("clear"),
                        InstanceMethod<&ReservationObject::Close>("close")});
  }

 private:
  /** Where in the reservation; inside of it. */
  struct Range {
    size_t offset;
    size_t size;
  };

  /** A number of bytes that is whole pages. */
  static size_t CheckPages(Napi::Value value, const char* name, double least, double most) {
    auto bytes = static_cast<size_t>(CheckInteger(value, name, least, most));
    if (bytes % page_size == 0) return bytes;
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must be whole pages");
  }

  Range CheckRange(const Napi::CallbackInfo& info) const {
    size_t offset = CheckPages(info[0], "offset", 0, kMaxSize);
    size_t size = CheckPages(info[1], "size", 1, kMaxSize);
    if (offset <= size_ && size <= size_ - offset) return {offset, size};
    throw Napi::RangeError::New(info.Env(), "outside of the reservation");
  }

  /** map(offset, size, fd, fileOffset, writable): 0 or a negative errno. */
  Napi::Value Map(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto [offset, size] = CheckRange(info);
    int fd = CheckFd(info[2]);
    auto from = static_cast<off_t>(CheckPages(info[3], "fileOffset", 0, 9007199254740991.0));
    int protection = CheckBoolean(info[4], "writable") ? PROT_READ | PROT_WRITE : PROT_READ;
    struct stat facts;
    if (WhyNotMappable(fd, &facts) != nullptr) return Napi::Number::New(env, -errno);
    // Elsewhere first: a MAP_FIXED that the file refuses may have unmapped what was here, and another thread's memory
    // could come to lie in the hole.
    void* made = mmap(nullptr, size, protection, MAP_SHARED, fd, from);
    if (made == MAP_FAILED) return Napi::Number::New(env, -errno);
    // SAFETY: the pages were made above, and [offset, offset + size) was checked to lie in the reservation.
    void* moved = mremap(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start_ + offset);
    if (moved != MAP_FAILED) return Napi::Number::New(env, 0);
    int error = errno;
    munmap(made, size);
    return Napi::Number::New(env, -error);
  }

  /** clear(offset, size): 0 or a negative errno. */
  Napi::Value Clear(const Napi::CallbackInfo& info) {
    auto [offset, size] = CheckRange(info);
    // SAFETY: [offset, offset + size) was checked to lie in the reservation.
    void* got = mmap(start_ + offset, size, PROT_NONE, kNothing | MAP_FIXED, -1, 0);
    return Napi::Number::New(info.Env(), got == MAP_FAILED ? -errno : 0);
  }

  void Close(const Napi::CallbackInfo&) { Release(); }

  void Release() {
    // SAFETY: the pages are this object's from its construction to here; from now on every range is outside.
    if (base_ != nullptr) munmap(base_, size_ + kHugePage);
    base_ = nullptr;
    size_ = 0;
  }

  // SAFETY: [start_, start_ + size_) lies in what begins at base_, mapped from construction to Release.
  uint8_t* base_ = nullptr;
  uint8_t* start_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

void RegisterReservation(Napi::Env env, Napi::Object exports) {
  exports.Set("Reservation", ReservationObject::Define(env));
}

}  // namespace tsvmm
