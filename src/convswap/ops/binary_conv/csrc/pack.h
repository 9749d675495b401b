// Packing: what its vector forms are given.
#pragma once

#include <cstdint>

namespace convswap::binary {

enum Type : int { kFloat = 0, kBfloat16 = 1, kDouble = 2 };

struct Pack {
  const void* x;
  int type;
  int64_t groups, c, h, w;                         // c: channels of one group
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements
  const void* threshold;                           // float (double for kDouble) [groups * c], or null: 0
  const uint64_t* flips;                           // [groups][words], or null
  uint64_t* out;
};

#if defined(__x86_64__)
// Pixels [begin, end) of the row of x that starts at element `start`, written from `out` on. False: not these strides.
bool pack_avx512(const Pack& pack, int64_t start, int64_t begin, int64_t end, uint64_t* out);
#endif

}  // namespace convswap::binary
