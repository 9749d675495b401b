// The border to Python: plain C symbols, integer statuses, no exception passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#define CONVSWAP_API extern "C" __attribute__((visibility("default")))

namespace convswap {

// What an exported function returns; Python turns anything but `kOk` into an error.
enum Status : int {
  kOk = 0,
  kBadArgument = 1,   // a size, stride or pointer the function does not take
  kUnsupported = 2,   // this processor lacks the instructions of a path that was asked for by name
  kNoMemory = 3,      // scratch memory could not be had
  kInternal = 4,      // anything else: a bug
};

// Run `body` (which returns a Status) and turn an exception into a status: wrap every exported function that may
// allocate. It cannot help inside a parallel_for body: those must not throw (see threads.h).
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    return static_cast<int>(std::forward<Body>(body)());
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kInternal;
  }
}

// Uninitialised memory on a cache line boundary (64 bytes) that never throws: `if (!scratch) return kNoMemory;`.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) noexcept {
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    if (rounded < bytes || posix_memalign(&data_, 64, rounded ? rounded : 64) != 0) data_ = nullptr;
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit operator bool() const noexcept { return data_ != nullptr; }
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace convswap
