// Binary convolution: what every path (portable, vpopcntdq, vnni, avx2, amx, neon) is given and must do.
//
// Bits. Bit 1 = +1 (value >= threshold), bit 0 = -1. 64 channels a word, channel c is bit c % 64 of word c / 64
// (little-endian machines only: the bytes of a word are its channels in order). The pad bits of a group's last word are
// 0 in both operands, so they never differ and add nothing to popcount(x ^ w); kernels that expand bits to numbers give
// the pad bits of the *weight* the value 0.
//
// Activations  x        uint64 [n][h][w][groups][words]                  words = ceil(c / 64), c = channels of a group
// Weights      weight   uint64 [groups][blocks][kh][kw][words][8]        blocks = ceil(o / 8), o = outputs of a group
//                       the last index is the output within its block of 8; outputs beyond o are words of 0
// Channel parameters (scale, bias, threshold, flip)   [groups][blocks][8], readable for outputs beyond o:
//                       there scale = bias = 0, threshold = INT32_MAX, flip = 0. None is null where its epilogue needs
//                       it.
// Map          map      float [n][oh][ow] or null: one more factor for each pixel (the K of XNOR-Net)
// No pointer is aligned beyond its element (8 or 4 bytes): load unaligned.
//
// The sum over the taps inside the image, exact in int32:
//     dot = sum over taps inside, c of x * w = c * taps_inside - 2 * popcount(x ^ w)
// Padding contributes 0: read no activation outside the image, or take back what it added.
//
// Float epilogue (Job::out):     y = float(dot) * scale;  if (map) y = y * map[pixel];  y = y + bias;  if (relu) y =
// max(y, 0)
//     each step rounded to float (no fused multiply-add: built with -ffp-contract=off), NaN stays NaN under relu.
//     out: float [n][oh][ow][groups * o]: outputs beyond o must not be written (the next pixel lies there).
// Sign epilogue (Job::out_bits): bit = (dot >= threshold) ^ flip
//     out_bits: [n][oh][ow][out_pitch bytes]; the byte of block b of group g is at g * blocks + b (o % 8 == 0 when
//     groups > 1, the dispatcher sees to that). Write whole bytes, each by one thread; the rows' last bytes beyond
//     groups * blocks are zeroed by the dispatcher before. Threshold INT32_MAX makes the bits beyond o come out as 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../native/csrc/api.h"

namespace convswap::binary {

// Filled by Python (ctypes), immutable, shared by threads. Sizes are positive, pads may be anything >= 0.
struct Geometry {
  int64_t n, h, w;            // images, rows and columns of the input
  int64_t groups, c, o;       // groups; input and output channels OF ONE GROUP
  int64_t kh, kw;             // kernel
  int64_t sh, sw, dh, dw;     // stride, dilation
  int64_t pad_top, pad_left;  // zeros before; those after follow from oh and ow
  int64_t oh, ow;             // rows and columns of the output

  int64_t words() const { return (c + 63) / 64; }
  int64_t blocks() const { return (o + 7) / 8; }
  int64_t pixels() const { return n * oh * ow; }
};

struct Job {
  Geometry g;
  const uint64_t* x;
  const uint64_t* weight;
  const float* scale;
  const float* bias;
  const float* map;
  const int32_t* threshold;
  const uint8_t* flip;  // 0 or 1
  float* out;           // exactly one of out and out_bits is set
  uint8_t* out_bits;
  int64_t out_pitch;  // bytes of a pixel in out_bits
  bool relu;
  int threads;         // give this to parallel_for
  const void* panels;  // this path's expansion of the weights (see Path::expand), or null: expand per call
  void* scratch;       // Path::scratch_bytes(job), 64-byte aligned, uninitialised, owned by the calling thread
};

// One way to compute a Job. A path defines one `extern const Path kNamePath;` in its own file (plain data: no static
// constructors), under its architecture's #if; dispatch.cpp lists them best first.
struct Path {
  const char* name;                         // "amx", "vpopcntdq", "vnni", "avx2", "neon", "portable"
  bool (*available)();                      // CPU and operating system can run it (cached; cpu.h)
  const char* (*refuses)(const Geometry&);  // why this geometry is not taken, or null
  size_t (*scratch_bytes)(const Job&);      // for all threads together; a thread takes its own slice
  int (*run)(const Job&);                   // a Status; splits the work with parallel_for
  size_t (*panel_bytes)(const Geometry&);   // size of the expanded weights; may be null: none
  void (*expand)(const Geometry&, const uint64_t* weight, void* panels, int threads);  // 64-byte aligned target
  int layout;  // version of the panels' layout, stored before them
};

// The taps k of one axis that lie inside the image for output `at`: [first, last). Empty when last <= first.
struct Taps {
  int64_t first, last;
};

inline Taps taps_inside(int64_t at, int64_t stride, int64_t pad, int64_t dilation, int64_t kernel, int64_t size) {
  const int64_t start = at * stride - pad;  // the input position of tap 0
  int64_t first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  int64_t last = start >= size ? 0 : (size - 1 - start) / dilation + 1;
  if (last > kernel) last = kernel;
  if (first > last) first = last;
  return {first, last};
}

inline const uint64_t* weight_block(const Job& job, int64_t group, int64_t block) {
  const Geometry& g = job.g;
  return job.weight + (group * g.blocks() + block) * g.kh * g.kw * g.words() * 8;
}

// The epilogue of one block of 8 outputs at one pixel (pixel = (n * oh + oy) * ow + ox), for paths or tails without
// their own vector form.
inline void emit(const Job& job, int64_t pixel, int64_t group, int64_t block, const int32_t dots[8]) {
  const Geometry& g = job.g;
  const int64_t at = (group * g.blocks() + block) * 8;
  if (job.out_bits) {
    unsigned byte = 0;
    for (int i = 0; i < 8; ++i) byte |= (unsigned(dots[i] >= job.threshold[at + i]) ^ unsigned(job.flip[at + i])) << i;
    job.out_bits[pixel * job.out_pitch + group * g.blocks() + block] = uint8_t(byte);
    return;
  }
  float* out = job.out + pixel * g.groups * g.o + group * g.o + block * 8;
  const int64_t left = g.o - block * 8;
  for (int i = 0; i < 8 && i < left; ++i) {
    float y = float(dots[i]) * job.scale[at + i];
    if (job.map) y = y * job.map[pixel];
    y = y + job.bias[at + i];
    out[i] = job.relu && y < 0 ? 0.0f : y;
  }
}

#if defined(__x86_64__)
extern const Path kAmxPath, kVpopcntdqPath, kVnniPath, kAvx2Path;
#endif
#if defined(__aarch64__)
extern const Path kNeonPath;
#endif
extern const Path kPortablePath;

}  // namespace convswap::binary
