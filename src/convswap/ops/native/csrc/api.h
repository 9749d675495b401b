// The border to Python: plain C symbols, integer statuses, no exception passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#define CONVSWAP_API extern "C" __attribute__((visibility("default")))

namespace convswap {

// What an exported function returns; Python turns anything but `kOk` into an error (`Status` in ops/native/status.py).
enum Status : int {
  kOk = 0,
  kBadArgument = 1,  // a size, stride or pointer the function does not take
  kUnsupported = 2,  // this processor lacks the instructions of a path that was asked for by name
  kNoMemory = 3,     // scratch memory could not be had
  kInternal = 4,     // anything else: a bug
};

// Run `body` (which returns a Status) and turn an exception into a status: wrap every exported function that may
// allocate. It cannot help inside a parallel_for body: those must not throw (see threads.h).
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    return int(std::forward<Body>(body)());
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kInternal;
  }
}

// Uninitialised memory on a cache line boundary (64 bytes) that never throws: `if (!scratch) return kNoMemory;`.
class Scratch {
 public:
  Scratch() = default;  // none yet
  explicit Scratch(size_t bytes) noexcept { at_least(bytes); }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit operator bool() const noexcept { return data_ != nullptr; }
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(data_);
  }

  // Grow where needed; what was in it is lost then. False without memory.
  bool at_least(size_t bytes) noexcept {
    if (data_ != nullptr && bytes <= size_) return true;
    release();
    const size_t rounded = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;
    if (rounded < bytes || posix_memalign(&data_, 64, rounded) != 0) data_ = nullptr;
    size_ = data_ != nullptr ? rounded : 0;
    return data_ != nullptr;
  }

  size_t size() const noexcept { return size_; }

  // Give the memory back.
  void release() noexcept {
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace convswap
