// AVX2: bits are counted by looking up the two halves of each byte (vpshufb). A register holds 4 outputs x 64 channels
// of weights, the activation word is broadcast; bytes are counted for up to 31 steps (8 a step, 248 at most) before
// vpsadbw adds each lane's bytes, which is one output's sum. 4 pixels x 8 outputs at a time: 8 registers of counts.
#include "binary_conv.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "../../native/csrc/cpu.h"
#include "popcount_driver.h"
#include "unroll.h"

#define CONVSWAP_AVX2 __attribute__((target("avx2")))

namespace convswap::binary {

namespace {

constexpr int64_t kStepsInBytes = 31;

struct Avx2Kernel {
  static constexpr int64_t kPixels = 4;

  template <int M>
  static void CONVSWAP_AVX2 count(const Taps2d& taps, int32_t counts[M][8]) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    __m256i sums[M][2], bytes[M][2];
    CONVSWAP_UNROLL
    for (int i = 0; i < M; ++i) {
      CONVSWAP_UNROLL
      for (int t = 0; t < 2; ++t) sums[i][t] = bytes[i][t] = zero;
    }
    int64_t left = kStepsInBytes;
    for (int64_t row = 0; row < taps.rows; ++row)
      for (int64_t column = 0; column < taps.columns; ++column) {
        const uint64_t* const x = taps.x + row * taps.x_row + column * taps.x_column;
        const uint64_t* const weight = taps.weight + row * taps.weight_row + column * taps.words * 8;
        for (int64_t k = 0; k < taps.words; ++k) {
          CONVSWAP_UNROLL
          for (int t = 0; t < 2; ++t) {
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight + k * 8 + t * 4));
            CONVSWAP_UNROLL
            for (int i = 0; i < M; ++i) {
              const __m256i a = _mm256_set1_epi64x(int64_t(x[i * taps.x_pixel + k]));
              const __m256i v = _mm256_xor_si256(a, w);
              const __m256i lower = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
              const __m256i upper = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
              bytes[i][t] = _mm256_add_epi8(bytes[i][t], _mm256_add_epi8(lower, upper));
            }
          }
          if (--left == 0) {
            left = kStepsInBytes;
            CONVSWAP_UNROLL
            for (int i = 0; i < M; ++i) {
              CONVSWAP_UNROLL
              for (int t = 0; t < 2; ++t) {
                sums[i][t] = _mm256_add_epi64(sums[i][t], _mm256_sad_epu8(bytes[i][t], zero));
                bytes[i][t] = zero;
              }
            }
          }
        }
      }
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    CONVSWAP_UNROLL
    for (int i = 0; i < M; ++i) {
      CONVSWAP_UNROLL
      for (int t = 0; t < 2; ++t) {
        const __m256i sum = _mm256_add_epi64(sums[i][t], _mm256_sad_epu8(bytes[i][t], zero));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(&counts[i][t * 4]),
                         _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(sum, even)));
      }
    }
  }

  static void CONVSWAP_AVX2 finish(const Job& job, int64_t pixel, int64_t group, int64_t block, const int32_t dots[8]) {
    const Geometry& g = job.g;
    if (block * 8 + 8 > g.o) return emit(job, pixel, group, block, dots);
    const int64_t at = (group * g.blocks() + block) * 8;
    const __m256i dot = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots));
    if (job.out_bits) {
      const __m256i threshold = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.threshold + at));
      const int below = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(threshold, dot)));
      const __m128i flips = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(job.flip + at));
      const int flip = _mm_movemask_epi8(_mm_cmpgt_epi8(flips, _mm_setzero_si128()));
      job.out_bits[pixel * job.out_pitch + group * g.blocks() + block] = uint8_t(~below ^ flip);
      return;
    }
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_loadu_ps(job.scale + at));
    if (job.map) y = _mm256_mul_ps(y, _mm256_set1_ps(job.map[pixel]));
    y = _mm256_add_ps(y, _mm256_loadu_ps(job.bias + at));
    if (job.relu) y = _mm256_max_ps(_mm256_setzero_ps(), y);  // in this order NaN and -0 stay what they are
    _mm256_storeu_ps(job.out + (pixel * g.groups + group) * g.o + block * 8, y);
  }
};

}  // namespace

using Avx2 = PopcountPath<Avx2Kernel>;
extern const Path kAvx2Path = {"avx2", has_avx2, Avx2::refuses, Avx2::scratch_bytes, Avx2::run, nullptr, nullptr, 1};

}  // namespace convswap::binary

#endif
