// What the multiplying paths (AMX, VNNI) share: splitting the work, expanding operands, blocking, epilogues.
//
// Blocking, from the outside in:
//   1. threads: whole images (x groups) if there are enough of them - no barrier at all; otherwise panels of 32
//   outputs,
//      and, with fewer panels than threads, parts of the image (then the planes are filled by all threads first).
//   2. images, as many as planes fit into `kPlaneBudget` (half of an L2): a panel of weights is used for all of them.
//   3. a panel of 32 outputs.
//   4. `kSuperRows` positions, whose sums (32 KiB of int32) wait in L2 while
//   5. chunks of steps go by: Kernel::chunk says how many steps of weights should stay in L1 (all, if they fit).
//      Weights that come as bits are expanded here, a chunk at a time, just before they are used.
//   6. a block of Kernel::kRows positions x 32 outputs in registers, over the chunk's steps. After the last chunk the
//   block
//      goes through the epilogue at once, out of L1.
//
// A Kernel gives
//   static constexpr int64_t kRows;                          positions of a block, a divisor of kSuperRows or not
//   static constexpr Values kValues;                         what the plane holds for bits and padding
//   static constexpr int64_t chunk(int64_t steps);          steps of a chunk
//   static void begin(); static void end();                 once for each thread and task (tile configuration)
//   static void prepare(panel, steps, tiles, int32_t* start)  fill start[32] for the blocks of a panel (only for
//   kernels
//                                                           whose chunk is always the whole panel)
//   static void block(const Block&);                        the innermost loop
#pragma once

#if defined(__x86_64__)

#include "../../native/csrc/threads.h"
#include "int8_operands.h"

namespace convswap::binary {

constexpr int64_t kSuperRows = 256;
constexpr int64_t kPlaneBudget = 512 * 1024;
constexpr int64_t kLargestPlane = int64_t(1) << 30;  // of one image; larger ones are left to other paths

struct Block {
  const int8_t* plane;     // at the block's first position
  int64_t position_bytes;  // from one position to the next
  const int64_t* offset;   // of each step
  int64_t steps;           // of this chunk
  const int8_t* panel;     // at the chunk's first step
  int64_t tiles;           // 16-output tiles of the panel: 1 or 2
  int64_t rows;            // positions wanted; computing more is allowed (kSparePositions)
  bool resume;             // add to the sums of the chunks before
  int32_t* sums;           // [rows][32]
  const int32_t* start;    // [32] what Kernel::prepare made of the panel
};

// ---------------------------------------------------------------------------------------------------------- epilogue

// The channel parameters of a panel, in registers for all its positions.
struct PanelParameters {
  __m512 scale[2], bias[2];
  __m512i threshold[2];
  __mmask16 flip[2], written[2];
};

inline void CONVSWAP_AVX512 load_parameters(const Job& job, int64_t group, int64_t panel, PanelParameters& p) {
  const Geometry& g = job.g;
  for (int64_t t = 0; t < 2; ++t) {
    const int64_t left = g.o - panel * kPanelOutputs - t * 16;
    p.written[t] = __mmask16(left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0);
    const int64_t at = group * g.blocks() * 8 + panel * kPanelOutputs + t * 16;
    if (job.out) {
      p.scale[t] = _mm512_maskz_loadu_ps(p.written[t], job.scale + at);
      p.bias[t] = _mm512_maskz_loadu_ps(p.written[t], job.bias + at);
    } else {
      p.threshold[t] = _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT32_MAX), p.written[t], job.threshold + at);
      p.flip[t] = _mm_test_epi8_mask(_mm_maskz_loadu_epi8(p.written[t], job.flip + at), _mm_set1_epi8(1));
    }
  }
}

inline void CONVSWAP_AVX512 finish_float(const Job& job, const PanelParameters& p, const int32_t* sums, int64_t tiles,
                                         int64_t pixel, float* out) {
  for (int64_t t = 0; t < tiles; ++t) {
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums + t * 16)), p.scale[t]);
    if (job.map) y = _mm512_mul_ps(y, _mm512_set1_ps(job.map[pixel]));
    y = _mm512_add_ps(y, p.bias[t]);
    if (job.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // in this order NaN and -0 stay what they are
    _mm512_mask_storeu_ps(out + t * 16, p.written[t], y);
  }
}

inline void CONVSWAP_AVX512 finish_bits(const PanelParameters& p, const int32_t* sums, int64_t tiles, int64_t bytes,
                                        uint8_t* out) {
  uint32_t bits = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const __mmask16 over = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(sums + t * 16), p.threshold[t]);
    bits |= uint32_t(__mmask16((over ^ p.flip[t]) & p.written[t])) << (16 * t);
  }
  std::memcpy(out, &bits, size_t(bytes));
}

// Positions [first, first + rows) of a plane; those between two output rows are left out.
inline void CONVSWAP_AVX512 finish_block(const Job& job, const PlaneShape& shape, const PanelParameters& p,
                                         const int32_t* sums, int64_t image, int64_t group, int64_t panel,
                                         int64_t first, int64_t rows) {
  const Geometry& g = job.g;
  const int64_t tiles = tiles_of(g, panel), blocks_left = g.blocks() - panel * 4;
  const int64_t bytes = blocks_left < 4 ? blocks_left : 4;
  int64_t y = first / shape.pitch, x = first % shape.pitch;
  for (int64_t row = 0; row < rows; ++row, sums += kPanelOutputs) {
    if (x < g.ow) {
      const int64_t pixel = (image * g.oh + y) * g.ow + x;
      if (job.out)
        finish_float(job, p, sums, tiles, pixel, job.out + (pixel * g.groups + group) * g.o + panel * kPanelOutputs);
      else
        finish_bits(p, sums, tiles, bytes, job.out_bits + pixel * job.out_pitch + group * g.blocks() + panel * 4);
    }
    if (++x == shape.pitch) {
      x = 0;
      ++y;
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- plan

template <class Kernel>
struct Int8Path {
  // How the job is split and where in the scratch memory everything lies.
  struct Plan {
    PlaneShape shape;
    int64_t sheets;  // images x groups
    int64_t blocks;  // of Kernel::kRows positions, in one image
    int64_t chunk;   // steps
    bool by_sheet;   // threads take whole images; else panels of all images together
    int64_t images;  // whose planes are held at a time (by one thread, or by all together)
    int64_t offsets_at, planes_at, plane_bytes, own_at, own_bytes, sums_bytes, total;

    explicit Plan(const Job& job) : shape(job.g) {
      const Geometry& g = job.g;
      const int64_t threads = job.threads > 0 ? job.threads : 1;
      sheets = g.n * g.groups;
      by_sheet = sheets % threads == 0 || sheets >= 4 * threads;
      blocks = (shape.positions + Kernel::kRows - 1) / Kernel::kRows;
      chunk = Kernel::chunk(shape.steps);
      plane_bytes = align64(shape.bytes);
      const int64_t fit = kPlaneBudget / plane_bytes;
      images = fit < 1 ? 1 : fit < g.n ? fit : g.n;
      if (!by_sheet) images = g.n;
      offsets_at = 0;
      planes_at = align64(shape.steps * int64_t(sizeof(int64_t)));
      own_at = planes_at + (by_sheet ? threads : 1) * images * plane_bytes;
      sums_bytes = (kSuperRows + Kernel::kRows) * kPanelOutputs * int64_t(sizeof(int32_t));
      own_bytes = align64(sums_bytes) + (job.panels ? 0 : chunk * 2 * kTileBytes);
      total = own_at + threads * own_bytes;
    }
  };

  // One panel for blocks [begin, end) of the images held, numbered image by image.
  static void run_panel(const Job& job, const Plan& plan, const int64_t* offsets, const int8_t* planes,
                        int64_t first_image, int64_t group, int64_t panel, int64_t begin, int64_t end, int8_t* own) {
    const Geometry& g = job.g;
    const PlaneShape& shape = plan.shape;
    const int64_t tiles = tiles_of(g, panel), at_once = kSuperRows / Kernel::kRows;
    int32_t* const sums = reinterpret_cast<int32_t*>(own);
    int8_t* const expanded = own + align64(plan.sums_bytes);
    const uint64_t* const weight = weight_block(job, group, 0);
    const int8_t* const ready =
        job.panels ? static_cast<const int8_t*>(job.panels) + panel_offset(g, group, panel) : nullptr;
    alignas(64) int32_t start[kPanelOutputs];
    PanelParameters parameters;
    load_parameters(job, group, panel, parameters);
    const bool once = !ready && plan.chunk >= shape.steps;  // the whole panel fits: expanded for all blocks together
    if (once) expand_panel(g, weight, panel, 0, shape.steps, expanded);
    if (once || ready) Kernel::prepare(ready ? ready : expanded, shape.steps, tiles, start);
    for (int64_t super = begin; super < end; super += at_once) {
      const int64_t super_end = super + at_once < end ? super + at_once : end;
      for (int64_t step = 0; step < shape.steps; step += plan.chunk) {
        const int64_t stop = step + plan.chunk < shape.steps ? step + plan.chunk : shape.steps;
        if (!ready && !once) expand_panel(g, weight, panel, step, stop, expanded);
        for (int64_t number = super; number < super_end; ++number) {
          const int64_t image = number / plan.blocks, position = number % plan.blocks * Kernel::kRows;
          const int64_t left = shape.positions - position;
          Block block;
          block.plane = planes + image * plan.plane_bytes + position * shape.position_bytes;
          block.position_bytes = shape.position_bytes;
          block.offset = offsets + step;
          block.steps = stop - step;
          block.panel = ready ? ready + step * tiles * kTileBytes : expanded;
          block.tiles = tiles;
          block.rows = left < Kernel::kRows ? left : Kernel::kRows;
          block.resume = step > 0;
          block.sums = sums + (number - super) * Kernel::kRows * kPanelOutputs;
          block.start = start;
          Kernel::block(block);
          if (stop == shape.steps)
            finish_block(job, shape, parameters, block.sums, first_image + image, group, panel, position, block.rows);
        }
      }
    }
  }

  static void run_by_sheet(const Job& job, const Plan& plan, int8_t* scratch) {
    const Geometry& g = job.g;
    const int64_t* const offsets = reinterpret_cast<const int64_t*>(scratch + plan.offsets_at);
    const int threads = job.threads > 0 ? job.threads : 1;
    parallel_for(threads, plan.sheets, [&](int64_t begin, int64_t end, int thread) {
      int8_t* const planes = scratch + plan.planes_at + thread * plan.images * plan.plane_bytes;
      int8_t* const own = scratch + plan.own_at + thread * plan.own_bytes;
      Kernel::begin();
      for (int64_t sheet = begin; sheet < end;) {  // sheets are numbered [group][image]
        const int64_t group = sheet / g.n, image = sheet % g.n;
        int64_t count = g.n - image < end - sheet ? g.n - image : end - sheet;
        if (count > plan.images) count = plan.images;
        for (int64_t i = 0; i < count; ++i) {
          int8_t* const plane = planes + i * plan.plane_bytes;
          for (int64_t row = 0; row < plan.shape.fill_rows; ++row)
            fill_plane_row(g, plan.shape, job.x, image + i, group, row, Kernel::kValues, plane);
          fill_plane_end(g, plan.shape, Kernel::kValues, plane);
        }
        for (int64_t panel = 0; panel < panels_of(g); ++panel)
          run_panel(job, plan, offsets, planes, image, group, panel, 0, count * plan.blocks, own);
        sheet += count;
      }
      Kernel::end();
    });
  }

  static void run_by_panel(const Job& job, const Plan& plan, int8_t* scratch) {
    const Geometry& g = job.g;
    const int64_t* const offsets = reinterpret_cast<const int64_t*>(scratch + plan.offsets_at);
    int8_t* const planes = scratch + plan.planes_at;
    const int64_t rows = plan.shape.fill_rows, panels = panels_of(g), blocks = g.n * plan.blocks;
    // Parts of the positions: as few as give every thread the same number of (panel, part) pairs, nearly.
    int64_t parts = 1;
    while (parts * panels % job.threads != 0 && parts * panels < 4 * job.threads && parts < blocks) ++parts;
    for (int64_t group = 0; group < g.groups; ++group) {
      parallel_for(job.threads, g.n * rows, [&](int64_t begin, int64_t end, int) {
        for (int64_t at = begin; at < end; ++at) {
          int8_t* const plane = planes + at / rows * plan.plane_bytes;
          fill_plane_row(g, plan.shape, job.x, at / rows, group, at % rows, Kernel::kValues, plane);
          if (at % rows == rows - 1) fill_plane_end(g, plan.shape, Kernel::kValues, plane);
        }
      });
      parallel_for(job.threads, panels * parts, [&](int64_t begin, int64_t end, int thread) {
        int8_t* const own = scratch + plan.own_at + thread * plan.own_bytes;
        Kernel::begin();
        for (int64_t task = begin; task < end; ++task) {
          const int64_t part = task % parts;
          run_panel(job, plan, offsets, planes, 0, group, task / parts, blocks * part / parts,
                    blocks * (part + 1) / parts, own);
        }
        Kernel::end();
      });
    }
  }

  // ------------------------------------------------------------------------------------ the functions of a Path

  static size_t scratch_bytes(const Job& job) { return size_t(Plan(job).total); }

  static int run(const Job& job) {
    const Plan plan(job);
    int8_t* const scratch = static_cast<int8_t*>(job.scratch);
    plan.shape.offsets(job.g, reinterpret_cast<int64_t*>(scratch + plan.offsets_at));
    if (plan.by_sheet)
      run_by_sheet(job, plan, scratch);
    else
      run_by_panel(job, plan, scratch);
    return kOk;
  }

  // Every place of the padded image becomes words * 64 bytes. A large padding, dilation or stride around a small image
  // is cheap for the paths that visit taps inside the image only. In double, as the product may leave int64.
  static const char* refuses(const Geometry& g) {
    const double rows = double(g.oh) * double(g.sh) + double(g.kh) * double(g.dh);
    const double columns = double(g.ow) * double(g.sw) + double(g.kw) * double(g.dw);
    return rows * columns * double(g.words() * kStepBytes) > double(kLargestPlane)
               ? "the padded image is too large to be expanded to bytes"
               : nullptr;
  }

  static size_t panel_bytes(const Geometry& g) { return size_t(g.groups * group_panel_bytes(g)); }

  static void expand(const Geometry& g, const uint64_t* weight, void* panels, int threads) {
    const int64_t steps = g.kh * g.kw * g.words(), count = panels_of(g);
    parallel_for(threads, g.groups * count, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t group = at / count, panel = at % count;
        expand_panel(g, weight + group * g.blocks() * steps * 8, panel, 0, steps,
                     static_cast<int8_t*>(panels) + panel_offset(g, group, panel));
      }
    });
  }
};

}  // namespace convswap::binary

#endif
