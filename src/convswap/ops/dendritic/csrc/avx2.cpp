// The dendritic kernels for AVX2 with FMA: 8 output channels a vector. Only standard-free code may stand below the
// pragma.

#include "dendritic.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace convswap::dendritic {
namespace {

struct Vector {
  static constexpr int kLanes = 8, kPixels = 1;
  using T = __m256;
  static inline T load(const float* from) { return _mm256_loadu_ps(from); }
  static inline T held(T v) {
    asm("" : "+x"(v));
    return v;
  }
  static inline void store(float* to, T v) { _mm256_storeu_ps(to, v); }
  static inline T all(const float* from) { return _mm256_broadcast_ss(from); }
  static inline T zero() { return _mm256_setzero_ps(); }
  static inline T add(T a, T b) { return _mm256_add_ps(a, b); }
  static inline T fused(T a, T b, T c) { return _mm256_fmadd_ps(a, b, c); }
  static inline T relu(T v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }  // of a NaN the second operand comes out
  static inline T open(T v, T slope) {
    return _mm256_and_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLE_UQ), slope);
  }
  static inline T sums(const float* m) {
    const T ab = _mm256_hadd_ps(load(m), load(m + 8)), cd = _mm256_hadd_ps(load(m + 16), load(m + 24));
    const T ef = _mm256_hadd_ps(load(m + 32), load(m + 40)), gh = _mm256_hadd_ps(load(m + 48), load(m + 56));
    const T lower = _mm256_hadd_ps(ab, cd), upper = _mm256_hadd_ps(ef, gh);
    return _mm256_add_ps(_mm256_permute2f128_ps(lower, upper, 0x20), _mm256_permute2f128_ps(lower, upper, 0x31));
  }
};

#include "kernels.h"

constexpr Kernels make() {
  Kernels kernels{};
  add_shape<Vector, 3, 4>(kernels);
  add_shape<Vector, 2, 6>(kernels);
  add_shape<Vector, 1, 12>(kernels);
  add_backward<Vector>(kernels);
  return kernels;
}

constexpr Kernels kTable = make();

}  // namespace

const Kernels* const kAvx2Kernels = &kTable;

}  // namespace convswap::dendritic

#if defined(__clang__)
#pragma clang attribute pop
#endif

#else

namespace convswap::dendritic {

const Kernels* const kAvx2Kernels = nullptr;

}  // namespace convswap::dendritic

#endif
