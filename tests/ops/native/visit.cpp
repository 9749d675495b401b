// For test_native_threads.py, which compiles this file together with the library's threads.cpp.
#include <atomic>

#include "../../../src/convswap/ops/native/csrc/api.h"
#include "../../../src/convswap/ops/native/csrc/threads.h"

// visits[i] += 1 for every i in [0, tasks), by `threads` threads in `chunks` ranges, with about `work` rounds of idle
// arithmetic per task. Returns how many different threads took part, and a negative number if two used one number at
// once.
CONVSWAP_API int visit(int threads, int64_t tasks, int64_t chunks, int work, int32_t* visits) {
  constexpr int kMost = 64;
  std::atomic<int> inside[kMost] = {}, seen[kMost] = {};
  std::atomic<bool> shared{false};
  convswap::parallel_for_chunks(threads, tasks, chunks, [&](int64_t begin, int64_t end, int thread) {
    if (thread < 0 || thread >= kMost || inside[thread].fetch_add(1) != 0) shared = true;
    seen[thread % kMost] = 1;
    for (int64_t i = begin; i < end; ++i) {
      uint32_t random = uint32_t(i);
      for (int round = 0; round < work; ++round) {
        random = random * 1664525u + 1013904223u;
        __asm__ volatile("" : "+r"(random));  // keeps the arithmetic
      }
      visits[i] += 1;
    }
    inside[thread % kMost].fetch_sub(1);
  });
  int count = 0;
  for (const auto& one : seen) count += one;
  return shared ? -1 : count;
}

// The same with a call inside each task: visits[i * inner + j] += 1.
CONVSWAP_API void visit_nested(int threads, int64_t outer, int64_t inner, int32_t* visits) {
  convswap::parallel_for(threads, outer, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      convswap::parallel_for(threads, inner, [&](int64_t from, int64_t to, int) {
        for (int64_t j = from; j < to; ++j) visits[i * inner + j] += 1;
      });
    }
  });
}
