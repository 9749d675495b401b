// Where the program has an OpenMP team (see convswap_join_openmp), its threads take ranges one by one from an atomic
// counter. Everywhere else the caller does all of the work.
#include "threads.h"

#include <pthread.h>

#include <atomic>

#include "api.h"

namespace convswap {
namespace {

// OpenMP's entry point that compilers call for `#pragma omp parallel` (GNU's; LLVM's and Intel's runtimes have it too),
// and omp_get_max_threads.
using Parallel = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);
using MostThreads = int (*)();

std::atomic<Parallel> openmp_parallel{nullptr};
std::atomic<MostThreads> openmp_most{nullptr};

// One call's work.
struct Ranges {
  int threads;
  int64_t tasks, chunks;
  RangeBody body;
  void* context;
  alignas(128) std::atomic<int64_t> next_chunk{0};
  std::atomic<int> next_thread{0};

  // Takes the next thread number, and ranges until none is left; nothing when all numbers are taken.
  void help() {
    const int thread = next_thread.fetch_add(1, std::memory_order_relaxed);
    if (thread >= threads) return;
    const int64_t each = tasks / chunks, larger = tasks % chunks;
    for (;;) {
      const int64_t chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks) return;
      const int64_t begin = chunk * each + (chunk < larger ? chunk : larger);
      body(context, begin, begin + each + (chunk < larger ? 1 : 0), thread);
    }
  }
};

// A child after fork() has lost OpenMP's team, and GNU's runtime would wait for it for ever.
void forget_team() { openmp_parallel.store(nullptr, std::memory_order_release); }

__attribute__((constructor)) void watch_forks() { pthread_atfork(nullptr, nullptr, forget_team); }

}  // namespace

void run_chunks(int threads, int64_t tasks, int64_t chunks, RangeBody body, void* context) noexcept {
  chunks = chunks < tasks ? chunks : tasks;
  threads = chunks < threads ? int(chunks) : threads;
  const Parallel parallel = openmp_parallel.load(std::memory_order_acquire);
  if (threads <= 1 || parallel == nullptr) return body(context, 0, tasks, 0);
  // Always the whole team, of whom `threads` work: a smaller team would end the others, the next larger one start them.
  const MostThreads most = openmp_most.load(std::memory_order_acquire);
  const int team = most != nullptr && most() > threads ? most() : threads;
  Ranges ranges{threads, tasks, chunks, body, context};
  parallel([](void* given) { static_cast<Ranges*>(given)->help(); }, &ranges, unsigned(team), 0);
}

// Let the threads of an OpenMP runtime do the work: `parallel` is its GOMP_parallel, `most` its omp_get_max_threads;
// both null to compute on the caller alone, as a child after fork() does.
CONVSWAP_API void convswap_join_openmp(void* parallel, void* most) {
  openmp_most.store(reinterpret_cast<MostThreads>(most), std::memory_order_release);
  openmp_parallel.store(reinterpret_cast<Parallel>(parallel), std::memory_order_release);
}

}  // namespace convswap
