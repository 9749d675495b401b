// What Python calls, and which kernels run.

#include <limits>

#include "../../native/csrc/api.h"
#include "../../native/csrc/cpu.h"
#include "plan.h"

namespace convswap::dendritic {
namespace {

enum Path : int64_t { kBest = 0, kAvx512 = 1, kAvx2 = 2, kPortable = 3 };

// Null where this processor cannot run the path. `outputs` of a group: few of them leave wide vectors half empty.
const Kernels* kernels_of(int64_t path, int64_t outputs) {
  const Kernels* wide = has_avx512() ? kAvx512Kernels : nullptr;
  const Kernels* narrow = has_avx2() ? kAvx2Kernels : nullptr;
  switch (path) {
    case kBest:
      if (wide && narrow && outputs <= narrow->lanes) return narrow;
      return wide ? wide : narrow ? narrow : kPortableKernels;
    case kAvx512: return wide;
    case kAvx2: return narrow;
    case kPortable: return kPortableKernels;
    default: return nullptr;
  }
}

bool positive(const Geometry& g) {
  bool fine = g.images > 0 && g.groups > 0 && g.inputs > 0 && g.outputs > 0 && g.threads > 0;
  for (int a = 0; a < 2; ++a) {
    fine = fine && g.size[a] > 0 && g.out[a] > 0 && g.kernel[a] > 0 && g.stride[a] > 0 && g.dilation[a] > 0;
  }
  return fine;
}

// An image of one long row is one row of pixels: nothing is lost at the ends of its rows.
Geometry flattened(Geometry g) {
  const auto plain = [&](const int64_t* strides) { return strides[2] == g.size[1] * strides[3]; };
  for (int a = 0; a < 2; ++a) {
    if (g.kernel[a] != 1 || g.stride[a] != 1 || g.before[a] != 0 || g.out[a] != g.size[a]) return g;
  }
  if (!plain(g.x) || !plain(g.y) || !plain(g.x_gradient)) return g;
  g.size[1] = g.out[1] = g.size[0] * g.size[1];
  g.size[0] = g.out[0] = 1;
  return g;
}

}  // namespace
// The path that `path` stands for here, 0 if this processor lacks it.
CONVSWAP_API int64_t convswap_dendritic_path(int64_t path) {
  const Kernels* kernels = kernels_of(path, std::numeric_limits<int64_t>::max());
  if (!kernels) return 0;
  return kernels == kAvx512Kernels ? kAvx512 : kernels == kAvx2Kernels ? kAvx2 : kPortable;
}

CONVSWAP_API int convswap_dendritic_forward(int64_t path, const Geometry* geometry, const float* x, const float* weight,
                                            const float* bias, const float* output_bias, float* y) {
  return guarded([&]() -> int {
    if (!positive(*geometry)) return kBadArgument;
    const Kernels* kernels = kernels_of(path, geometry->outputs);
    if (!kernels) return kUnsupported;
    return forward(flattened(*geometry), *kernels, x, weight, bias, output_bias, y);
  });
}

CONVSWAP_API int convswap_dendritic_backward(int64_t path, const Geometry* geometry, const float* gradient,
                                             const float* x, const float* weight, const float* bias, float* dx,
                                             float* dw, float* db) {
  return guarded([&]() -> int {
    if (!positive(*geometry)) return kBadArgument;
    const Kernels* kernels = kernels_of(path, geometry->outputs);
    if (!kernels) return kUnsupported;
    return backward(flattened(*geometry), *kernels, gradient, x, weight, bias, dx, dw, db);
  });
}

}  // namespace convswap::dendritic
