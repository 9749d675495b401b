// Packing with AVX-512, for channels that lie together (channels_last) and for pixels that do.
#if defined(__x86_64__)
#include "pack.h"

#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own header warns of its deliberately undefined registers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

namespace convswap::binary {
namespace {

inline __m512 load(const float* at, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, at); }

inline __m512 load(const uint16_t* at, __mmask16 lanes) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline __mmask16 first_lanes(int64_t count) { return count >= 16 ? __mmask16(0xffff) : __mmask16((1u << count) - 1); }

// Up to 64 channels that lie together.
template <class T>
inline uint64_t word_of(const T* x, const float* threshold, int64_t count) {
  uint64_t bits = 0;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 bound = threshold ? _mm512_maskz_loadu_ps(lanes, threshold + i) : _mm512_setzero_ps();
    bits |= uint64_t(_mm512_mask_cmp_ps_mask(lanes, load(x + i, lanes), bound, _CMP_GE_OQ)) << i;
  }
  return bits;
}

template <class T>
void channels_together(const Pack& pack, const T* row, int64_t begin, int64_t end, uint64_t* out) {
  const int64_t words = (pack.c + 63) / 64, pitch = pack.groups * words;
  const float* threshold = static_cast<const float*>(pack.threshold);
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t at = 0; at < pitch; ++at) {
      const int64_t word = at % words, first = at / words * pack.c + word * 64, left = pack.c - word * 64;
      const T* x = row + pixel * pack.stride_w + first;
      const float* bound = threshold ? threshold + first : nullptr;
      const uint64_t bits = left >= 64 ? word_of(x, bound, 64) : word_of(x, bound, left);
      out[pixel * pitch + at] = pack.flips ? bits ^ pack.flips[at] : bits;
    }
  }
}

// 16 pixels at a time: a channel gives one bit to each of 16 words.
template <class T>
void pixels_together(const Pack& pack, const T* row, int64_t begin, int64_t end, uint64_t* out) {
  const int64_t words = (pack.c + 63) / 64, pitch = pack.groups * words;
  const float* threshold = static_cast<const float*>(pack.threshold);
  for (int64_t pixel = begin; pixel < end; pixel += 16) {
    const int64_t count = end - pixel < 16 ? end - pixel : 16;
    const __mmask16 lanes = first_lanes(count);
    for (int64_t at = 0; at < pitch; ++at) {
      const int64_t word = at % words, first = at / words * pack.c + word * 64, left = pack.c - word * 64;
      __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi64(1);
      for (int64_t i = first; i < first + (left < 64 ? left : 64); ++i) {
        const __m512 bound = _mm512_set1_ps(threshold ? threshold[i] : 0.0f);
        const __m512 x = load(row + i * pack.stride_c + pixel, lanes);
        const __mmask16 above = _mm512_mask_cmp_ps_mask(lanes, x, bound, _CMP_GE_OQ);
        low = _mm512_mask_or_epi64(low, __mmask8(above), low, bit);
        high = _mm512_mask_or_epi64(high, __mmask8(above >> 8), high, bit);
        bit = _mm512_add_epi64(bit, bit);
      }
      const __m512i flips = _mm512_set1_epi64(pack.flips ? int64_t(pack.flips[at]) : 0);
      alignas(64) uint64_t found[16];
      _mm512_store_si512(found, _mm512_xor_si512(low, flips));
      _mm512_store_si512(found + 8, _mm512_xor_si512(high, flips));
      for (int64_t p = 0; p < count; ++p) out[(pixel + p) * pitch + at] = found[p];
    }
  }
}

template <class T>
bool pack_type(const Pack& pack, int64_t start, int64_t begin, int64_t end, uint64_t* out) {
  const T* row = static_cast<const T*>(pack.x) + start;
  if (pack.stride_c == 1)
    channels_together(pack, row, begin, end, out);
  else if (pack.stride_w == 1)
    pixels_together(pack, row, begin, end, out);
  else
    return false;
  return true;
}

}  // namespace

bool pack_avx512(const Pack& pack, int64_t start, int64_t begin, int64_t end, uint64_t* out) {
  return pack.type == kFloat ? pack_type<float>(pack, start, begin, end, out)
                             : pack_type<uint16_t>(pack, start, begin, end, out);
}

}  // namespace convswap::binary

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif
#endif
