// The dendritic kernels for any processor: vectors of 4, which compilers turn into SSE2 or NEON or plain code.

#include "dendritic.h"

namespace convswap::dendritic {
namespace {

struct Vector {
  static constexpr int kLanes = 4, kPixels = 1;
  typedef float T __attribute__((vector_size(16)));
  typedef int Mask __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  static inline T load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static inline T held(T v) { return v; }
  static inline void store(float* to, T v) { *reinterpret_cast<Unaligned*>(to) = v; }
  static inline T all(const float* from) { return T{*from, *from, *from, *from}; }
  static inline T zero() { return T{0, 0, 0, 0}; }
  static inline T add(T a, T b) { return a + b; }
  static inline T fused(T a, T b, T c) { return a * b + c; }  // rounded twice where the compiler keeps them apart
  static inline T relu(T v) { return reinterpret_cast<T>(reinterpret_cast<Mask>(v) & ~Mask(v <= zero())); }
  static inline T open(T v, T slope) { return reinterpret_cast<T>(reinterpret_cast<Mask>(slope) & ~Mask(v <= zero())); }
  static inline T sums(const float* m) {
    T sum;
    for (int i = 0; i < kLanes; ++i) sum[i] = (m[4 * i] + m[4 * i + 1]) + (m[4 * i + 2] + m[4 * i + 3]);
    return sum;
  }
};

#include "kernels.h"

constexpr Kernels make() {
  Kernels kernels{};
  add_shape<Vector, 2, 4>(kernels);
  add_shape<Vector, 1, 8>(kernels);
  add_backward<Vector>(kernels);
  return kernels;
}

constexpr Kernels kTable = make();

}  // namespace

const Kernels* const kPortableKernels = &kTable;

}  // namespace convswap::dendritic
