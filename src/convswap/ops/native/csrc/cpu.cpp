#include "cpu.h"

#include <atomic>
#include <cstddef>
#include <cstring>

#include "api.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace convswap {
namespace {

struct Features {
  bool popcnt = false, avx2 = false, avx512 = false, vpopcntdq = false, avx512_vnni = false, avx512_bf16 = false;
  bool avx_vnni = false, amx_int8 = false;  // amx_int8: without the permission, which is asked for on demand
  bool neon = false, arm_dotprod = false;
};

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned sub = 0) {
  Leaf out;
  if (__get_cpuid_count(leaf, sub, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return Leaf{};
  return out;
}

// XCR0: which registers the operating system saves. Only valid where CPUID reports OSXSAVE. The instruction is
// spelled out, as the intrinsic would need -mxsave.
uint64_t saved_registers() {
  uint32_t low = 0, high = 0;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t(high) << 32) | low;
}

bool bit(unsigned word, int index) { return ((word >> index) & 1u) != 0; }

Features detect() {
  Features f;
  const Leaf one = cpuid(1);
  f.popcnt = bit(one.ecx, 23);
  const bool os_saves = bit(one.ecx, 27);
  const uint64_t saved = os_saves ? saved_registers() : 0;
  const bool ymm = (saved & 0x6) == 0x6, zmm = ymm && (saved & 0xe0) == 0xe0, tiles = (saved & 0x60000) == 0x60000;

  const Leaf seven = cpuid(7, 0), seven_one = seven.eax >= 1 ? cpuid(7, 1) : Leaf{};
  const bool avx = ymm && bit(one.ecx, 28), fma = bit(one.ecx, 12), bmi2 = bit(seven.ebx, 8);
  f.avx2 = avx && fma && bmi2 && f.popcnt && bit(seven.ebx, 5);
  f.avx_vnni = f.avx2 && bit(seven_one.eax, 4);
  f.avx512 = f.avx2 && zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31);
  f.vpopcntdq = f.avx512 && bit(seven.ecx, 14);
  f.avx512_vnni = f.avx512 && bit(seven.ecx, 11);
  f.avx512_bf16 = f.avx512 && bit(seven_one.eax, 5);
  f.amx_int8 = f.avx512 && tiles && bit(seven.edx, 24) && bit(seven.edx, 25);
  return f;
}

// Linux gives a process the large tile registers only when asked; the answer holds for all threads and for children.
bool tiles_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kGetPermission = 0x1022, kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return false;
  uint64_t permitted = 0;
  return syscall(SYS_arch_prctl, kGetPermission, &permitted) == 0 && ((permitted >> kTileData) & 1) != 0;
#else
  return false;
#endif
}

#else

Features detect() {
  Features f;
#if defined(__aarch64__)
  f.neon = true;
#if defined(__linux__)
  f.arm_dotprod = (getauxval(AT_HWCAP) & (1ul << 20)) != 0;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  f.arm_dotprod = true;  // every Apple processor since the A13 and M1
#endif
#endif
  return f;
}

bool tiles_permitted() { return false; }

#endif

const Features& features() {
  static const Features found = detect();
  return found;
}

// The static above is filled when the library is loaded, so that a fork can never see it half made.
__attribute__((constructor)) void detect_at_load() { features(); }

struct Name {
  const char* name;
  bool (*has)();
};

constexpr Name kNames[] = {
    {"popcnt", has_popcnt},
    {"avx2", has_avx2},
    {"avx512", has_avx512},
    {"avx512_vpopcntdq", has_vpopcntdq},
    {"avx512_vnni", has_avx512_vnni},
    {"avx512_bf16", has_avx512_bf16},
    {"avx_vnni", has_avx_vnni},
    {"amx_int8", has_amx_int8},
    {"neon", has_neon},
    {"arm_dotprod", has_arm_dotprod},
};

}  // namespace

bool has_popcnt() { return features().popcnt; }
bool has_avx2() { return features().avx2; }
bool has_avx512() { return features().avx512; }
bool has_vpopcntdq() { return features().vpopcntdq; }
bool has_avx512_vnni() { return features().avx512_vnni; }
bool has_avx512_bf16() { return features().avx512_bf16; }
bool has_avx_vnni() { return features().avx_vnni; }
bool has_neon() { return features().neon; }
bool has_arm_dotprod() { return features().arm_dotprod; }

bool has_amx_int8() {
  if (!features().amx_int8) return false;
  static std::atomic<int> permitted{-1};  // asking twice is harmless, so no lock
  int known = permitted.load(std::memory_order_relaxed);
  if (known < 0) {
    known = tiles_permitted() ? 1 : 0;
    permitted.store(known, std::memory_order_relaxed);
  }
  return known == 1;
}

// The name of feature `index`, or null past the last one.
CONVSWAP_API const char* convswap_cpu_feature_name(int index) {
  constexpr int count = int(sizeof(kNames) / sizeof(kNames[0]));
  return index >= 0 && index < count ? kNames[index].name : nullptr;
}

// 1 when the processor and the system support feature `index`, else 0.
CONVSWAP_API int convswap_cpu_has_feature(int index) {
  return convswap_cpu_feature_name(index) != nullptr && kNames[index].has() ? 1 : 0;
}

}  // namespace convswap
