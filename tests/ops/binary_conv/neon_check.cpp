// Compares the NEON path with the portable one, bit for bit, on drawn geometries. Built by test_paths.py.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "binary_conv.h"

using namespace convswap;
using namespace convswap::binary;

namespace {

std::mt19937_64 engine(1);

int64_t draw(int64_t least, int64_t most) { return least + int64_t(engine() % uint64_t(most - least + 1)); }

Geometry draw_geometry() {
  Geometry g{};
  for (;;) {
    g.n = draw(1, 2), g.h = draw(1, 9), g.w = draw(1, 12);
    g.groups = draw(1, 2), g.c = draw(1, 200), g.o = draw(1, 30);
    g.kh = draw(1, 4), g.kw = draw(1, 4), g.sh = draw(1, 3), g.sw = draw(1, 3), g.dh = draw(1, 2), g.dw = draw(1, 2);
    g.pad_top = draw(0, 3), g.pad_left = draw(0, 3);
    const int64_t rows = g.h + g.pad_top + draw(0, 3) - (g.kh - 1) * g.dh - 1;
    const int64_t columns = g.w + g.pad_left + draw(0, 3) - (g.kw - 1) * g.dw - 1;
    if (rows < 0 || columns < 0) continue;
    g.oh = rows / g.sh + 1, g.ow = columns / g.sw + 1;
    return g;
  }
}

// Words of `channels` drawn bits each, pad bits 0.
void fill(std::vector<uint64_t>& words, int64_t count, int64_t channels, bool last_of_group_at_8) {
  const uint64_t tail = channels % 64 ? (uint64_t(1) << channels % 64) - 1 : ~uint64_t(0);
  for (size_t at = 0; at < words.size(); ++at) {
    const int64_t word = (last_of_group_at_8 ? int64_t(at) / 8 : int64_t(at)) % count;
    words[at] = engine() & (word == count - 1 ? tail : ~uint64_t(0));
  }
}

bool equal(const Geometry& g) {
  const int64_t padded = g.groups * g.blocks() * 8;
  std::vector<uint64_t> x(size_t(g.n * g.h * g.w * g.groups * g.words()));
  std::vector<uint64_t> weight(size_t(padded * g.kh * g.kw * g.words()));
  fill(x, g.words(), g.c, false);
  fill(weight, g.words(), g.c, true);
  std::vector<float> scale(size_t(padded), 0.0f), bias(scale), map(size_t(g.pixels()), 0.0f);
  std::vector<int32_t> threshold(scale.size());
  std::vector<uint8_t> flip(scale.size());
  for (size_t at = 0; at < scale.size(); ++at) {
    scale[at] = float(draw(-99, 99)) / 7, bias[at] = float(draw(-99, 99)) / 3;
    threshold[at] = int32_t(draw(-20, 20)), flip[at] = uint8_t(draw(0, 1));
  }
  for (float& factor : map) factor = float(draw(1, 99)) / 11;
  Job job{};
  job.g = g, job.x = x.data(), job.weight = weight.data(), job.scale = scale.data(), job.bias = bias.data();
  job.map = draw(0, 1) ? map.data() : nullptr, job.relu = draw(0, 1), job.threads = int(draw(1, 2));
  job.threshold = threshold.data(), job.flip = flip.data();
  const Path* const paths[2] = {&kPortablePath, &kNeonPath};
  std::vector<float> outs[2];
  std::vector<uint8_t> bits[2];
  for (int at = 0; at < 2; ++at) {
    outs[at].assign(size_t(g.pixels() * g.groups * g.o), -1.0f);
    job.out = outs[at].data(), job.out_bits = nullptr;
    std::vector<uint64_t> scratch(paths[at]->scratch_bytes(job) / 8 + 16);
    job.scratch = scratch.data();
    if (paths[at]->run(job) != kOk) return false;
    bits[at].assign(size_t(g.pixels() * g.groups * g.blocks()), 0);
    job.out = nullptr, job.out_bits = bits[at].data(), job.out_pitch = g.groups * g.blocks();
    if (paths[at]->run(job) != kOk) return false;
  }
  return std::memcmp(outs[0].data(), outs[1].data(), outs[0].size() * sizeof(float)) == 0 && bits[0] == bits[1];
}

}  // namespace

int main() {
  for (int count = 0; count < 400; ++count)
    if (!equal(draw_geometry())) {
      std::printf("geometry %d differs\n", count);
      return 1;
    }
  std::printf("400 geometries equal\n");
  return 0;
}
