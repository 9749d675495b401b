// From channels last to channels first: what a convolution wrote, for a caller whose maps are NCHW. Torch's own copy
// between the two layouts goes number by number and can take longer than the convolution.
#include <cstdint>

#include "../../native/csrc/api.h"
#include "../../native/csrc/threads.h"
#include "binary_conv.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace convswap::binary {
namespace {

constexpr int64_t kTile = 16;  // floats of a cache line

// out[c][p] = x[p][c] for 4 x 4 numbers.
inline void transpose_four(const float* x, int64_t x_pitch, float* out, int64_t out_pitch) {
#if defined(__SSE2__)
  __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + x_pitch);
  __m128 c = _mm_loadu_ps(x + 2 * x_pitch), d = _mm_loadu_ps(x + 3 * x_pitch);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + out_pitch, b);
  _mm_storeu_ps(out + 2 * out_pitch, c);
  _mm_storeu_ps(out + 3 * out_pitch, d);
#else
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 4; ++j) out[i * out_pitch + j] = x[j * x_pitch + i];
#endif
}

// Channels [first, first + count) of one image: count rows of the output, written from left to right.
void turn(const float* x, int64_t pixels, int64_t channels, int64_t first, int64_t count, float* out) {
  const int64_t whole = count / 4 * 4, full = pixels / kTile * kTile;
  for (int64_t pixel = 0; pixel < full; pixel += kTile)
    for (int64_t c = first; c < first + whole; c += 4)
      for (int64_t p = pixel; p < pixel + kTile; p += 4)
        transpose_four(x + p * channels + c, channels, out + c * pixels + p, pixels);
  for (int64_t c = first; c < first + whole; ++c)
    for (int64_t p = full; p < pixels; ++p) out[c * pixels + p] = x[p * channels + c];
  for (int64_t c = first + whole; c < first + count; ++c)
    for (int64_t p = 0; p < pixels; ++p) out[c * pixels + p] = x[p * channels + c];
}

}  // namespace
// x [n][pixels][channels] -> out [n][channels][pixels], which do not overlap.
CONVSWAP_API int convswap_binary_to_nchw(const float* x, int64_t n, int64_t pixels, int64_t channels, float* out,
                                         int threads) {
  if (!x || !out || n < 1 || pixels < 1 || channels < 1) return kBadArgument;
  const int64_t tiles = (channels + kTile - 1) / kTile;
  parallel_for(threads, n * tiles, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % tiles * kTile, left = channels - first, start = task / tiles * pixels * channels;
      turn(x + start, pixels, channels, first, left < kTile ? left : kTile, out + start);
    }
  });
  return kOk;
}

}  // namespace convswap::binary
