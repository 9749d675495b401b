// The tile instructions of AMX that the kernel uses, and a plain-C stand-in with the same semantics
// (-DCONVSWAP_EMULATE_TILES): with it the AMX path, all but the instructions themselves, is tested on any x86-64 CPU.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace convswap::binary {

// The operand of ldtilecfg: all eight tiles are 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#if defined(CONVSWAP_EMULATE_TILES)

#define CONVSWAP_HAS_TILES 1
#define CONVSWAP_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

struct EmulatedTiles {
  uint8_t data[8][16][64];
  bool configured;
};

inline EmulatedTiles& emulated_tiles() {
  static thread_local EmulatedTiles tiles = {};
  return tiles;
}

inline EmulatedTiles& usable_tiles() {
  if (!emulated_tiles().configured) __builtin_trap();  // the processor would raise #UD
  return emulated_tiles();
}

inline void tiles_configure(const TileConfig& config) {
  std::memset(emulated_tiles().data, 0, sizeof emulated_tiles().data);
  emulated_tiles().configured = config.palette == 1;
}

inline void tiles_release() { emulated_tiles().configured = false; }

inline void tile_zero(int tile) { std::memset(usable_tiles().data[tile], 0, sizeof usable_tiles().data[tile]); }

inline void tile_load(int tile, const void* from, int64_t stride) {
  for (int64_t row = 0; row < 16; ++row)
    std::memcpy(usable_tiles().data[tile][row], static_cast<const uint8_t*>(from) + row * stride, 64);
}

inline void tile_store(int tile, void* to, int64_t stride) {
  for (int64_t row = 0; row < 16; ++row)
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, usable_tiles().data[tile][row], 64);
}

// TDPBSSD: c[m][n] += the sum over k < 16, i < 4 of a[m][4 k + i] * b[k][4 n + i].
inline void tile_multiply(int c, int a, int b) {
  EmulatedTiles& tiles = usable_tiles();
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      int32_t sum;
      std::memcpy(&sum, &tiles.data[c][m][4 * n], 4);
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 4; ++i)
          sum += int32_t(int8_t(tiles.data[a][m][4 * k + i])) * int8_t(tiles.data[b][k][4 * n + i]);
      std::memcpy(&tiles.data[c][m][4 * n], &sum, 4);
    }
}

inline void compiler_barrier() {}

#elif (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)

#define CONVSWAP_HAS_TILES 1
#define CONVSWAP_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8")))

// Macros, because the intrinsics want the number of a tile as a literal.
#define tiles_configure(config) _tile_loadconfig(&(config))
#define tiles_release() _tile_release()
#define tile_zero(tile) _tile_zero(tile)
#define tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_multiply(c, a, b) _tile_dpbssd(c, a, b)

// GCC writes tile loads as volatile assembly that does not say which memory it reads. This keeps the compiler from
// moving earlier stores to that memory behind them; it costs no instruction.
inline void compiler_barrier() { __asm__ volatile("" ::: "memory"); }

#endif

}  // namespace convswap::binary

#endif
