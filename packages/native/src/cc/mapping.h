// Shared memory with a counted lifetime. See src/mapping.ts for what it promises.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <sys/stat.h>
#include <unistd.h>

namespace tsvmm {

constexpr size_t kHugePage = 2 * 1024 * 1024;
/** Largest mapping. */
constexpr double kMaxSize = 4294967296.0;
inline const auto page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));

/**
 * Why an fd cannot be mapped as a file, with errno; nullptr when it can. What is on hugetlbfs cannot: the kernel would
 * round the length up to huge pages, beyond what is reserved for it.
 */
const char* WhyNotMappable(int fd, struct stat* facts);

class Region;

/** Drops one reference. */
struct RegionUnref {
  void operator()(Region* region) const;
};
/** One reference to a region. */
using RegionRef = std::unique_ptr<Region, RegionUnref>;

/**
 * One mmap. All of them lie in one table, which the SIGBUS handler reads without locks. Counted without atomics: the
 * Mapping object, its ArrayBuffer and asynchronous I/O all take and drop their references on the thread of the
 * isolate that made it.
 */
class Region {
 public:
  /** Maps a part of a file, or with fd -1 new memory that has none; nullptr with errno on failure. */
  static RegionRef Map(int fd, uint64_t offset, size_t size, bool writable, bool guard);
  /** The region whose first byte is `data`, or nullptr for memory that is not ours. */
  static RegionRef Find(const void* data);
  /** Replaces what the file no longer has by private zero pages; false if no region is there. Async-signal-safe. */
  static bool ContainFault(uintptr_t address);

  RegionRef Ref() {
    refs_++;
    return RegionRef(this);
  }
  uint8_t* Data() const { return data_; }
  size_t Size() const { return size_; }
  bool Faulted() const { return faulted_.load(); }

  /** Asynchronous I/O operations under way. */
  uint32_t in_flight = 0;

 private:
  friend RegionUnref;
  static Region* Claim(uint64_t range);

  /** Where it is, for every thread: one word (MakeRange), so that nobody sees half of a change. 0: free. */
  std::atomic<uint64_t> range_{0};
  std::atomic<bool> faulted_{false};
  // The rest belongs to the isolate that claimed it.
  // SAFETY: data_ points to size_ mapped bytes inside [base_, base_ + length_) from Map to the last Unref.
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint8_t* base_ = nullptr;
  size_t length_ = 0;
  uint32_t refs_ = 0;
};

}  // namespace tsvmm
