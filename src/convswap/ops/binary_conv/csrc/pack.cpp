// Numbers to bits: bit = (x >= threshold) ^ flip, 64 channels a word, for any strides. NaN compares false.
#include "binary_conv.h"

#include <cstring>

#include "../../native/csrc/api.h"
#include "../../native/csrc/cpu.h"
#include "../../native/csrc/threads.h"
#include "pack.h"

namespace convswap::binary {
namespace {

float number(const float* at) { return *at; }

double number(const double* at) { return *at; }

float number(const uint16_t* at) {  // bfloat16: the upper half of a float
  const uint32_t bits = uint32_t(*at) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Pixels [begin, end) of one row, any strides.
template <class T, class Threshold>
void pack_plainly(const Pack& pack, const T* row, const Threshold* threshold, int64_t begin, int64_t end,
                  uint64_t* out) {
  const int64_t words = (pack.c + 63) / 64;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t group = 0; group < pack.groups; ++group) {
      for (int64_t word = 0; word < words; ++word) {
        const int64_t left = pack.c - word * 64, count = left < 64 ? left : 64;
        const int64_t first = group * pack.c + word * 64;
        const T* x = row + pixel * pack.stride_w + first * pack.stride_c;
        uint64_t bits = 0;
        for (int64_t i = 0; i < count; ++i) {
          const bool above = number(x + i * pack.stride_c) >= (threshold ? threshold[first + i] : Threshold(0));
          bits |= uint64_t(above) << i;
        }
        const int64_t at = group * words + word;
        out[pixel * pack.groups * words + at] = pack.flips ? bits ^ pack.flips[at] : bits;
      }
    }
  }
}

void pack_pixels(const Pack& pack, int64_t row, int64_t begin, int64_t end) {
  const int64_t image = row / pack.h, line = row % pack.h, start = image * pack.stride_n + line * pack.stride_h;
  uint64_t* out = pack.out + row * pack.w * pack.groups * ((pack.c + 63) / 64);
  if (pack.type == kDouble)
    return pack_plainly(pack, static_cast<const double*>(pack.x) + start, static_cast<const double*>(pack.threshold),
                        begin, end, out);
#if defined(__x86_64__)
  static const bool vectors = has_avx512();
  if (vectors && pack_avx512(pack, start, begin, end, out)) return;
#endif
  const float* threshold = static_cast<const float*>(pack.threshold);
  if (pack.type == kFloat)
    pack_plainly(pack, static_cast<const float*>(pack.x) + start, threshold, begin, end, out);
  else
    pack_plainly(pack, static_cast<const uint16_t*>(pack.x) + start, threshold, begin, end, out);
}

}  // namespace

// c: channels of one group; strides in elements; threshold and flip: [groups * c] or null.
CONVSWAP_API int convswap_binary_pack(const void* x, int type, int64_t n, int64_t groups, int64_t c, int64_t h,
                                      int64_t w, int64_t stride_n, int64_t stride_c, int64_t stride_h, int64_t stride_w,
                                      const void* threshold, const uint8_t* flip, uint64_t* out, int threads) {
  if (!x || !out || type < kFloat || type > kDouble || n < 1 || groups < 1 || c < 1 || h < 1 || w < 1)
    return kBadArgument;
  return guarded([&] {
    const int64_t words = (c + 63) / 64;
    const Scratch memory(flip ? size_t(groups * words) * 8 : 0);
    if (!memory) return kNoMemory;
    uint64_t* flips = flip ? memory.as<uint64_t>() : nullptr;
    if (flip) {
      std::memset(flips, 0, size_t(groups * words) * 8);
      for (int64_t i = 0; i < groups * c; ++i)
        flips[i / c * words + i % c / 64] |= uint64_t(flip[i] != 0) << (i % c % 64);
    }
    if (stride_h == w * stride_w) {  // rows behind each other are one long row
      w *= h;
      h = 1;
    }
    const Pack pack{x, type, groups, c, h, w, stride_n, stride_c, stride_h, stride_w, threshold, flips, out};
    const int64_t piece = 64, pieces = (w + piece - 1) / piece;
    const int64_t elements = n * groups * c * h * w, useful = elements / 32768;
    const int team = useful < 2 ? 1 : useful < threads ? int(useful) : threads;
    parallel_for(team, n * h * pieces, [&](int64_t begin, int64_t end, int) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % pieces * piece, last = first + piece < w ? first + piece : w;
        pack_pixels(pack, task / pieces, first, last);
      }
    });
    return kOk;
  });
}

}  // namespace convswap::binary
