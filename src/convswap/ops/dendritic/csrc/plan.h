// How a call is cut: phases of the input, pieces of the kernel, and the order in which weights are packed.

#pragma once

#include <cstdint>
#include <vector>

#include "dendritic.h"

namespace convswap::dendritic {

// What Python passes: sizes as 64-bit integers in this order. Strides are in elements; padding may be of any size.
struct Geometry {
  int64_t images, groups, inputs, outputs;  // channels of one group
  int64_t size[2], out[2];                  // rows, columns
  int64_t kernel[2], stride[2], before[2], dilation[2];
  int64_t tapwise;     // biases: 0 one per pair of channels, 1 one per tap
  int64_t x[4], y[4];  // strides of the input and its gradient; of the output or its gradient
  int64_t x_gradient[4];
  int64_t threads;
};

// Taps of a phase along one axis whose shifts follow each other: tap `first + i * step` reads phase pixel
// `output + shift + i`.
struct Run {
  int64_t phase, first, step, shift;
  int count;
};

struct Piece {
  int rows, columns;
  int64_t shift[2];
  int64_t weights;                      // where its packed weights begin, in vectors per input channel
  int64_t biases;                       // the same for its packed biases
  int64_t taps[kMostTaps * kMostTaps];  // places in the kernel
  int count() const { return rows * columns; }
};

// The input pixels `start + i * stride`, and the pieces that read them; `low` and `high` bound the taps' shifts.
struct Phase {
  int64_t start[2], size[2], low[2], high[2];
  std::vector<Piece> pieces;
};

struct Plan {
  Geometry g;
  std::vector<Phase> phases;  // all of them, also those that no tap reads
  int64_t lanes, blocks;      // blocks of output channels per group
  int64_t weights, biases;    // packed vectors per input channel of a block

  Plan(const Geometry& geometry, int lanes);
  // Where the packed values of an input channel of a piece begin: [group][block][piece][input][tap][lane].
  int64_t weight_at(int64_t group, int64_t block, const Piece& piece, int64_t input) const {
    return (((group * blocks + block) * weights + piece.weights) * g.inputs + input * piece.count()) * lanes;
  }
  int64_t bias_at(int64_t group, int64_t block, const Piece& piece, int64_t input) const {
    return (((group * blocks + block) * biases + piece.biases) * g.inputs + input) * lanes;
  }
  int64_t packed_weights() const { return g.groups * blocks * weights * g.inputs * lanes; }
  int64_t packed_biases() const { return g.groups * blocks * biases * g.inputs * lanes; }
  // How many channels of a block are real.
  int64_t real(int64_t block) const { return g.outputs - block * lanes < lanes ? g.outputs - block * lanes : lanes; }
};

// (out, inputs, taps) and biases -> packed, with zeros for channels that are not there.
void pack(const Plan& plan, const float* weight, const float* bias, float* packed_weight, float* packed_bias);

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Statuses of "../../native/csrc/api.h". output_bias may be null; so may the gradients that nobody asks for.
int forward(const Geometry& geometry, const Kernels& kernels, const float* x, const float* weight, const float* bias,
            const float* output_bias, float* y);
int backward(const Geometry& geometry, const Kernels& kernels, const float* gradient, const float* x,
             const float* weight, const float* bias, float* dx, float* dw, float* db);

}  // namespace convswap::dendritic
