// What the dendritic convolution's driver and its vector kernels agree on.
//
//   out[n, o, p] = sum_c sum_t weight[o, c, t] relu(x[n, c, s p + d t - pad] + bias[o, c(, t)]) + output_bias[o]
//
// A vector holds output channels ("lanes"). The input pixels that are `stride` apart form a phase; within a phase a
// convolution has stride 1. A piece is a rectangle of at most 3 x 3 taps of one phase whose shifts follow each other:
// each activation is formed once per piece, in a register, and used for all of its taps.

#pragma once

#include <cstdint>

namespace convswap::dendritic {

constexpr int kMostTaps = 3;  // of a piece, along one axis
constexpr int kMostShapes = 4;

// A forward tile: `total` is (tile rows, tile columns, lanes) and is added to; x points at the phase's pixel under the
// piece's first tap of the first output pixel. weight is (inputs, taps, lanes), bias (inputs, lanes).
using ForwardTile = void (*)(float* total, const float* x, int64_t row, int64_t channel, const float* weight,
                             const float* bias, int64_t inputs);

struct TileShape {
  int rows, columns;
};

// One input channel of one tile of a phase, against one block of output channels.
struct BackwardTile {
  const float* gradient;   // (.., pitch, lanes): of the output pixel that the last tap of the first pixel serves
  int64_t pitch;           // output pixels from row to row
  int64_t rows, columns;   // pixels of the tile
  const float* x;          // rows * columns pixels
  const float* weight;     // (taps, lanes)
  const float* bias;       // (lanes)
  float* weight_gradient;  // (taps, lanes), added to
  float* bias_gradient;    // (lanes), added to
  float* x_gradient;       // rows * columns pixels, rounded up to whole vectors, added to
  float* slopes;           // scratch: (rows * columns, rounded up to whole vectors, lanes)
};
using Backward = void (*)(const BackwardTile& tile);

struct Kernels {
  int lanes;
  int shapes;
  TileShape shape[kMostShapes];
  ForwardTile forward[kMostShapes][kMostTaps][kMostTaps];  // by shape, tap rows - 1, tap columns - 1
  Backward both[kMostTaps][kMostTaps];                     // gradients of everything
  Backward inputs[kMostTaps][kMostTaps];                   // of x and bias alone
  Backward weights[kMostTaps][kMostTaps];                  // of the weight alone
};

// Plain data, so that nothing of a path runs before its processor was checked. Null where the architecture is another.
extern const Kernels* const kAvx512Kernels;
extern const Kernels* const kAvx2Kernels;
extern const Kernels* const kPortableKernels;

}  // namespace convswap::dendritic
