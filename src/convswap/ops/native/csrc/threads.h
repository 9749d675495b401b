// Splits [0, tasks) over the threads of the program's OpenMP team; where there is none, the caller computes everything.
//
//   parallel_for(threads, rows, [&](int64_t begin, int64_t end, int thread) { ... });
//
// * `thread` is 0 <= thread < threads and no two bodies run at once with the same number in one call: index scratch
//   memory with it. One thread may get several ranges, one after the other (whoever is free takes the next range), so
//   keep no state between ranges but in memory of your own.
// * Ranges are as even as can be, one per thread; `parallel_for_chunks` cuts finer, for uneven work or busy machines.
//   A caller that is alone gets one range of everything: results must not depend on the cuts.
// * A body must not throw (that ends the process) and must not wait for another range (no barriers: they could wait for
//   a range that nobody has begun; call parallel_for twice instead). It may call parallel_for itself.
// * Safe from any number of threads at once, and in a child after fork(), which computes on the caller.
#pragma once

#include <cstdint>
#include <type_traits>

namespace convswap {

using RangeBody = void (*)(void* context, int64_t begin, int64_t end, int thread);

// [0, tasks) in `chunks` ranges by at most `threads` threads. The templates below are what kernels call.
void run_chunks(int threads, int64_t tasks, int64_t chunks, RangeBody body, void* context) noexcept;

template <class Body>
void parallel_for_chunks(int threads, int64_t tasks, int64_t chunks, Body&& body) {
  if (tasks <= 0) return;
  if (threads <= 1 || tasks == 1 || chunks <= 1) {
    body(int64_t{0}, tasks, 0);
    return;
  }
  using Plain = std::remove_reference_t<Body>;
  const RangeBody call = [](void* context, int64_t begin, int64_t end, int thread) {
    (*static_cast<Plain*>(context))(begin, end, thread);
  };
  run_chunks(threads, tasks, chunks, call, const_cast<void*>(static_cast<const volatile void*>(&body)));
}

template <class Body>
void parallel_for(int threads, int64_t tasks, Body&& body) {
  parallel_for_chunks(threads, tasks, threads, body);
}

}  // namespace convswap
