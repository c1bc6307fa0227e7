// Calls on files by descriptor and name, one system call each: a table says what each takes. See src/files.ts.
#include "check.h"

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <cstring>

#include <fcntl.h>

namespace tsvmm {
namespace {

/** A system call; `takes` has a letter for each argument from JavaScript:
 *
 *   f  an fd
 *   i  an integer
 *   n  a name or path: bytes without a NUL
 *   s  a structure: a view of at least `structure` bytes; the address is passed
 *   b  a buffer: a view; address and length are passed
 */
struct FileCall {
  const char* name;
  long number;
  const char* takes;
  size_t structure;
};

constexpr FileCall kCalls[] = {
    {"openat2", SYS_openat2, "fnb", 0},
    {"statx", SYS_statx, "fniis", sizeof(struct statx)},
    {"mkdirat", SYS_mkdirat, "fni", 0},
    {"mknodat", SYS_mknodat, "fnii", 0},
    {"unlinkat", SYS_unlinkat, "fni", 0},
    {"symlinkat", SYS_symlinkat, "nfn", 0},
    {"linkat", SYS_linkat, "fnfni", 0},
    {"renameat2", SYS_renameat2, "fnfni", 0},
    {"readlinkat", SYS_readlinkat, "fnb", 0},
    {"fchownat", SYS_fchownat, "fniii", 0},
    {"fchmodat", SYS_fchmodat, "fni", 0},
    {"utimensat", SYS_utimensat, "fnsi", 2 * sizeof(timespec)},
    {"ftruncate", SYS_ftruncate, "fi", 0},
    {"fallocate", SYS_fallocate, "fiii", 0},
    {"fsync", SYS_fsync, "f", 0},
    {"fdatasync", SYS_fdatasync, "f", 0},
    {"syncfs", SYS_syncfs, "f", 0},
    {"lseek", SYS_lseek, "fii", 0},
    {"getdents64", SYS_getdents64, "fb", 0},
    {"fstatfs", SYS_fstatfs, "fs", sizeof(struct statfs)},
    {"getxattr", SYS_getxattr, "nnb", 0},
    {"setxattr", SYS_setxattr, "nnbi", 0},
    {"listxattr", SYS_listxattr, "nb", 0},
    {"removexattr", SYS_removexattr, "nn", 0},
    {"copyFileRange", SYS_copy_file_range, "fsfsii", sizeof(loff_t)},
    {"flock", SYS_flock, "fi", 0},
    {"fcntlLock", SYS_fcntl, "fis", sizeof(struct flock)},
};

constexpr size_t kMaxArguments = 6;
constexpr double kMaxInteger = 9007199254740991.0;
/** A path's limit with its NUL; a longer one is ENAMETOOLONG in the kernel too. */
constexpr size_t kPathSize = 4096;

/** Bytes of a view, which may be empty. */
Bytes ViewBytes(Napi::Value value, const char* name) {
  bool is_view = false;
  void* data = nullptr;
  size_t length = 0;
  napi_is_buffer(value.Env(), value, &is_view);
  if (!is_view || napi_get_buffer_info(value.Env(), value, &data, &length) != napi_ok) {
    ThrowType(value.Env(), name, "an ArrayBufferView");
  }
  // SAFETY: V8 keeps these bytes in place until JavaScript runs again, which is after the system call.
  return {static_cast<uint8_t*>(data), length};
}

/** The arguments as the kernel takes them, and the names they point to. */
class Arguments {
 public:
  Arguments(const Napi::CallbackInfo& info, const FileCall& call) {
    for (size_t i = 0; call.takes[i] != 0; i++) Add(call.takes[i], info[i], call.structure);
  }

  long Run(long number) const { return syscall(number, at_[0], at_[1], at_[2], at_[3], at_[4], at_[5]); }

 private:
  void Add(char kind, Napi::Value value, size_t structure) {
    switch (kind) {
      case 'f':
        return Push(CheckFd(value));
      case 'i':
        return Push(Integer(value));
      case 'n':
        return PushName(ViewBytes(value, "name"), value.Env());
      default:
        PushView(ViewBytes(value, "view"), kind == 'b', structure, value.Env());
    }
  }

  /** A bigint keeps all 64 bits: a file system may use them for a position in a directory. */
  static long Integer(Napi::Value value) {
    if (!value.IsBigInt()) return static_cast<long>(CheckInteger(value, "an argument", -kMaxInteger, kMaxInteger));
    bool lossless = false;
    int64_t number = value.As<Napi::BigInt>().Int64Value(&lossless);
    if (!lossless) throw Napi::RangeError::New(value.Env(), "an argument must fit 64 bits");
    return number;
  }

  void Push(long value) { at_[count_++] = value; }

  void PushName(Bytes bytes, Napi::Env env) {
    // The kernel would take what is before it for the whole name: another file than the one that was named.
    if (bytes.length > 0 && memchr(bytes.data, 0, bytes.length) != nullptr) {
      ThrowType(env, "name", "bytes without a NUL");
    }
    char* name = names_[name_count_++];
    // Cut where it is too long: the kernel then says ENAMETOOLONG, as there is no NUL within its limit.
    size_t length = bytes.length < kPathSize ? bytes.length : kPathSize;
    if (length > 0) memcpy(name, bytes.data, length);
    name[length] = 0;
    Push(reinterpret_cast<long>(name));
  }

  void PushView(Bytes bytes, bool with_length, size_t structure, Napi::Env env) {
    if (bytes.length < structure) {
      throw Napi::RangeError::New(env, "the view needs " + std::to_string(structure) + " bytes");
    }
    // SAFETY: the kernel gets the length of the view with it, or writes a structure for which there is room.
    Push(reinterpret_cast<long>(bytes.data));
    if (with_length) Push(static_cast<long>(bytes.length));
  }

  long at_[kMaxArguments + 2] = {};
  size_t count_ = 0;
  // SAFETY: no call takes more than two names; each has room for the longest and its NUL.
  char names_[2][kPathSize + 1];
  size_t name_count_ = 0;
};

/** Returns what the system call returned, or a negative errno: a name that is not there is no exception. */
Napi::Value RunFileCall(const Napi::CallbackInfo& info) {
  const auto& call = *static_cast<const FileCall*>(info.Data());
  Arguments arguments(info, call);
  long result = Retry([&] { return arguments.Run(call.number); });
  return Napi::Number::New(info.Env(), static_cast<double>(result < 0 ? -errno : result));
}

}  // namespace

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  auto files = Napi::Object::New(env);
  for (const FileCall& call : kCalls) {
    // SAFETY: the table is constant and lives as long as the addon; nothing writes through this pointer.
    files.Set(call.name, Napi::Function::New<RunFileCall>(env, call.name, const_cast<FileCall*>(&call)));
  }
  exports.Set("files", files);
}

}  // namespace tsvmm
