#include "plan.h"

#include "../../native/csrc/threads.h"

namespace convswap::dendritic {
namespace {

// Runs of at most three taps, as even as they can be: five taps are three and two.
void add_run(std::vector<Run>& runs, Run run) {
  int pieces = int(divide_up(run.count, kMostTaps));
  for (; pieces > 0; --pieces) {
    Run part = run;
    part.count = int(divide_up(run.count, pieces));
    runs.push_back(part);
    run.first += part.count * run.step;
    run.shift += part.count;
    run.count -= part.count;
  }
}

// The runs of one axis; taps that read nothing but padding are in none.
std::vector<Run> runs_of(const Geometry& g, int axis) {
  std::vector<Run> runs;
  const int64_t stride = g.stride[axis];
  for (int64_t phase = 0; phase < stride; ++phase) {
    const int64_t length = phase < g.size[axis] ? divide_up(g.size[axis] - phase, stride) : 0;
    Run run{};
    for (int64_t tap = 0; tap < g.kernel[axis]; ++tap) {
      const int64_t at = tap * g.dilation[axis] - g.before[axis] - phase;
      if (at % stride != 0) continue;
      const int64_t shift = at / stride;
      if (shift >= length || shift + g.out[axis] <= 0) continue;
      if (run.count > 0 && !g.tapwise && shift == run.shift + run.count) {
        if (run.count == 1) run.step = tap - run.first;
        ++run.count;
        continue;
      }
      if (run.count > 0) add_run(runs, run);
      run = Run{phase, tap, 1, shift, 1};
    }
    if (run.count > 0) add_run(runs, run);
  }
  return runs;
}

Piece piece_of(const Geometry& g, const Run& rows, const Run& columns) {
  Piece piece{};
  piece.rows = rows.count;
  piece.columns = columns.count;
  piece.shift[0] = rows.shift;
  piece.shift[1] = columns.shift;
  for (int i = 0; i < rows.count; ++i) {
    for (int j = 0; j < columns.count; ++j) {
      piece.taps[i * columns.count + j] = (rows.first + i * rows.step) * g.kernel[1] + columns.first + j * columns.step;
    }
  }
  return piece;
}

void widen(Phase& phase, const Piece& piece) {
  for (int a = 0; a < 2; ++a) {
    const int64_t low = piece.shift[a], high = low + (a == 0 ? piece.rows : piece.columns) - 1;
    phase.low[a] = phase.pieces.empty() ? low : least(phase.low[a], low);
    phase.high[a] = phase.pieces.empty() ? high : most(phase.high[a], high);
  }
}

}  // namespace

Plan::Plan(const Geometry& geometry, int lane_count)
    : g(geometry), lanes(lane_count), blocks(divide_up(geometry.outputs, lane_count)), weights(0), biases(0) {
  const std::vector<Run> rows = runs_of(g, 0), columns = runs_of(g, 1);
  for (int64_t r = 0; r < least(g.stride[0], g.size[0]); ++r) {
    for (int64_t c = 0; c < least(g.stride[1], g.size[1]); ++c) {
      Phase phase{};
      phase.start[0] = r;
      phase.start[1] = c;
      for (int a = 0; a < 2; ++a) phase.size[a] = divide_up(g.size[a] - phase.start[a], g.stride[a]);
      for (const Run& row : rows) {
        for (const Run& column : columns) {
          if (row.phase != r || column.phase != c) continue;
          Piece piece = piece_of(g, row, column);
          piece.weights = weights;
          piece.biases = g.tapwise ? biases : 0;
          weights += piece.count();
          biases = g.tapwise ? biases + 1 : 1;
          widen(phase, piece);
          phase.pieces.push_back(piece);
        }
      }
      phases.push_back(phase);
    }
  }
}

void pack(const Plan& plan, const float* weight, const float* bias, float* packed_weight, float* packed_bias) {
  const Geometry& g = plan.g;
  const int64_t kernel = g.kernel[0] * g.kernel[1], row = g.inputs * kernel;
  const int64_t bias_row = g.tapwise ? row : g.inputs, bias_step = g.tapwise ? kernel : 1;
  parallel_for(int(g.threads), g.groups * plan.blocks, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / plan.blocks, block = task % plan.blocks, real = plan.real(block);
      const int64_t first = group * g.outputs + block * plan.lanes;
      for (const Phase& phase : plan.phases) {
        for (const Piece& piece : phase.pieces) {
          float* to = packed_weight + plan.weight_at(group, block, piece, 0);
          float* to_bias = packed_bias + plan.bias_at(group, block, piece, 0);
          const float* from_bias = bias + first * bias_row + (g.tapwise ? piece.taps[0] : 0);
          for (int64_t c = 0; c < g.inputs; ++c) {
            for (int t = 0; t < piece.count(); ++t, to += plan.lanes) {
              const float* from = weight + first * row + c * kernel + piece.taps[t];
              for (int64_t lane = 0; lane < plan.lanes; ++lane) to[lane] = lane < real ? from[lane * row] : 0.0f;
            }
            for (int64_t lane = 0; lane < plan.lanes; ++lane) {
              *to_bias++ = lane < real ? from_bias[lane * bias_row + c * bias_step] : 0.0f;
            }
          }
        }
      }
    }
  });
}

}  // namespace convswap::dendritic
