// The dendritic kernels for AVX-512: 16 output channels a vector. Only standard-free code may stand below the pragma.

#include "dendritic.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,fma")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of g++ 12's own header (its bug 105593)
#endif

namespace convswap::dendritic {
namespace {

struct Vector {
  static constexpr int kLanes = 16, kPixels = 2;
  using T = __m512;
  static inline T load(const float* from) { return _mm512_loadu_ps(from); }
  static inline T held(T v) {
    asm("" : "+v"(v));
    return v;
  }
  static inline void store(float* to, T v) { _mm512_storeu_ps(to, v); }
  static inline T all(const float* from) { return _mm512_set1_ps(*from); }
  static inline T zero() { return _mm512_setzero_ps(); }
  static inline T add(T a, T b) { return _mm512_add_ps(a, b); }
  static inline T fused(T a, T b, T c) { return _mm512_fmadd_ps(a, b, c); }
  static inline T relu(T v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }  // of a NaN the second operand comes out
  static inline T open(T v, T slope) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NLE_UQ), slope);
  }

  // Four vectors -> the sums of each quarter of each: quarter k of the result belongs to vector k.
  static inline T quarters(T a, T b, T c, T d) {
    const T ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const T cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  }
  static inline T pairs(T a, T b) { return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); }
  static inline T sums(const float* m) {
    const T q0 = quarters(load(m), load(m + 64), load(m + 128), load(m + 192));
    const T q1 = quarters(load(m + 16), load(m + 80), load(m + 144), load(m + 208));
    const T q2 = quarters(load(m + 32), load(m + 96), load(m + 160), load(m + 224));
    const T q3 = quarters(load(m + 48), load(m + 112), load(m + 176), load(m + 240));
    const __m512d lower = _mm512_castps_pd(pairs(q0, q1)), upper = _mm512_castps_pd(pairs(q2, q3));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(lower, upper)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(lower, upper)));
  }
};

#include "kernels.h"

constexpr Kernels make() {
  Kernels kernels{};
  add_shape<Vector, 4, 4>(kernels);
  add_shape<Vector, 2, 8>(kernels);
  add_shape<Vector, 2, 7>(kernels);
  add_shape<Vector, 1, 16>(kernels);
  add_backward<Vector>(kernels);
  return kernels;
}

constexpr Kernels kTable = make();

}  // namespace

const Kernels* const kAvx512Kernels = &kTable;

}  // namespace convswap::dendritic

#if defined(__clang__)
#pragma clang attribute pop
#endif

#else

namespace convswap::dendritic {

const Kernels* const kAvx512Kernels = nullptr;

}  // namespace convswap::dendritic

#endif
