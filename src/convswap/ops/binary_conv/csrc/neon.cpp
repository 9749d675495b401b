// NEON: CNT counts the bits of each byte. A register holds 2 outputs x 64 channels of weights, the activation word is
// broadcast; bytes are counted for up to 31 steps (8 a step, 248 at most) before pairwise additions widen them to one
// 64-bit sum for each output. 4 pixels x 8 outputs at a time: 16 registers of counts, 4 of weights.
#include "binary_conv.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include "../../native/csrc/cpu.h"
#include "popcount_driver.h"
#include "unroll.h"

namespace convswap::binary {

namespace {

constexpr int64_t kStepsInBytes = 31;

inline uint64x2_t widen(uint64x2_t sum, uint8x16_t bytes) { return vpadalq_u32(sum, vpaddlq_u16(vpaddlq_u8(bytes))); }

struct NeonKernel {
  static constexpr int64_t kPixels = 4;

  template <int M>
  static void count(const Taps2d& taps, int32_t counts[M][8]) {
    uint64x2_t sums[M][4];
    uint8x16_t bytes[M][4];
    CONVSWAP_UNROLL
    for (int i = 0; i < M; ++i) {
      CONVSWAP_UNROLL
      for (int t = 0; t < 4; ++t) {
        sums[i][t] = vdupq_n_u64(0);
        bytes[i][t] = vdupq_n_u8(0);
      }
    }
    int64_t left = kStepsInBytes;
    for (int64_t row = 0; row < taps.rows; ++row)
      for (int64_t column = 0; column < taps.columns; ++column) {
        const uint64_t* const x = taps.x + row * taps.x_row + column * taps.x_column;
        const uint64_t* const weight = taps.weight + row * taps.weight_row + column * taps.words * 8;
        for (int64_t k = 0; k < taps.words; ++k) {
          uint8x16_t w[4];
          CONVSWAP_UNROLL
          for (int t = 0; t < 4; ++t) w[t] = vreinterpretq_u8_u64(vld1q_u64(weight + k * 8 + t * 2));
          CONVSWAP_UNROLL
          for (int i = 0; i < M; ++i) {
            const uint8x16_t a = vreinterpretq_u8_u64(vdupq_n_u64(x[i * taps.x_pixel + k]));
            CONVSWAP_UNROLL
            for (int t = 0; t < 4; ++t) bytes[i][t] = vaddq_u8(bytes[i][t], vcntq_u8(veorq_u8(a, w[t])));
          }
          if (--left == 0) {
            left = kStepsInBytes;
            CONVSWAP_UNROLL
            for (int i = 0; i < M; ++i) {
              CONVSWAP_UNROLL
              for (int t = 0; t < 4; ++t) {
                sums[i][t] = widen(sums[i][t], bytes[i][t]);
                bytes[i][t] = vdupq_n_u8(0);
              }
            }
          }
        }
      }
    CONVSWAP_UNROLL
    for (int i = 0; i < M; ++i) {
      CONVSWAP_UNROLL
      for (int t = 0; t < 4; ++t) {
        const uint64x2_t sum = widen(sums[i][t], bytes[i][t]);
        vst1_s32(&counts[i][t * 2], vreinterpret_s32_u32(vmovn_u64(sum)));
      }
    }
  }

  static void finish(const Job& job, int64_t pixel, int64_t group, int64_t block, const int32_t dots[8]) {
    const Geometry& g = job.g;
    if (job.out_bits || block * 8 + 8 > g.o) return emit(job, pixel, group, block, dots);
    const int64_t at = (group * g.blocks() + block) * 8;
    float* const out = job.out + (pixel * g.groups + group) * g.o + block * 8;
    for (int t = 0; t < 8; t += 4) {
      float32x4_t y = vmulq_f32(vcvtq_f32_s32(vld1q_s32(dots + t)), vld1q_f32(job.scale + at + t));
      if (job.map) y = vmulq_f32(y, vdupq_n_f32(job.map[pixel]));
      y = vaddq_f32(y, vld1q_f32(job.bias + at + t));
      if (job.relu) y = vbslq_f32(vcltq_f32(y, vdupq_n_f32(0)), vdupq_n_f32(0), y);  // NaN stays NaN
      vst1q_f32(out + t, y);
    }
  }
};

}  // namespace

using Neon = PopcountPath<NeonKernel>;
extern const Path kNeonPath = {"neon", has_neon, Neon::refuses, Neon::scratch_bytes, Neon::run, nullptr, nullptr, 1};

}  // namespace convswap::binary

#endif
