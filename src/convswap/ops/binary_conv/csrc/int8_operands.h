// Bits expanded to int8 for the kernels that multiply (AMX, VNNI).
//
// A "step" is 64 channels of one tap: one tile multiplication deep. Both operands hold the 64 channels of a step in the
// same shuffled order, the one in which AVX-512 turns bits into bytes without moving them: byte 8 b + j holds channel
// 8 j + b (vptestmb asks for bit b of every byte j).
//
// Plane: the activations of one image and group, zero padded, [rows][pitch] positions of `words` steps (64 bytes each).
//   The kernel's output position p = oy * pitch + ox reads position p + (offset of the tap) for every tap, so that 16
//   consecutive p are 16 rows at a constant distance: no im2col. Where pitch exceeds ow some p lie between two output
//   rows; they are computed and thrown away. With stride 1 the zeros left of a row serve the row above as its zeros on
//   the right, which keeps those few (pitch 15 for 14 columns).
//   With a stride, the plane is split into sh * sw phases (row % sh, column % sw), each laid out as above: then a step
//   of one output is a step of one position again.
//
// Panel: the weights of 32 outputs (the last panel of a group: 16 if no more are left), [steps][nt][16][16][4]:
//   each KiB is the right operand of one tile multiplication (and of 16 vpdpbusd): 16 rows of 16 outputs x 4 channels.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "binary_conv.h"

#define CONVSWAP_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace convswap::binary {

constexpr int64_t kStepBytes = 64;    // of one position
constexpr int64_t kTileBytes = 1024;  // of 16 outputs
constexpr int64_t kPanelOutputs = 32;
constexpr int64_t kSparePositions = 32;  // a block may compute (and drop) positions beyond the last

inline int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

struct PlaneShape {
  int64_t rows, pitch;     // of one phase
  int64_t position_bytes;  // words * 64
  int64_t phase_bytes;
  int64_t bytes;           // all phases and the spare positions
  int64_t needed_columns;  // of the padded image, before splitting it into phases
  int64_t fill_rows;       // rows of all phases
  bool shared;             // the zeros on the right of a row are those on the left of the next
  int64_t positions;       // of the output: (oh - 1) * pitch + ow
  int64_t steps;           // kh * kw * words

  explicit PlaneShape(const Geometry& g) {
    const int64_t needed_rows = (g.oh - 1) * g.sh + (g.kh - 1) * g.dh + 1;
    needed_columns = (g.ow - 1) * g.sw + (g.kw - 1) * g.dw + 1;
    rows = (needed_rows + g.sh - 1) / g.sh;
    fill_rows = rows * g.sh;
    pitch = (needed_columns + g.sw - 1) / g.sw;
    const int64_t right = needed_columns - g.pad_left - g.w;
    shared = g.sw == 1 && right > 0 && right <= g.pad_left && right <= (g.kw - 1) * g.dw;  // the last: pitch >= ow
    if (shared) pitch -= right;
    position_bytes = g.words() * kStepBytes;
    phase_bytes = rows * pitch * position_bytes;
    bytes = g.sh * g.sw * phase_bytes + (kSparePositions + g.kw * g.dw) * position_bytes;
    positions = (g.oh - 1) * pitch + g.ow;
    steps = g.kh * g.kw * g.words();
  }

  // Byte offset of each step's 64 channels from the position of an output.
  void offsets(const Geometry& g, int64_t* offset) const {
    for (int64_t i = 0; i < g.kh; ++i)
      for (int64_t j = 0; j < g.kw; ++j) {
        const int64_t y = i * g.dh, x = j * g.dw, phase = (y % g.sh) * g.sw + x % g.sw;
        const int64_t at = phase * phase_bytes + ((y / g.sh) * pitch + x / g.sw) * position_bytes;
        for (int64_t k = 0; k < g.words(); ++k) *offset++ = at + k * kStepBytes;
      }
  }
};

// The bytes that stand for bit 0, bit 1 and padding: -1, 1, 0 (AMX), or one more where they must be unsigned (VNNI).
struct Values {
  int8_t zero_bit, one_bit, padding;
};

inline __m512i CONVSWAP_AVX512 shuffled_bits() {  // byte 8 b + j: 1 << b
  return _mm512_set_epi64(0x8080808080808080ll, 0x4040404040404040ll, 0x2020202020202020ll, 0x1010101010101010ll,
                          0x0808080808080808ll, 0x0404040404040404ll, 0x0202020202020202ll, 0x0101010101010101ll);
}

// Fill padded row `row` (0 <= row < fill_rows) of one image and group into its plane.
inline void CONVSWAP_AVX512 fill_plane_row(const Geometry& g, const PlaneShape& shape, const uint64_t* x, int64_t image,
                                           int64_t group, int64_t row, const Values& values, int8_t* plane) {
  if (g.kh == 1 && row % g.sh != 0 && !shape.shared) return;  // no tap reads this phase
  const int64_t y = row - g.pad_top;
  int8_t* const phases =
      plane + (row % g.sh) * g.sw * shape.phase_bytes + (row / g.sh) * shape.pitch * shape.position_bytes;
  const int64_t row_bytes = shape.pitch * shape.position_bytes;
  if (y < 0 || y >= g.h) {
    for (int64_t phase = 0; phase < g.sw; ++phase)
      std::memset(phases + phase * shape.phase_bytes, values.padding, size_t(row_bytes));
    return;
  }
  const int64_t words = g.words(), apart = g.groups * words;
  const int64_t end = shape.needed_columns - g.pad_left < g.w ? shape.needed_columns - g.pad_left : g.w;
  if (g.sw == 1) {  // only the padding, which may be shared with the next row
    const int64_t left = g.pad_left < shape.pitch ? g.pad_left : shape.pitch;
    std::memset(phases, values.padding, size_t(left * shape.position_bytes));
    const int64_t right = shape.pitch - g.pad_left - (end > 0 ? end : 0);
    if (right > 0)
      std::memset(phases + row_bytes - right * shape.position_bytes, values.padding,
                  size_t(right * shape.position_bytes));
  } else {
    for (int64_t phase = 0; phase < g.sw; ++phase)
      std::memset(phases + phase * shape.phase_bytes, values.padding, size_t(row_bytes));
  }
  const __m512i bits = shuffled_bits();
  const __m512i zero = _mm512_set1_epi8(values.zero_bit), one = _mm512_set1_epi8(values.one_bit);
  const uint64_t* from = x + ((image * g.h + y) * g.w * g.groups + group) * words;
  int64_t phase = g.pad_left % g.sw, column = g.pad_left / g.sw;
  for (int64_t at = 0; at < end; ++at, from += apart) {
    int8_t* to = phases + phase * shape.phase_bytes + column * shape.position_bytes;
    for (int64_t k = 0; k < words; ++k) {
      const __mmask64 ones = _mm512_test_epi8_mask(_mm512_set1_epi64(int64_t(from[k])), bits);
      _mm512_storeu_si512(to + k * kStepBytes, _mm512_mask_blend_epi8(ones, zero, one));
    }
    if (++phase == g.sw) {
      phase = 0;
      ++column;
    }
  }
}

// What lies behind the last phase: the zeros right of the last row, and positions that are thrown away.
inline void fill_plane_end(const Geometry& g, const PlaneShape& shape, const Values& values, int8_t* plane) {
  const int64_t used = g.sh * g.sw * shape.phase_bytes;
  std::memset(plane + used, values.padding, size_t(shape.bytes - used));
}

// Expand steps [first, last) of the panel at `panel` of a group: `weight` is the group's, `to` the first step's tiles.
inline void CONVSWAP_AVX512 expand_panel(const Geometry& g, const uint64_t* weight, int64_t panel, int64_t first,
                                         int64_t last, int8_t* to) {
  const int64_t steps = g.kh * g.kw * g.words(), words = g.words(), blocks = g.blocks();
  const int64_t nt = g.o - panel * kPanelOutputs > 16 ? 2 : 1;
  const __m512i minus = _mm512_set1_epi8(-1), plus = _mm512_set1_epi8(1);
  const __m512i low = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i high = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  // Channels of the last word, in the order of a row: output-independent, 4 channels repeated 16 times.
  const int64_t tail = g.c % 64;
  for (int64_t step = first; step < last; ++step) {
    const bool masked = tail != 0 && step % words == words - 1;
    for (int64_t half = 0; half < nt; ++half, to += kTileBytes) {
      const int64_t block = panel * 4 + half * 2;
      const uint64_t* words_at = weight + (block * steps + step) * 8;
      const __m512i a = _mm512_loadu_si512(words_at);
      const __m512i b = block + 1 < blocks ? _mm512_loadu_si512(words_at + steps * 8) : _mm512_setzero_si512();
      const __m512i halves[2] = {_mm512_permutex2var_epi32(a, low, b), _mm512_permutex2var_epi32(a, high, b)};
      for (int64_t bit = 0; bit < 8; ++bit) {  // row 2 bit + h, byte 4 o + i: channel 32 h + 8 i + bit
        const __m512i asked = _mm512_set1_epi8(char(1 << bit));
        for (int64_t h = 0; h < 2; ++h) {
          const __mmask64 ones = _mm512_test_epi8_mask(halves[h], asked);
          __m512i row = _mm512_mask_blend_epi8(ones, minus, plus);
          if (masked) {
            uint32_t valid = 0;
            for (int64_t i = 0; i < 4; ++i)
              if (32 * h + 8 * i + bit < tail) valid |= 0xffu << (8 * i);
            row = _mm512_and_si512(row, _mm512_set1_epi32(int32_t(valid)));
          }
          _mm512_storeu_si512(to + (2 * bit + h) * 64, row);
        }
      }
    }
  }
}

inline int64_t panels_of(const Geometry& g) { return (g.o + kPanelOutputs - 1) / kPanelOutputs; }

inline int64_t tiles_of(const Geometry& g, int64_t panel) { return g.o - panel * kPanelOutputs > 16 ? 2 : 1; }

inline int64_t group_panel_bytes(const Geometry& g) { return (g.o + 15) / 16 * g.kh * g.kw * g.words() * kTileBytes; }

inline int64_t panel_offset(const Geometry& g, int64_t group, int64_t panel) {
  return group * group_panel_bytes(g) + panel * g.kh * g.kw * g.words() * 2 * kTileBytes;
}

}  // namespace convswap::binary

#endif
