// What this processor and this operating system can run. Every answer is cached; all are safe from any thread.
//
// A bit in CPUID is not enough: the operating system must save the wider registers (XCR0), and for AMX the process
// must have asked for permission. Code with a target attribute may only be called behind one of these answers.
#pragma once

#include <cstdint>

namespace convswap {

bool has_popcnt();       // 64-bit POPCNT
bool has_avx2();         // AVX2, FMA, BMI2 and POPCNT
bool has_avx512();       // AVX-512 F, BW, DQ and VL (Skylake-X and later), and all of has_avx2
bool has_vpopcntdq();    // has_avx512 and VPOPCNTDQ
bool has_avx512_vnni();  // has_avx512 and VNNI
bool has_avx512_bf16();  // has_avx512 and BF16
bool has_avx_vnni();     // has_avx2 and the 256-bit VNNI of processors without AVX-512
bool has_amx_int8();     // has_avx512, AMX tiles with int8, and the permission of the kernel (asked for here)
bool has_neon();         // 64-bit ARM
bool has_arm_dotprod();  // 64-bit ARM with SDOT/UDOT

}  // namespace convswap
