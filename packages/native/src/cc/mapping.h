// Shared memory with a counted lifetime. See src/mapping.ts for what it promises.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tsvmm {

struct FaultSlot;

/**
 * One mmap. Counted without atomics: the Mapping object, its ArrayBuffer and asynchronous I/O all take and
 * drop their references on the thread of the isolate that made it.
 */
class Region {
 public:
  /** Maps; nullptr with errno on failure. `delta` is the distance of `offset` from the file's page. */
  static Region* Map(int fd, uint64_t offset, size_t size, bool writable, bool guard, size_t page);
  /** The region whose first byte is `data`, or nullptr for memory that is not ours. */
  static Region* Find(const void* data);

  void Ref() { refs_++; }
  /** Unmaps with the last reference. */
  void Unref();

  uint8_t* Data() const { return data_; }
  size_t Size() const { return size_; }
  bool Faulted() const;

  /** Asynchronous I/O operations under way. */
  uint32_t in_flight = 0;

 private:
  Region() = default;
  ~Region() = default;

  // SAFETY: data_ points to size_ mapped bytes inside [base_, base_ + length_) from Map to the last Unref.
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint8_t* base_ = nullptr;
  size_t length_ = 0;
  FaultSlot* slot_ = nullptr;
  uint32_t refs_ = 1;
};

}  // namespace tsvmm
