// What the popcount paths of narrow registers (AVX2, NEON) share: which pixels are computed together, and the epilogue.
//
// A task is a few output rows of one image. Inside it, a block of 8 outputs comes first (its weights, 8 x kh x kw x
// words words, stay in L1 for all pixels of the task), then the pixels. Neighbouring pixels of a row that see the same
// columns of the kernel are computed `Kernel::kPixels` at a time; at the border only the taps inside the image are
// visited, so that nothing has to be taken back.
//
// A Kernel gives
//   static constexpr int64_t kPixels;                                          1 to 4
//   template <int M> static void count(const Taps2d&, int32_t count[M][8]);   popcount(x ^ w) of m pixels and 8 outputs
//   static void finish(const Job&, int64_t pixel, int64_t group, int64_t block, const int32_t dots[8]);
#pragma once

#include "../../native/csrc/threads.h"
#include "binary_conv.h"

namespace convswap::binary {

// The taps of m neighbouring pixels.
struct Taps2d {
  const uint64_t* x;        // the first pixel's first tap
  int64_t x_pixel;          // words from one pixel to the next,
  int64_t x_row, x_column;  // from one tap to the one below, to the one on its right
  const uint64_t* weight;   // the same tap of the block
  int64_t weight_row;       // words from one row of the kernel to the next
  int64_t rows, columns;    // taps
  int64_t words;
};

template <class Kernel>
struct PopcountPath {
  static const char* refuses(const Geometry&) { return nullptr; }

  template <int M>
  static void pixels(const Job& job, const Taps2d& taps, int64_t pixel, int64_t group, int64_t block) {
    int32_t counts[M][8];
    Kernel::template count<M>(taps, counts);
    const int32_t most = int32_t(job.g.c * taps.rows * taps.columns);
    for (int i = 0; i < M; ++i) {
      int32_t dots[8];
      for (int o = 0; o < 8; ++o) dots[o] = most - 2 * counts[i][o];
      Kernel::finish(job, pixel + i, group, block, dots);
    }
  }

  // Neighbouring pixels of a row computed together; the same for every row of the job, so found once.
  struct Segment {
    int64_t x, pixels, first, columns;  // the first pixel, how many; the first tap inside the image, how many
  };

  static int64_t find_segments(const Geometry& g, Segment* segments) {
    int64_t count = 0;
    for (int64_t x = 0; x < g.ow; ++x) {
      const Taps taps = taps_inside(x, g.sw, g.pad_left, g.dw, g.kw, g.w);
      const int64_t columns = taps.last - taps.first;
      if (count > 0) {
        Segment& before = segments[count - 1];
        if (before.pixels < Kernel::kPixels && before.first == taps.first && before.columns == columns) {
          ++before.pixels;
          continue;
        }
      }
      segments[count++] = {x, 1, taps.first, columns};
    }
    return count;
  }

  static size_t scratch_bytes(const Job& job) { return size_t(job.g.ow) * sizeof(Segment); }

  // Output row `y` of an image, for one block of 8 outputs.
  static void row(const Job& job, const Segment* segments, int64_t count, int64_t image, int64_t y, int64_t group,
                  int64_t block) {
    const Geometry& g = job.g;
    const int64_t words = g.words(), apart = g.groups * words;
    const Taps down = taps_inside(y, g.sh, g.pad_top, g.dh, g.kh, g.h);
    Taps2d taps;
    taps.words = words;
    taps.x_pixel = g.sw * apart;
    taps.x_row = g.dh * g.w * apart;
    taps.x_column = g.dw * apart;
    taps.weight_row = g.kw * words * 8;
    const int64_t first_row = y * g.sh - g.pad_top + down.first * g.dh;
    const uint64_t* const weight = weight_block(job, group, block) + down.first * taps.weight_row;
    for (const Segment* segment = segments; segment < segments + count; ++segment) {
      const bool some = down.last > down.first && segment->columns > 0;
      taps.rows = some ? down.last - down.first : 0;
      taps.columns = some ? segment->columns : 0;
      const int64_t first_column = segment->x * g.sw - g.pad_left + segment->first * g.dw;
      taps.x = some ? job.x + ((image * g.h + first_row) * g.w + first_column) * apart + group * words : job.x;
      taps.weight = weight + segment->first * words * 8;
      const int64_t pixel = (image * g.oh + y) * g.ow + segment->x;
      switch (segment->pixels) {
        case 1: pixels<1>(job, taps, pixel, group, block); break;
        case 2: pixels<2>(job, taps, pixel, group, block); break;
        case 3: pixels<3>(job, taps, pixel, group, block); break;
        default: pixels<4>(job, taps, pixel, group, block); break;
      }
    }
  }

  static int run(const Job& job) {
    const Geometry& g = job.g;
    const int64_t rows = g.n * g.oh;
    const int threads = job.threads > 0 ? job.threads : 1;
    // Rows of one task: 16 KiB of activations at most beside the block's weights, and work for every thread.
    const int64_t row_bytes = g.w * g.groups * g.words() * 8 * g.sh;
    int64_t chunk = 16384 / row_bytes;
    if (chunk > rows / threads) chunk = rows / threads;
    if (chunk < 1) chunk = 1;
    const int64_t chunks = (rows + chunk - 1) / chunk;
    Segment* const segments = static_cast<Segment*>(job.scratch);
    const int64_t count = find_segments(g, segments);
    parallel_for(threads, chunks, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t stop = (at + 1) * chunk < rows ? (at + 1) * chunk : rows;
        for (int64_t group = 0; group < g.groups; ++group)
          for (int64_t block = 0; block < g.blocks(); ++block)
            for (int64_t line = at * chunk; line < stop; ++line)
              row(job, segments, count, line / g.oh, line % g.oh, group, block);
      }
    });
    return kOk;
  }
};

}  // namespace convswap::binary
