// AMX int8 tiles: TDPBSSD multiplies 16 positions x 64 channels by 64 channels x 16 outputs in 16 cycles, three times
// the rate of the popcount that xor and VPOPCNTDQ reach, so that +-1 as int8 is the fastest binary convolution where
// there are tiles. int8_driver.h has the blocking around the loop below; int8_operands.h the operands' layouts.
//
// Registers: 2 x 2 tiles of sums (32 positions x 32 outputs), two tiles of activations and two of weights. A step is
// four loads (8 cycles each, two at a time where they hit L1) against four multiplications (64 cycles).
//
// Chunks: a panel of 3x3 weights is 18 KiB at 64 channels and 36 KiB at 128, which stay in L1 beside the activations.
// At 256 channels it is 72 KiB, and streaming it from L2 for every 32 positions costs a sixth of the time; one kernel
// row of it (3 taps x 256 channels = 12 steps, 24 KiB) stays. Smaller panels are not chunked: loading and storing the
// sums once more for each chunk costs more than it saves.
#include "binary_conv.h"

#if defined(__x86_64__)

#include "../../native/csrc/cpu.h"
#include "int8_driver.h"
#include "tiles.h"

namespace convswap::binary {

#if defined(CONVSWAP_HAS_TILES)

namespace {

constexpr int64_t kResidentSteps = 20;  // 40 KiB of weights: a panel up to this is one chunk
constexpr int64_t kChunkSteps = 12;     // 24 KiB otherwise

template <bool TwoRows, bool TwoColumns>
void CONVSWAP_AMX multiply(const Block& b) {
  constexpr int64_t sums_row = kPanelOutputs * int64_t(sizeof(int32_t));
  int32_t* const lower = b.sums + 16 * kPanelOutputs;
  compiler_barrier();
  if (b.resume) {
    tile_load(0, b.sums, sums_row);
    if (TwoColumns) tile_load(1, b.sums + 16, sums_row);
    if (TwoRows) tile_load(2, lower, sums_row);
    if (TwoRows && TwoColumns) tile_load(3, lower + 16, sums_row);
  } else {
    tile_zero(0);
    if (TwoColumns) tile_zero(1);
    if (TwoRows) tile_zero(2);
    if (TwoRows && TwoColumns) tile_zero(3);
  }
  const int64_t apart = b.position_bytes;
  const int8_t* weight = b.panel;
  for (int64_t step = 0; step < b.steps; ++step) {
    const int8_t* const plane = b.plane + b.offset[step];
    tile_load(6, weight, 64);
    tile_load(4, plane, apart);
    tile_multiply(0, 4, 6);
    if (TwoColumns) {
      tile_load(7, weight + kTileBytes, 64);
      tile_multiply(1, 4, 7);
    }
    if (TwoRows) {
      tile_load(5, plane + 16 * apart, apart);
      tile_multiply(2, 5, 6);
    }
    if (TwoRows && TwoColumns) tile_multiply(3, 5, 7);
    weight += (TwoColumns ? 2 : 1) * kTileBytes;
  }
  tile_store(0, b.sums, sums_row);
  if (TwoColumns) tile_store(1, b.sums + 16, sums_row);
  if (TwoRows) tile_store(2, lower, sums_row);
  if (TwoRows && TwoColumns) tile_store(3, lower + 16, sums_row);
}

struct AmxKernel {
  static constexpr int64_t kRows = 32;
  static constexpr Values kValues = {-1, 1, 0};
  static constexpr int64_t chunk(int64_t steps) { return steps <= kResidentSteps ? steps : kChunkSteps; }

  // Tiles are configured for each task and given back after it: the system need not save 8 KiB at every switch of
  // threads, and other users of tiles (oneDNN) find them as a new thread would.
  static void CONVSWAP_AMX begin() {
    static constexpr TileConfig config = {};
    tiles_configure(config);
  }
  static void CONVSWAP_AMX end() { tiles_release(); }

  static void prepare(const int8_t*, int64_t, int64_t, int32_t*) {}

  static void block(const Block& b) {
    if (b.rows > 16)
      b.tiles == 2 ? multiply<true, true>(b) : multiply<true, false>(b);
    else
      b.tiles == 2 ? multiply<false, true>(b) : multiply<false, false>(b);
  }
};

bool available() {
#if defined(CONVSWAP_EMULATE_TILES)
  return has_avx512();
#else
  return has_amx_int8();
#endif
}

}  // namespace

using Amx = Int8Path<AmxKernel>;
extern const Path kAmxPath = {"amx",    available,        Amx::refuses, Amx::scratch_bytes,
                              Amx::run, Amx::panel_bytes, Amx::expand,  1};

#else  // a compiler that does not know the instructions

namespace {
bool available() { return false; }
const char* refuses(const Geometry&) { return "built by a compiler without AMX"; }
size_t scratch_bytes(const Job&) { return 0; }
int run(const Job&) { return kUnsupported; }
}  // namespace

extern const Path kAmxPath = {"amx", available, refuses, scratch_bytes, run, nullptr, nullptr, 1};

#endif

}  // namespace convswap::binary

#endif
