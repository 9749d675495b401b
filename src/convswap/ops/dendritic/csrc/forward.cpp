// The forward pass: bands of output pixels; a band's input is packed once and serves all output channels.

#include <cstring>
#include <limits>

#include "../../native/csrc/api.h"
#include "../../native/csrc/threads.h"
#include "plan.h"

namespace convswap::dendritic {
namespace {

constexpr int64_t kBandFloats = 48 << 10;  // of packed input, about: it is read from the second cache again and again
constexpr int64_t kWidest = 96;            // columns of a band
constexpr int64_t kRangesPerThread = 4;    // a busy machine slows threads unequally

struct Bands {
  int shape;              // of the tiles, in the kernels' list
  int64_t rows, columns;  // of a band, whole tiles
  int64_t down, across;   // bands of an image
  int64_t splits;         // parts of the output channels, where there are fewer bands than threads
  int64_t floats;         // of packed input

  int64_t tasks(const Geometry& g) const { return g.images * g.groups * down * across * splits; }
};

int64_t packed_floats(const Plan& plan, int64_t rows, int64_t columns) {
  int64_t floats = 0;
  for (const Phase& phase : plan.phases) {
    if (phase.pieces.empty()) continue;
    const int64_t wide = columns + phase.high[1] - phase.low[1], high = rows + phase.high[0] - phase.low[0];
    floats += plan.g.inputs * wide * high;
  }
  return floats;
}

// The shape that computes the fewest pixels too many; the earlier one of equals shares more activations.
int choose_shape(const Geometry& g, const Kernels& kernels) {
  int best = 0;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int i = 0; i < kernels.shapes; ++i) {
    const TileShape& shape = kernels.shape[i];
    const int64_t pixels =
        divide_up(g.out[0], shape.rows) * shape.rows * divide_up(g.out[1], shape.columns) * shape.columns;
    if (pixels < fewest) {
      fewest = pixels;
      best = i;
    }
  }
  return best;
}

Bands choose_bands(const Plan& plan, const Kernels& kernels) {
  const Geometry& g = plan.g;
  Bands bands{};
  bands.shape = choose_shape(g, kernels);
  const TileShape& shape = kernels.shape[bands.shape];
  bands.across = divide_up(g.out[1], kWidest);
  bands.columns = divide_up(divide_up(g.out[1], bands.across), shape.columns) * shape.columns;
  bands.across = divide_up(g.out[1], bands.columns);
  int64_t tiles = divide_up(g.out[0], shape.rows);
  const int64_t enough = divide_up(kRangesPerThread * g.threads, g.images * g.groups * bands.across);
  while (tiles > 1 && (packed_floats(plan, tiles * shape.rows, bands.columns) > kBandFloats ||
                       divide_up(g.out[0], tiles * shape.rows) < enough)) {
    tiles = divide_up(tiles, 2);
  }
  bands.rows = tiles * shape.rows;
  bands.down = divide_up(g.out[0], bands.rows);
  bands.splits = 1;
  bands.splits = least(plan.blocks, divide_up(g.threads, most(1, bands.tasks(g))));
  bands.floats = packed_floats(plan, bands.rows, bands.columns);
  return bands;
}

struct Call {
  const Plan& plan;
  const Kernels& kernels;
  const Bands& bands;
  const float *x, *weight, *bias, *output_bias;  // weight and bias are packed
  float* y;
};

// One line of a phase, minus infinity outside: whatever finite bias is added, the rectifier makes it 0.
void copy_line(float* to, const float* from, int64_t step, int64_t first, int64_t count, int64_t size) {
  const float nothing = -std::numeric_limits<float>::infinity();
  const int64_t begin = least(count, most(0, -first)), end = most(begin, least(count, size - first));
  for (int64_t i = 0; i < begin; ++i) to[i] = nothing;
  from += (first + begin) * step;
  if (step == 1) {
    std::memcpy(to + begin, from, size_t(end - begin) * sizeof(float));
  } else {
    for (int64_t i = begin; i < end; ++i, from += step) to[i] = *from;
  }
  for (int64_t i = end; i < count; ++i) to[i] = nothing;
}

// (inputs, rows, columns) of every phase, one after the other.
void pack_band(const Call& call, const float* image, int64_t top, int64_t left, float* to) {
  const Geometry& g = call.plan.g;
  for (const Phase& phase : call.plan.phases) {
    if (phase.pieces.empty()) continue;
    const int64_t rows = call.bands.rows + phase.high[0] - phase.low[0];
    const int64_t columns = call.bands.columns + phase.high[1] - phase.low[1];
    const int64_t across = g.x[3] * g.stride[1];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = top + phase.low[0] + r;
      const bool inside = row >= 0 && row < phase.size[0];
      const float* line = image + (inside ? phase.start[0] + row * g.stride[0] : 0) * g.x[2] + phase.start[1] * g.x[3];
      for (int64_t c = 0; c < g.inputs; ++c) {
        copy_line(to + (c * rows + r) * columns, line + c * g.x[1], across, left + phase.low[1], columns,
                  inside ? phase.size[1] : 0);
      }
    }
    to += g.inputs * rows * columns;
  }
}

// The real pixels and channels of a tile (rows, columns, lanes) to the output.
void write_tile(const Call& call, const float* total, float* to, int64_t rows, int64_t columns, int64_t real) {
  const Geometry& g = call.plan.g;
  const int64_t pitch = call.kernels.shape[call.bands.shape].columns * call.plan.lanes;
  for (int64_t r = 0; r < rows; ++r, total += pitch, to += g.y[2]) {
    if (g.y[1] == 1) {
      for (int64_t q = 0; q < columns; ++q) {
        std::memcpy(to + q * g.y[3], total + q * call.plan.lanes, size_t(real) * sizeof(float));
      }
      continue;
    }
    for (int64_t o = 0; o < real; ++o) {
      for (int64_t q = 0; q < columns; ++q) to[o * g.y[1] + q * g.y[3]] = total[q * call.plan.lanes + o];
    }
  }
}

void compute_tile(const Call& call, const float* band, int64_t group, int64_t block, int64_t row, int64_t column,
                  float* total) {
  const Plan& plan = call.plan;
  for (const Phase& phase : plan.phases) {
    if (phase.pieces.empty()) continue;
    const int64_t rows = call.bands.rows + phase.high[0] - phase.low[0];
    const int64_t pitch = call.bands.columns + phase.high[1] - phase.low[1];
    for (const Piece& piece : phase.pieces) {
      const float* from = band + (row + piece.shift[0] - phase.low[0]) * pitch + column + piece.shift[1] - phase.low[1];
      call.kernels.forward[call.bands.shape][piece.rows - 1][piece.columns - 1](
          total, from, pitch, rows * pitch, call.weight + plan.weight_at(group, block, piece, 0),
          call.bias + plan.bias_at(group, block, piece, 0), plan.g.inputs);
    }
    band += plan.g.inputs * rows * pitch;
  }
}

void compute_band(const Call& call, int64_t task, float* band, float* total) {
  const Plan& plan = call.plan;
  const Geometry& g = plan.g;
  const Bands& bands = call.bands;
  const TileShape& shape = call.kernels.shape[bands.shape];
  const int64_t split = task % bands.splits;
  task /= bands.splits;
  const int64_t left = task % bands.across * bands.columns, top = task / bands.across % bands.down * bands.rows;
  const int64_t group = task / (bands.across * bands.down) % g.groups;
  const int64_t image = task / (bands.across * bands.down * g.groups);
  pack_band(call, call.x + image * g.x[0] + group * g.inputs * g.x[1], top, left, band);
  const int64_t bottom = least(g.out[0] - top, bands.rows), right = least(g.out[1] - left, bands.columns);
  for (int64_t block = plan.blocks * split / bands.splits; block < plan.blocks * (split + 1) / bands.splits; ++block) {
    const int64_t first = group * g.outputs + block * plan.lanes, real = plan.real(block);
    for (int64_t row = 0; row < bottom; row += shape.rows) {
      for (int64_t column = 0; column < right; column += shape.columns) {
        for (int64_t i = 0; i < shape.rows * shape.columns * plan.lanes; ++i) {
          const int64_t lane = i % plan.lanes;
          total[i] = call.output_bias && lane < real ? call.output_bias[first + lane] : 0.0f;
        }
        compute_tile(call, band, group, block, row, column, total);
        float* to = call.y + image * g.y[0] + first * g.y[1] + (top + row) * g.y[2] + (left + column) * g.y[3];
        write_tile(call, total, to, least(shape.rows, bottom - row), least(shape.columns, right - column), real);
      }
    }
  }
}

}  // namespace

int forward(const Geometry& geometry, const Kernels& kernels, const float* x, const float* weight, const float* bias,
            const float* output_bias, float* y) {
  const Plan plan(geometry, kernels.lanes);
  const Bands bands = choose_bands(plan, kernels);
  const TileShape& shape = kernels.shape[bands.shape];
  const int threads = int(geometry.threads);
  const int64_t total = shape.rows * shape.columns * plan.lanes;
  const int64_t each = divide_up(bands.floats + total, 16) * 16, weights = divide_up(plan.packed_weights(), 16) * 16;
  Scratch packed(size_t(weights + plan.packed_biases()) * sizeof(float));
  Scratch scratch(size_t(each * threads) * sizeof(float));
  if (!packed || !scratch) return kNoMemory;
  float* packed_bias = packed.as<float>() + weights;
  pack(plan, weight, bias, packed.as<float>(), packed_bias);
  const Call call{plan, kernels, bands, x, packed.as<float>(), packed_bias, output_bias, y};
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    float* mine = scratch.as<float>() + thread * each;
    for (int64_t task = begin; task < end; ++task) compute_band(call, task, mine + total, mine);
  };
  parallel_for_chunks(threads, bands.tasks(geometry), kRangesPerThread * threads, body);
  return kOk;
}

}  // namespace convswap::dendritic
