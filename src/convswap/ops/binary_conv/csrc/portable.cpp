// The path every machine has: 64-bit popcounts in plain C++. Pixels outside, blocks of 8 outputs inside.
#include "binary_conv.h"

#include "../../native/csrc/threads.h"

namespace convswap::binary {
namespace {

bool always() { return true; }

const char* refuses_nothing(const Geometry&) { return nullptr; }

size_t no_scratch(const Job&) { return 0; }

// The dots of one block of 8 outputs at the pixel whose tap (0, 0) reads row `top`, column `left`.
void dots_of(const Job& job, const uint64_t* image, const uint64_t* weight, Taps rows, Taps columns, int64_t top,
             int64_t left, int32_t dots[8]) {
  const Geometry& g = job.g;
  const int64_t words = g.words(), pitch = g.groups * words;
  uint64_t count[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int64_t k = rows.first; k < rows.last; ++k) {
    for (int64_t l = columns.first; l < columns.last; ++l) {
      const uint64_t* x = image + ((top + k * g.dh) * g.w + left + l * g.dw) * pitch;
      const uint64_t* w = weight + (k * g.kw + l) * words * 8;
      for (int64_t i = 0; i < words; ++i, w += 8)
        for (int o = 0; o < 8; ++o) count[o] += uint64_t(__builtin_popcountll(x[i] ^ w[o]));
    }
  }
  const int64_t inside = (rows.last - rows.first) * (columns.last - columns.first) * g.c;
  for (int o = 0; o < 8; ++o) dots[o] = int32_t(inside - 2 * int64_t(count[o]));
}

void row_of_pixels(const Job& job, int64_t image, int64_t oy) {
  const Geometry& g = job.g;
  const int64_t top = oy * g.sh - g.pad_top;
  const Taps rows = taps_inside(oy, g.sh, g.pad_top, g.dh, g.kh, g.h);
  for (int64_t group = 0; group < g.groups; ++group) {
    const uint64_t* x = job.x + image * g.h * g.w * g.groups * g.words() + group * g.words();
    for (int64_t block = 0; block < g.blocks(); ++block) {
      const uint64_t* weight = weight_block(job, group, block);
      for (int64_t ox = 0; ox < g.ow; ++ox) {
        const Taps columns = taps_inside(ox, g.sw, g.pad_left, g.dw, g.kw, g.w);
        int32_t dots[8];
        dots_of(job, x, weight, rows, columns, top, ox * g.sw - g.pad_left, dots);
        emit(job, (image * g.oh + oy) * g.ow + ox, group, block, dots);
      }
    }
  }
}

int run(const Job& job) {
  parallel_for(job.threads, job.g.n * job.g.oh, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) row_of_pixels(job, row / job.g.oh, row % job.g.oh);
  });
  return kOk;
}

}  // namespace

const Path kPortablePath = {"portable", always, refuses_nothing, no_scratch, run, nullptr, nullptr, 0};

}  // namespace convswap::binary
