// The limits of one core: how many multiply-accumulates per second the fastest instructions give when nothing else
// (memory, borders, epilogues) is in the way. A kernel is judged by its distance from these figures.
//
// Every probe runs on the calling thread for about `milliseconds`, times short bursts of independent chains and keeps
// the fastest burst, so other work on the machine disturbs it little. It returns multiply-accumulates per second (for
// popcount: of single bits). The caller must know that this processor has the instructions: probes.py asks the library
// of kernels, which for AMX asks Linux for the tiles, too.
#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#if __has_include(<amxint8intrin.h>)
#define CONVSWAP_COMPILER_KNOWS_AMX 1
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace convswap {
namespace {

constexpr int kRounds = 2048;  // per burst: some 10 microseconds
volatile float sink = 0;       // results go here, so that no work can be left out

// The most operations per second of `burst`, which does `operations` each time.
double fastest(void (*burst)(), double operations, int milliseconds) {
  using Clock = std::chrono::steady_clock;
  if (milliseconds < 1) milliseconds = 1;
  if (milliseconds > 10000) milliseconds = 10000;
  burst();
  double best = 1e30;
  const auto end = Clock::now() + std::chrono::milliseconds(milliseconds);
  do {
    const auto start = Clock::now();
    burst();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0 && seconds < best) best = seconds;
  } while (Clock::now() < end);
  return operations / best;
}

#if defined(__x86_64__)

// Hides a value from the optimiser: it may have changed, so nothing computed from it can be kept.
#define CONVSWAP_OPAQUE(value) __asm__ volatile("" : "+x"(value))
#define CONVSWAP_OPAQUE512(value) __asm__ volatile("" : "+v"(value))

__attribute__((target("avx2,fma"))) void fma_avx2() {
  constexpr int kChains = 12;
  __m256 sum[kChains], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
  for (auto& s : sum) s = _mm256_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    CONVSWAP_OPAQUE(x);
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = _mm256_fmadd_ps(x, y, sum[c]);
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
  sink = _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) void fma_avx512() {
  constexpr int kChains = 16;
  __m512 sum[kChains], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int i = 0; i < kRounds; ++i) {
    CONVSWAP_OPAQUE512(x);
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_fmadd_ps(x, y, sum[c]);
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  sink = _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("popcnt"))) void popcount_scalar() {
  constexpr int kChains = 4;
  uint64_t sum[kChains] = {}, x = 0x123456789abcdefULL;
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      __asm__ volatile("" : "+r"(x));
      sum[c] += uint64_t(__builtin_popcountll(x ^ sum[c]));
    }
  }
  sink = float(sum[0] + sum[1] + sum[2] + sum[3]);
}

__attribute__((target("avx2"))) void popcount_avx2() {
  constexpr int kChains = 6;
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i sum[kChains], x = _mm256_set1_epi64x(0x123456789abcdef);
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 6
    for (int c = 0; c < kChains; ++c) {
      CONVSWAP_OPAQUE(x);
      const __m256i bits = _mm256_xor_si256(x, low);
      const __m256i left = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, low));
      const __m256i right = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), low));
      sum[c] = _mm256_add_epi8(sum[c], _mm256_add_epi8(left, right));  // the widening sum comes once in many rounds
    }
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm256_add_epi8(sum[0], sum[c]);
  sink = float(_mm256_extract_epi32(sum[0], 0));
}

__attribute__((target("avx512f,avx512vpopcntdq"))) void popcount_avx512() {
  constexpr int kChains = 14;
  __m512i sum[kChains], x = _mm512_set1_epi64(0x123456789abcdef), y = _mm512_set1_epi64(0x5555);
  for (auto& s : sum) s = _mm512_setzero_si512();
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 14
    for (int c = 0; c < kChains; ++c) {
      CONVSWAP_OPAQUE512(x);
      sum[c] = _mm512_add_epi64(sum[c], _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
    }
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm512_add_epi64(sum[0], sum[c]);
  sink = float(_mm_cvtsi128_si64(_mm512_castsi512_si128(sum[0])));
}

__attribute__((target("avx512f,avx512vnni"))) void vnni_avx512() {
  constexpr int kChains = 16;
  __m512i sum[kChains], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(-1);
  for (auto& s : sum) s = _mm512_setzero_si512();
  for (int i = 0; i < kRounds; ++i) {
    CONVSWAP_OPAQUE512(x);
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], x, y);
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm512_add_epi32(sum[0], sum[c]);
  sink = float(_mm_cvtsi128_si32(_mm512_castsi512_si128(sum[0])));
}

#ifdef CONVSWAP_COMPILER_KNOWS_AMX
// Four independent sums over tiles that stay in registers: no loads, so this is above what any kernel reaches.
__attribute__((target("amx-tile,amx-int8"))) void amx_int8() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  alignas(64) static const int8_t ones[1024] = {1};
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  for (int i = 0; i < kRounds / 4; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  alignas(64) int32_t out[256];
  _tile_stored(0, out, 64);
  _tile_release();
  sink = float(out[0]);
}
#endif

#elif defined(__aarch64__)

#define CONVSWAP_OPAQUE(value) __asm__ volatile("" : "+w"(value))

void fma_neon() {
  constexpr int kChains = 16;
  float32x4_t sum[kChains], x = vdupq_n_f32(0.5f), y = vdupq_n_f32(0.25f);
  for (auto& s : sum) s = vdupq_n_f32(0);
  for (int i = 0; i < kRounds; ++i) {
    CONVSWAP_OPAQUE(x);
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = vfmaq_f32(sum[c], x, y);
  }
  for (int c = 1; c < kChains; ++c) sum[0] = vaddq_f32(sum[0], sum[c]);
  sink = vgetq_lane_f32(sum[0], 0);
}

void popcount_neon() {
  constexpr int kChains = 8;
  uint8x16_t sum[kChains], x = vdupq_n_u8(0x35), y = vdupq_n_u8(0x0f);
  for (auto& s : sum) s = vdupq_n_u8(0);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      CONVSWAP_OPAQUE(x);
      sum[c] = vaddq_u8(sum[c], vcntq_u8(veorq_u8(x, y)));
    }
  }
  for (int c = 1; c < kChains; ++c) sum[0] = vaddq_u8(sum[0], sum[c]);
  sink = float(vgetq_lane_u8(sum[0], 0));
}

#endif

}  // namespace
}  // namespace convswap

#define CONVSWAP_PROBE(burst, operations)                                                             \
  extern "C" __attribute__((visibility("default"))) double convswap_probe_##burst(int milliseconds) { \
    return convswap::fastest(convswap::burst, operations, milliseconds);                              \
  }

#if defined(__x86_64__)
CONVSWAP_PROBE(fma_avx512, 16.0 * 16 * convswap::kRounds)
CONVSWAP_PROBE(fma_avx2, 12.0 * 8 * convswap::kRounds)
CONVSWAP_PROBE(popcount_avx512, 14.0 * 512 * convswap::kRounds)
CONVSWAP_PROBE(popcount_avx2, 6.0 * 256 * convswap::kRounds)
CONVSWAP_PROBE(popcount_scalar, 4.0 * 64 * convswap::kRounds)
CONVSWAP_PROBE(vnni_avx512, 16.0 * 64 * convswap::kRounds)
#ifdef CONVSWAP_COMPILER_KNOWS_AMX
CONVSWAP_PROBE(amx_int8, 4.0 * 16 * 16 * 64 * (convswap::kRounds / 4))
#endif
#elif defined(__aarch64__)
CONVSWAP_PROBE(fma_neon, 16.0 * 4 * convswap::kRounds)
CONVSWAP_PROBE(popcount_neon, 8.0 * 128 * convswap::kRounds)
#endif
