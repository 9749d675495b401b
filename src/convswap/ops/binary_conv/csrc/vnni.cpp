// AVX-512 VNNI: vpdpbusd adds four products of an unsigned and a signed byte to each of 16 int32. For CPUs that have it
// without VPOPCNTDQ (Cascade Lake): 128 products a cycle on two ports, four times fp32.
//
// The unsigned operand is the activation plus one: 0 for bit 0, 2 for bit 1, 1 for padding. Then the sum is
// dot + (sum of the weights), so the accumulators start at minus that sum, whatever the border does. The signed operand
// is a panel of weights as the AMX path has it (rows of 16 outputs x 4 channels; pad bits 0).
//
// Registers: 12 positions x 32 outputs = 24 accumulators, two rows of weights, one broadcast of 4 channels. Weights are
// not chunked: the loop asks for 128 bytes of them every 24 multiplications, which L2 can give.
#include "binary_conv.h"

#if defined(__x86_64__)

#include "../../native/csrc/cpu.h"
#include "int8_driver.h"
#include "unroll.h"

#define CONVSWAP_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

namespace convswap::binary {

namespace {

constexpr int64_t kBlockRows = 12;

template <int Tiles>
void CONVSWAP_VNNI multiply(const Block& b) {
  __m512i sum[kBlockRows][Tiles];
  CONVSWAP_UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    CONVSWAP_UNROLL
    for (int t = 0; t < Tiles; ++t) sum[m][t] = _mm512_loadu_si512(b.start + t * 16);
  }
  const int8_t* weight = b.panel;
  for (int64_t step = 0; step < b.steps; ++step, weight += Tiles * kTileBytes) {
    const int8_t* const plane = b.plane + b.offset[step];
    for (int64_t quad = 0; quad < 16; ++quad) {
      __m512i w[Tiles];
      CONVSWAP_UNROLL
      for (int t = 0; t < Tiles; ++t) w[t] = _mm512_loadu_si512(weight + t * kTileBytes + quad * kStepBytes);
      CONVSWAP_UNROLL
      for (int m = 0; m < kBlockRows; ++m) {
        int32_t four;
        std::memcpy(&four, plane + m * b.position_bytes + quad * 4, 4);
        const __m512i x = _mm512_set1_epi32(four);
        CONVSWAP_UNROLL
        for (int t = 0; t < Tiles; ++t) sum[m][t] = _mm512_dpbusd_epi32(sum[m][t], x, w[t]);
      }
    }
  }
  CONVSWAP_UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    CONVSWAP_UNROLL
    for (int t = 0; t < Tiles; ++t) _mm512_storeu_si512(b.sums + m * kPanelOutputs + t * 16, sum[m][t]);
  }
}

struct VnniKernel {
  static constexpr int64_t kRows = kBlockRows;
  static constexpr Values kValues = {0, 2, 1};
  static constexpr int64_t chunk(int64_t steps) { return steps; }
  static void begin() {}
  static void end() {}

  // Minus the sum of each output's weights, by the same instruction.
  static void CONVSWAP_VNNI prepare(const int8_t* panel, int64_t steps, int64_t tiles, int32_t* start) {
    const __m512i ones = _mm512_set1_epi8(1);
    for (int64_t t = 0; t < tiles; ++t) {
      __m512i sum = _mm512_setzero_si512();
      for (int64_t step = 0; step < steps; ++step)
        for (int64_t row = 0; row < 16; ++row)
          sum = _mm512_dpbusd_epi32(sum, ones,
                                    _mm512_loadu_si512(panel + (step * tiles + t) * kTileBytes + row * kStepBytes));
      _mm512_storeu_si512(start + t * 16, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    }
  }

  static void block(const Block& b) { b.tiles == 2 ? multiply<2>(b) : multiply<1>(b); }
};

}  // namespace

using Vnni = Int8Path<VnniKernel>;
extern const Path kVnniPath = {"vnni",    has_avx512_vnni,   Vnni::refuses, Vnni::scratch_bytes,
                               Vnni::run, Vnni::panel_bytes, Vnni::expand,  1};

}  // namespace convswap::binary

#endif
