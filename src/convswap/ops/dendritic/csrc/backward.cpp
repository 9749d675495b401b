// The backward pass: nothing was kept but the input; the activations are formed again, in registers.
//
// Tasks are (part of the images, group, part of its input channels). A task owns its part of the input's gradient, and
// its part of one copy of the gradients of weight and biases; the copies, one per part of the images, are added at the
// end. What comes out is the same every time for the same number of threads.

#include <cstring>

#include "../../native/csrc/api.h"
#include "../../native/csrc/threads.h"
#include "plan.h"

namespace convswap::dendritic {
namespace {

constexpr int64_t kTilePixels = 128, kWidest = 48;  // a tile's slopes and gradients stay in the first cache, nearly
constexpr int64_t kMostChannels = 64, kFewestChannels = 8;
constexpr int64_t kSmallCopies = 256 << 10;  // floats in copies of the gradients that nobody misses

struct Parts {
  int64_t images, channels;   // how many
  int64_t most_channels;      // of one part
  int64_t pixels, gradients;  // floats of a tile's pixels per channel and of its gathered gradients, at most
};

struct Tiles {
  int64_t rows, columns;
};

Tiles tiles_of(const Phase& phase) {
  Tiles tiles{};
  tiles.columns = divide_up(phase.size[1], divide_up(phase.size[1], kWidest));
  tiles.rows = least(phase.size[0], most(1, kTilePixels / tiles.columns));
  return tiles;
}

Parts choose_parts(const Plan& plan) {
  const Geometry& g = plan.g;
  Parts parts{};
  const int64_t copy = plan.packed_weights() + plan.packed_biases();
  const int64_t map = g.images * g.groups * g.inputs * g.size[0] * g.size[1];
  parts.channels = divide_up(g.inputs, kMostChannels);
  if (g.threads * copy > most(kSmallCopies, map / 8)) {  // copies are dear: cut the channels instead
    const int64_t wanted = most(parts.channels, divide_up(g.threads, g.groups));
    parts.channels = least(divide_up(g.inputs, kFewestChannels), wanted);
  }
  parts.most_channels = divide_up(g.inputs, parts.channels);
  parts.channels = divide_up(g.inputs, parts.most_channels);
  parts.images = least(g.images, divide_up(g.threads, g.groups * parts.channels));
  for (const Phase& phase : plan.phases) {
    const Tiles tiles = tiles_of(phase);
    const int64_t rows = tiles.rows + phase.high[0] - phase.low[0];
    const int64_t columns = tiles.columns + phase.high[1] - phase.low[1];
    parts.pixels = most(parts.pixels, divide_up(tiles.rows * tiles.columns, plan.lanes) * plan.lanes);
    parts.gradients = most(parts.gradients, rows * columns * plan.lanes);
  }
  return parts;
}

struct Call {
  const Plan& plan;
  const Kernels& kernels;
  const Parts& parts;
  const float *gradient, *x, *weight, *bias;  // weight and bias are packed
  float* dx;                                  // may be null
  bool weights, inputs;                       // which gradients are wanted
  float *dw, *db;                             // packed copies
};

struct Buffers {
  float *x, *dx, *gradients, *slopes;
};

// A task's place: channels [first, last) of one group of one image.
struct Place {
  int64_t image, group, first, last, copy;
};

// Output channels of a block at output pixels [top, top + rows) x [left, left + columns), 0 outside.
void gather(const Call& call, const Place& place, int64_t block, int64_t top, int64_t left, int64_t rows,
            int64_t columns, float* to) {
  const Geometry& g = call.plan.g;
  const int64_t lanes = call.plan.lanes, real = call.plan.real(block);
  const int64_t begin = least(columns, most(0, -left)), end = most(begin, least(columns, g.out[1] - left));
  const float* image = call.gradient + place.image * g.y[0] + (place.group * g.outputs + block * lanes) * g.y[1];
  for (int64_t r = 0; r < rows; ++r, to += columns * lanes) {
    const bool inside = top + r >= 0 && top + r < g.out[0];
    if (!inside || begin > 0 || end < columns || real < lanes) {
      std::memset(to, 0, size_t(columns * lanes) * sizeof(float));
    }
    if (!inside) continue;
    const float* line = image + (top + r) * g.y[2] + left * g.y[3];
    if (g.y[1] == 1) {
      for (int64_t q = begin; q < end; ++q) {
        std::memcpy(to + q * lanes, line + q * g.y[3], size_t(real) * sizeof(float));
      }
      continue;
    }
    for (int64_t o = 0; o < real; ++o) {
      for (int64_t q = begin; q < end; ++q) to[q * lanes + o] = line[o * g.y[1] + q * g.y[3]];
    }
  }
}

void compute_block(const Call& call, const Place& place, const Phase& phase, int64_t block, BackwardTile tile,
                   int64_t columns, const Buffers& buffers) {
  const Plan& plan = call.plan;
  const int64_t weights = place.copy * plan.packed_weights(), biases = place.copy * plan.packed_biases();
  for (const Piece& piece : phase.pieces) {
    const auto& table = !call.weights ? call.kernels.inputs : !call.inputs ? call.kernels.weights : call.kernels.both;
    const Backward kernel = table[piece.rows - 1][piece.columns - 1];
    const int64_t row = phase.high[0] - piece.shift[0] - piece.rows + 1;
    const int64_t column = phase.high[1] - piece.shift[1] - piece.columns + 1;
    tile.gradient = buffers.gradients + (row * columns + column) * plan.lanes;
    for (int64_t c = place.first; c < place.last; ++c) {
      const int64_t weight = plan.weight_at(place.group, block, piece, c);
      const int64_t bias = plan.bias_at(place.group, block, piece, c);
      tile.x = buffers.x + (c - place.first) * call.parts.pixels;
      tile.x_gradient = buffers.dx + (c - place.first) * call.parts.pixels;
      tile.weight = call.weight + weight;
      tile.bias = call.bias + bias;
      tile.weight_gradient = call.dw + weights + weight;
      tile.bias_gradient = call.db + biases + bias;
      kernel(tile);
    }
  }
}

// Pixels of a tile, for every channel, from the input (`to`) or into its gradient.
template <class Move>
void each_pixel(const Call& call, const Place& place, const Phase& phase, const int64_t* strides, int64_t top,
                int64_t left, int64_t rows, int64_t columns, const Move& move) {
  const Geometry& g = call.plan.g;
  const int64_t across = strides[3] * g.stride[1];
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t line = place.image * strides[0] + (phase.start[0] + (top + r) * g.stride[0]) * strides[2] +
                         (phase.start[1] + left * g.stride[1]) * strides[3];
    for (int64_t c = place.first; c < place.last; ++c) {
      const int64_t at = line + (place.group * g.inputs + c) * strides[1];
      const int64_t held = (c - place.first) * call.parts.pixels + r * columns;
      for (int64_t q = 0; q < columns; ++q) move(held + q, at + q * across);
    }
  }
}

void compute_tile(const Call& call, const Place& place, const Phase& phase, int64_t top, int64_t left, int64_t rows,
                  int64_t columns, const Buffers& buffers) {
  const Plan& plan = call.plan;
  if (call.inputs) {
    std::memset(buffers.dx, 0, size_t((place.last - place.first) * call.parts.pixels) * sizeof(float));
  }
  if (!phase.pieces.empty()) {
    each_pixel(call, place, phase, plan.g.x, top, left, rows, columns,
               [&](int64_t held, int64_t at) { buffers.x[held] = call.x[at]; });
    const int64_t high = rows + phase.high[0] - phase.low[0], wide = columns + phase.high[1] - phase.low[1];
    BackwardTile tile{};
    tile.pitch = wide;
    tile.rows = rows;
    tile.columns = columns;
    tile.slopes = buffers.slopes;
    for (int64_t block = 0; block < plan.blocks; ++block) {
      gather(call, place, block, top - phase.high[0], left - phase.high[1], high, wide, buffers.gradients);
      compute_block(call, place, phase, block, tile, wide, buffers);
    }
  }
  if (call.dx) {
    each_pixel(call, place, phase, plan.g.x_gradient, top, left, rows, columns,
               [&](int64_t held, int64_t at) { call.dx[at] = buffers.dx[held]; });
  }
}

void compute_part(const Call& call, int64_t task, const Buffers& buffers) {
  const Geometry& g = call.plan.g;
  Place place{};
  place.first = task % call.parts.channels * call.parts.most_channels;
  place.last = least(g.inputs, place.first + call.parts.most_channels);
  place.group = task / call.parts.channels % g.groups;
  place.copy = task / (call.parts.channels * g.groups);
  const int64_t last = g.images * (place.copy + 1) / call.parts.images;
  for (place.image = g.images * place.copy / call.parts.images; place.image < last; ++place.image) {
    for (const Phase& phase : call.plan.phases) {
      const Tiles tiles = tiles_of(phase);
      for (int64_t top = 0; top < phase.size[0]; top += tiles.rows) {
        for (int64_t left = 0; left < phase.size[1]; left += tiles.columns) {
          compute_tile(call, place, phase, top, left, least(tiles.rows, phase.size[0] - top),
                       least(tiles.columns, phase.size[1] - left), buffers);
        }
      }
    }
  }
}

// The copies' sum to (out, inputs, taps); what no piece reads stays as it is. Biases per pair have one packed piece.
void unpack(const Call& call, float* dw, float* db) {
  const Plan& plan = call.plan;
  const Geometry& g = plan.g;
  const int64_t kernel = g.kernel[0] * g.kernel[1], row = g.inputs * kernel;
  const int64_t bias_row = g.tapwise ? row : g.inputs, bias_step = g.tapwise ? kernel : 1;
  const int64_t weights = plan.packed_weights(), biases = plan.packed_biases();
  parallel_for(int(g.threads), g.groups * g.outputs, [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin; o < end; ++o) {
      const int64_t group = o / g.outputs, block = o % g.outputs / plan.lanes, lane = o % g.outputs % plan.lanes;
      for (const Phase& phase : plan.phases) {
        for (const Piece& piece : phase.pieces) {
          for (int64_t c = 0; c < g.inputs; ++c) {
            for (int t = 0; dw && t < piece.count(); ++t) {
              const float* from = call.dw + plan.weight_at(group, block, piece, c) + t * plan.lanes + lane;
              float sum = 0.0f;
              for (int64_t copy = 0; copy < call.parts.images; ++copy) sum += from[copy * weights];
              dw[o * row + c * kernel + piece.taps[t]] = sum;
            }
            if (!db) continue;
            const float* from = call.db + plan.bias_at(group, block, piece, c) + lane;
            float sum = 0.0f;
            for (int64_t copy = 0; copy < call.parts.images; ++copy) sum += from[copy * biases];
            db[o * bias_row + c * bias_step + (g.tapwise ? piece.taps[0] : 0)] = sum;
          }
        }
      }
    }
  });
}

}  // namespace

int backward(const Geometry& geometry, const Kernels& kernels, const float* gradient, const float* x,
             const float* weight, const float* bias, float* dx, float* dw, float* db) {
  const Plan plan(geometry, kernels.lanes);
  const Parts parts = choose_parts(plan);
  const int threads = int(geometry.threads);
  const int64_t weights = plan.packed_weights(), biases = plan.packed_biases(), copies = most(1, parts.images) + 1;
  const int64_t channels = divide_up(parts.most_channels * parts.pixels, 16) * 16;
  const int64_t slopes = parts.pixels * plan.lanes, gradients = divide_up(parts.gradients, 16) * 16;
  const int64_t each = 2 * channels + divide_up(slopes, 16) * 16 + gradients;
  Scratch packed(size_t(copies * (weights + biases)) * sizeof(float));
  Scratch scratch(size_t(each * threads) * sizeof(float));
  if (!packed || !scratch) return kNoMemory;
  float* packed_bias = packed.as<float>() + copies * weights;
  pack(plan, weight, bias, packed.as<float>(), packed_bias);
  std::memset(packed.as<float>() + weights, 0, size_t((copies - 1) * weights) * sizeof(float));
  std::memset(packed_bias + biases, 0, size_t((copies - 1) * biases) * sizeof(float));
  std::memset(scratch.as<float>(), 0, size_t(each * threads) * sizeof(float));
  Call call{plan,
            kernels,
            parts,
            gradient,
            x,
            packed.as<float>(),
            packed_bias,
            dx,
            dw != nullptr,
            dx || db,
            packed.as<float>() + weights,
            packed_bias + biases};
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    float* mine = scratch.as<float>() + thread * each;
    const Buffers buffers{mine, mine + channels, mine + 2 * channels, mine + 2 * channels + gradients};
    for (int64_t task = begin; task < end; ++task) compute_part(call, task, buffers);
  };
  parallel_for_chunks(threads, parts.images * geometry.groups * parts.channels, 4 * threads, body);
  unpack(call, dw, db);
  return kOk;
}

}  // namespace convswap::dendritic
