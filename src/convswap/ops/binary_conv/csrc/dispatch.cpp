// The C border of the binary convolution: which path takes a call, and what every path may rely on.
#include "binary_conv.h"

#include <cstring>

namespace convswap::binary {
namespace {

// Best first.
const Path* const kPaths[] = {
#if defined(__x86_64__)
    &kAmxPath,      &kVpopcntdqPath, &kVnniPath, &kAvx2Path,
#elif defined(__aarch64__)
    &kNeonPath,
#endif
    &kPortablePath,
};
constexpr int kPathCount = int(sizeof(kPaths) / sizeof(kPaths[0]));
constexpr size_t kTagBytes = 64;                 // in front of panels: whose they are
constexpr size_t kKeptBytes = size_t(32) << 20;  // scratch up to this size is kept for the next call

// A layer's scratch is paged in once, not at every call.
thread_local Scratch kept;

size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

void write_tag(const Path& path, void* panels) {
  std::memset(panels, 0, kTagBytes);
  std::strncpy(static_cast<char*>(panels), path.name, kTagBytes - 8);
  std::memcpy(static_cast<char*>(panels) + kTagBytes - 8, &path.layout, sizeof(int));
}

// The panels behind their tag, or null when another path made them: then they are expanded for this call.
const void* own_panels(const Path& path, const void* panels) {
  if (!panels || !path.panel_bytes) return nullptr;
  alignas(64) char tag[kTagBytes];
  write_tag(path, tag);
  return std::memcmp(tag, panels, kTagBytes) == 0 ? static_cast<const char*>(panels) + kTagBytes : nullptr;
}

// Channel parameters of [groups][o] as [groups][blocks][8], `fill` beyond o.
template <class T>
const T* padded(const Geometry& g, const T* given, T missing, T fill, char*& memory) {
  const int64_t blocks = g.blocks();
  T* target = reinterpret_cast<T*>(memory);
  memory += round_up(size_t(g.groups * blocks * 8) * sizeof(T));
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t at = 0; at < blocks * 8; ++at)
      target[group * blocks * 8 + at] = at >= g.o ? fill : given ? given[group * g.o + at] : missing;
  return target;
}

bool sound(const Geometry& g) {
  const int64_t positive[] = {g.n, g.h, g.w, g.groups, g.c, g.o, g.kh, g.kw, g.sh, g.sw, g.dh, g.dw, g.oh, g.ow};
  for (int64_t value : positive)
    if (value <= 0) return false;
  // Beyond it, distances times the size of a row would no longer fit in 64 bits; Python leaves such to torch.
  constexpr int64_t farthest = int64_t{1} << 24;
  const int64_t distances[] = {g.sh, g.sw, g.dh, g.dw, g.pad_top, g.pad_left};
  for (int64_t distance : distances)
    if (distance > farthest) return false;
  return g.pad_top >= 0 && g.pad_left >= 0 && g.c <= INT32_MAX / g.kh / g.kw;
}

// More threads than there is work for cost more than they give: one for each 100 us or so of the slowest vector path.
int useful_threads(const Geometry& g, int threads) {
  const double work = double(g.pixels()) * double(g.groups * g.o) * double(g.c) * double(g.kh * g.kw);
  const double useful = work / 4e6;
  return useful < 1 ? 1 : useful < double(threads) ? int(useful) : threads;
}

int run(int which, Job& job, const void* panels) {
  const Path& path = *kPaths[which];
  const Geometry& g = job.g;
  job.panels = own_panels(path, panels);
  job.scratch = nullptr;
  const size_t parameters = 2 * round_up(size_t(g.groups * g.blocks() * 8) * 4);
  const size_t own = path.scratch_bytes(job);
  if (!kept.at_least(round_up(own) + parameters)) return kNoMemory;
  char* memory = kept.as<char>();
  job.scratch = memory;
  memory += round_up(own);
  const bool whole = g.o % 8 == 0;
  if (job.out_bits) {
    if (!whole) {
      job.threshold = padded<int32_t>(g, job.threshold, 0, INT32_MAX, memory);
      job.flip = padded<uint8_t>(g, job.flip, 0, 0, memory);
    }
  } else {
    if (!whole || !job.scale) job.scale = padded<float>(g, job.scale, 1.0f, 0.0f, memory);
    if (!whole || !job.bias) job.bias = padded<float>(g, job.bias, 0.0f, 0.0f, memory);
  }
  const int status = path.run(job);
  if (kept.size() > kKeptBytes) kept.release();
  return status;
}

}  // namespace

CONVSWAP_API int convswap_binary_paths() { return kPathCount; }

CONVSWAP_API const char* convswap_binary_path_name(int which) {
  return which >= 0 && which < kPathCount ? kPaths[which]->name : nullptr;
}

CONVSWAP_API int convswap_binary_path_available(int which) {
  return which >= 0 && which < kPathCount && kPaths[which]->available();
}

// Why a path does not take a geometry, or null.
CONVSWAP_API const char* convswap_binary_path_refuses(int which, const Geometry* g) {
  if (which < 0 || which >= kPathCount || !sound(*g)) return "the geometry is not sound";
  return kPaths[which]->refuses(*g);
}

CONVSWAP_API int convswap_binary_conv2d(const Geometry* g, int which, const uint64_t* x, const uint64_t* weight,
                                        const float* scale, const float* bias, const float* map, float* out, int relu,
                                        const void* panels, int threads) {
  if (which < 0 || which >= kPathCount || !sound(*g) || !x || !weight || !out) return kBadArgument;
  Job job{};
  job.g = *g;
  job.x = x;
  job.weight = weight;
  job.scale = scale;
  job.bias = bias;
  job.map = map;
  job.out = out;
  job.relu = relu != 0;
  job.threads = useful_threads(*g, threads);
  return guarded([&] { return run(which, job, panels); });
}

CONVSWAP_API int convswap_binary_conv2d_sign(const Geometry* g, int which, const uint64_t* x, const uint64_t* weight,
                                             const int32_t* threshold, const uint8_t* flip, uint64_t* out,
                                             const void* panels, int threads) {
  if (which < 0 || which >= kPathCount || !sound(*g) || !x || !weight || !out || !threshold || !flip)
    return kBadArgument;
  if (g->groups > 1 && g->o % 8) return kBadArgument;
  Job job{};
  job.g = *g;
  job.x = x;
  job.weight = weight;
  job.threshold = threshold;
  job.flip = flip;
  job.out_bits = reinterpret_cast<uint8_t*>(out);
  job.out_pitch = (g->groups * g->o + 63) / 64 * 8;
  job.threads = useful_threads(*g, threads);
  if (g->groups * g->blocks() % 8) std::memset(out, 0, size_t(g->pixels() * job.out_pitch));
  return guarded([&] { return run(which, job, panels); });
}

// Bytes for convswap_binary_expand; 0 when the path reads the bits as they are.
CONVSWAP_API int64_t convswap_binary_panel_bytes(const Geometry* g, int which) {
  if (which < 0 || which >= kPathCount || !kPaths[which]->panel_bytes) return 0;
  return int64_t(kTagBytes + kPaths[which]->panel_bytes(*g));
}

CONVSWAP_API int convswap_binary_expand(const Geometry* g, int which, const uint64_t* weight, void* panels,
                                        int threads) {
  if (which < 0 || which >= kPathCount || !kPaths[which]->panel_bytes || !weight || !panels) return kBadArgument;
  return guarded([&] {
    write_tag(*kPaths[which], panels);
    kPaths[which]->expand(*g, weight, static_cast<char*>(panels) + kTagBytes, threads);
    return int(kOk);
  });
}

}  // namespace convswap::binary
