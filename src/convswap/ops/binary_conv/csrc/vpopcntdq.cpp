// AVX-512 VPOPCNTDQ: one register holds 8 outputs x 64 channels, an activation word is broadcast to it, so no sum ever
// crosses lanes. Blocks of 16 outputs x up to 8 pixels stay in registers over all taps and channels. Pixels that see
// the same taps form a class; a block never mixes classes, so padded taps are neither read nor computed.
#if defined(__x86_64__)
#include "binary_conv.h"

#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own header warns of its deliberately undefined registers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "../../native/csrc/cpu.h"
#include "../../native/csrc/threads.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")
#endif

namespace convswap::binary {
namespace {

constexpr int kPixels = 8;

// Outputs [begin, end) of one axis that see the same taps.
struct Run {
  int64_t begin, end;
  Taps taps;
};

// How the pixels of one chunk of rows are walked; filled once for each job.
struct Walk {
  Run* rows;
  Run* columns;
  int64_t row_runs, column_runs;
  int64_t panels;         // pairs of blocks
  int64_t chunk, chunks;  // rows of one image computed together; chunks of an image
};

int64_t find_runs(Run* runs, int64_t outputs, int64_t stride, int64_t pad, int64_t dilation, int64_t kernel,
                  int64_t size) {
  int64_t count = 0;
  for (int64_t at = 0; at < outputs; ++at) {
    const Taps taps = taps_inside(at, stride, pad, dilation, kernel, size);
    if (count && runs[count - 1].taps.first == taps.first && runs[count - 1].taps.last == taps.last)
      runs[count - 1].end = at + 1;
    else
      runs[count++] = {at, at + 1, taps};
  }
  return count;
}

// What a block of pixels needs: places of tap (0, 0) in the input (they may lie outside) and of the results.
struct Pixels {
  const uint64_t* x;        // the image, at this group's first word
  int64_t offset[kPixels];  // in words
  int64_t pixel[kPixels];
};

struct Panel {
  const uint64_t* weight;
  int64_t group, block;
  __mmask16 outputs;   // which of the 16 exist
  __mmask16 readable;  // which channel parameters may be read
};

inline void store_float(const Job& job, const Panel& panel, int64_t pixel, __m512i dots) {
  const Geometry& g = job.g;
  const int64_t at = (panel.group * g.blocks() + panel.block) * 8;
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_maskz_loadu_ps(panel.readable, job.scale + at));
  if (job.map) y = _mm512_mul_ps(y, _mm512_set1_ps(job.map[pixel]));
  y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(panel.readable, job.bias + at));
  if (job.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // the second operand wins against NaN
  float* out = job.out + (pixel * g.groups + panel.group) * g.o + panel.block * 8;
  _mm512_mask_storeu_ps(out, panel.outputs, y);
}

inline void store_bits(const Job& job, const Panel& panel, int64_t pixel, __m512i dots) {
  const int64_t at = (panel.group * job.g.blocks() + panel.block) * 8;
  const __m512i threshold = _mm512_maskz_loadu_epi32(panel.readable, job.threshold + at);
  const __m128i flip = _mm_maskz_loadu_epi8(panel.readable, job.flip + at);
  const unsigned bits = unsigned(_mm512_mask_cmpge_epi32_mask(panel.readable, dots, threshold)) ^
                        unsigned(_mm_test_epi8_mask(flip, flip));
  uint8_t* out = job.out_bits + pixel * job.out_pitch + at / 8;
  out[0] = uint8_t(bits);
  if (panel.readable >> 8) out[1] = uint8_t(bits >> 8);
}

// P pixels x B blocks of outputs over the taps `rows` x `columns`.
template <int P, int B>
void block_of_pixels(const Job& job, const Panel& panel, const Pixels& at, Taps rows, Taps columns) {
  const Geometry& g = job.g;
  const int64_t words = g.words(), pitch = g.groups * words;
  const int64_t second = g.kh * g.kw * words * 8;  // from a block's weights to the next block's
  __m512i count[B][P];
  for (int b = 0; b < B; ++b)
    for (int p = 0; p < P; ++p) count[b][p] = _mm512_setzero_si512();
  // Neighbouring taps of a row lie behind each other in both operands: one long run of words.
  const bool joined = g.dw == 1 && g.groups == 1;
  const int64_t taps = columns.last - columns.first;
  const int64_t runs = joined ? 1 : taps, length = joined ? taps * words : words;
  for (int64_t k = rows.first; k < rows.last; ++k) {
    for (int64_t r = 0; r < runs; ++r) {
      const int64_t l = columns.first + r;
      const uint64_t* w = panel.weight + (k * g.kw + l) * words * 8;
      const int64_t tap = (k * g.dh * g.w + l * g.dw) * pitch;
      const uint64_t* x[P];
      for (int p = 0; p < P; ++p) x[p] = at.x + (at.offset[p] + tap);
      for (int64_t i = 0; i < length; ++i, w += 8) {
        __m512i weights[B];
        for (int b = 0; b < B; ++b) weights[b] = _mm512_loadu_si512(w + b * second);
        for (int p = 0; p < P; ++p) {
          const __m512i word = _mm512_set1_epi64(int64_t(x[p][i]));
          for (int b = 0; b < B; ++b)
            count[b][p] = _mm512_add_epi64(count[b][p], _mm512_popcnt_epi64(_mm512_xor_si512(word, weights[b])));
        }
      }
    }
  }
  const __m512i inside = _mm512_set1_epi32(int32_t((rows.last - rows.first) * taps * g.c));
  for (int p = 0; p < P; ++p) {
    const __m256i low = _mm512_cvtepi64_epi32(count[0][p]);
    const __m256i high = B == 2 ? _mm512_cvtepi64_epi32(count[B - 1][p]) : _mm256_setzero_si256();
    const __m512i counts = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i dots = _mm512_sub_epi32(inside, _mm512_slli_epi32(counts, 1));
    if (job.out_bits)
      store_bits(job, panel, at.pixel[p], dots);
    else
      store_float(job, panel, at.pixel[p], dots);
  }
}

template <int B>
void pixels_of(int count, const Job& job, const Panel& panel, const Pixels& at, Taps rows, Taps columns) {
  switch (count) {
    case 1: return block_of_pixels<1, B>(job, panel, at, rows, columns);
    case 2: return block_of_pixels<2, B>(job, panel, at, rows, columns);
    case 3: return block_of_pixels<3, B>(job, panel, at, rows, columns);
    case 4: return block_of_pixels<4, B>(job, panel, at, rows, columns);
    case 5: return block_of_pixels<5, B>(job, panel, at, rows, columns);
    case 6: return block_of_pixels<6, B>(job, panel, at, rows, columns);
    case 7: return block_of_pixels<7, B>(job, panel, at, rows, columns);
    default: return block_of_pixels<8, B>(job, panel, at, rows, columns);
  }
}

// All pixels of rows [top, bottom) x one run of columns, in blocks of nearly equal size.
void class_of_pixels(const Job& job, const Panel& panel, const uint64_t* x, int64_t image, int64_t top, int64_t bottom,
                     Taps row_taps, const Run& columns) {
  const Geometry& g = job.g;
  const int64_t pitch = g.groups * g.words();
  int64_t left = (bottom - top) * (columns.end - columns.begin);
  int64_t blocks = (left + kPixels - 1) / kPixels, oy = top, ox = columns.begin;
  Pixels at;
  at.x = x;
  for (; blocks > 0; --blocks) {
    const int count = int((left + blocks - 1) / blocks);
    for (int p = 0; p < count; ++p) {
      at.offset[p] = ((oy * g.sh - g.pad_top) * g.w + ox * g.sw - g.pad_left) * pitch;
      at.pixel[p] = (image * g.oh + oy) * g.ow + ox;
      if (++ox == columns.end) ox = columns.begin, ++oy;
    }
    if (panel.block + 1 < g.blocks())
      pixels_of<2>(count, job, panel, at, row_taps, columns.taps);
    else
      pixels_of<1>(count, job, panel, at, row_taps, columns.taps);
    left -= count;
  }
}

// One panel of 16 outputs over one chunk of rows of one image.
void task(const Job& job, const Walk& walk, int64_t index) {
  const Geometry& g = job.g;
  const int64_t panels = g.groups * walk.panels;
  const int64_t which = index % panels, place = index / panels;
  const int64_t image = place / walk.chunks, first = place % walk.chunks * walk.chunk;
  const int64_t end = first + walk.chunk < g.oh ? first + walk.chunk : g.oh;
  Panel panel;
  panel.group = which / walk.panels;
  panel.block = which % walk.panels * 2;
  panel.weight = weight_block(job, panel.group, panel.block);
  const int64_t left = g.o - panel.block * 8;
  panel.outputs = left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
  panel.readable = left > 8 ? __mmask16(0xffff) : __mmask16(0xff);
  const uint64_t* x = job.x + image * g.h * g.w * g.groups * g.words() + panel.group * g.words();
  for (int64_t r = 0; r < walk.row_runs; ++r) {
    const Run& rows = walk.rows[r];
    const int64_t top = rows.begin > first ? rows.begin : first, bottom = rows.end < end ? rows.end : end;
    if (top >= bottom) continue;
    for (int64_t c = 0; c < walk.column_runs; ++c)
      class_of_pixels(job, panel, x, image, top, bottom, rows.taps, walk.columns[c]);
  }
}

size_t scratch_bytes(const Job& job) { return size_t(job.g.oh + job.g.ow) * sizeof(Run); }

int run(const Job& job) {
  const Geometry& g = job.g;
  Walk walk;
  walk.rows = static_cast<Run*>(job.scratch);
  walk.columns = walk.rows + g.oh;
  walk.row_runs = find_runs(walk.rows, g.oh, g.sh, g.pad_top, g.dh, g.kh, g.h);
  walk.column_runs = find_runs(walk.columns, g.ow, g.sw, g.pad_left, g.dw, g.kw, g.w);
  walk.panels = (g.blocks() + 1) / 2;
  // Whole images where there are tasks enough for the threads to share evenly: the edges' classes stay large.
  const int64_t tasks = g.groups * walk.panels * g.n, wanted = job.threads > 1 ? 8 * int64_t(job.threads) : 1;
  int64_t chunks = (wanted + tasks - 1) / tasks;
  if (chunks > g.oh) chunks = g.oh;
  walk.chunk = (g.oh + chunks - 1) / chunks;
  walk.chunks = (g.oh + walk.chunk - 1) / walk.chunk;
  parallel_for(job.threads, tasks * walk.chunks, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) task(job, walk, index);
  });
  return kOk;
}

const char* refuses_nothing(const Geometry&) { return nullptr; }

}  // namespace

const Path kVpopcntdqPath = {"vpopcntdq", has_vpopcntdq, refuses_nothing, scratch_bytes, run, nullptr, nullptr, 0};

}  // namespace convswap::binary

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif
#endif
