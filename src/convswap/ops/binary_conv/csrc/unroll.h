// Small loops over an array that is meant to live in registers: GCC splits such an array only when the loops over it
// are unrolled early, which it does when asked. Clang does it by itself.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#define CONVSWAP_UNROLL _Pragma("GCC unroll 16")
#else
#define CONVSWAP_UNROLL
#endif
