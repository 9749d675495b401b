// How it works. Where the program has an OpenMP team (see convswap_join_openmp), its threads do the work. Else there are
// workers of our own. A call publishes its work in one of a few slots. The ranges of a slot are handed out by an atomic
// counter, to workers and to the caller alike, so a worker that is late (asleep, preempted, gone after a fork) costs
// time but never a deadlock: the caller does what nobody has begun. A worker enters a slot by raising its count of
// guests while the slot is open; the caller closes the slot when all ranges are handed out and waits until the guests
// have left. Idle workers spin for a moment, then sleep on a condition variable.
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include "api.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convswap {
namespace {

constexpr int kSlots = 32;         // calls that can share the workers at once; more run on their caller alone
constexpr int kMaxWorkers = 1023;  // far beyond any use: a wrong thread count must not exhaust the machine

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits for `ready` without sleeping, for at most `microseconds`; says whether it came true.
template <class Ready>
bool spin(Ready&& ready, int microseconds) {
  if (ready()) return true;
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return 2;  // not known: more than one
}

// How long to spin before sleeping: long enough to bridge the gap between two layers, too short to warm the room.
int spin_microseconds() {
  if (usable_cores() < 2) return 0;  // spinning would only keep the others from running
  const char* given = std::getenv("CONVSWAP_SPIN_US");
  const int value = given != nullptr ? std::atoi(given) : 50;
  return value < 0 ? 0 : (value > 10000 ? 10000 : value);
}

// One call's work: ranges that whoever is free takes one by one.
struct Ranges {
  RangeBody body = nullptr;
  void* context = nullptr;
  std::int64_t tasks = 0, chunks = 0;
  int threads = 0;

  alignas(128) std::atomic<std::int64_t> next_chunk{0};
  std::atomic<int> next_thread{0};

  // While nobody works.
  void set(int threads_, std::int64_t tasks_, std::int64_t chunks_, RangeBody body_, void* context_) {
    threads = threads_, tasks = tasks_, chunks = chunks_, body = body_, context = context_;
  }

  void work(int thread) {
    const std::int64_t each = tasks / chunks, larger = tasks % chunks;
    for (;;) {
      const std::int64_t chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks) return;
      const std::int64_t begin = chunk * each + (chunk < larger ? chunk : larger);
      body(context, begin, begin + each + (chunk < larger ? 1 : 0), thread);
    }
  }

  // Takes the next thread number and ranges until none is left, or nothing when all numbers are taken.
  void help() {
    const int thread = next_thread.fetch_add(1, std::memory_order_relaxed);
    if (thread < threads) work(thread);
  }
};

struct alignas(128) Slot : Ranges {
  static constexpr std::uint32_t kOpen = 1u << 31, kCallerSleeps = 1u << 30, kGuests = kCallerSleeps - 1;

  std::atomic<bool> taken{false};
  std::atomic<std::uint32_t> state{0};  // kOpen | kCallerSleeps | number of workers inside

  bool enter() {
    std::uint32_t seen = state.load(std::memory_order_relaxed);
    while ((seen & kOpen) != 0) {
      if (state.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    }
    return false;
  }

  bool has_work() const {
    return (state.load(std::memory_order_relaxed) & kOpen) != 0 &&
           next_chunk.load(std::memory_order_relaxed) < chunks_hint.load(std::memory_order_relaxed) &&
           next_thread.load(std::memory_order_relaxed) < threads_hint.load(std::memory_order_relaxed);
  }
  std::atomic<std::int64_t> chunks_hint{0};  // copies that may be read from outside the slot
  std::atomic<int> threads_hint{0};
};

class Pool {
 public:
  void run(int threads, std::int64_t tasks, std::int64_t chunks, RangeBody body, void* context) {
    Slot* slot = claim();
    if (slot == nullptr) {
      body(context, 0, tasks, 0);
      return;
    }
    want_workers(threads - 1);
    slot->set(threads, tasks, chunks, body, context);
    slot->chunks_hint.store(chunks, std::memory_order_relaxed);
    slot->threads_hint.store(threads, std::memory_order_relaxed);
    slot->next_chunk.store(0, std::memory_order_relaxed);
    slot->next_thread.store(1, std::memory_order_relaxed);
    slot->state.store(Slot::kOpen, std::memory_order_release);
    wake(threads - 1);
    slot->work(0);
    close(*slot);
    slot->taken.store(false, std::memory_order_release);
  }

  int workers() const { return workers_.load(std::memory_order_relaxed); }

 private:
  Slot* claim() {
    for (Slot& slot : slots_) {
      if (!slot.taken.load(std::memory_order_relaxed) && !slot.taken.exchange(true, std::memory_order_acquire)) {
        return &slot;
      }
    }
    return nullptr;
  }

  // No new guest enters; wait for those inside. Their last touch of the slot is the decrement in leave().
  void close(Slot& slot) {
    slot.state.fetch_and(~Slot::kOpen, std::memory_order_acq_rel);
    const auto empty = [&] { return (slot.state.load(std::memory_order_acquire) & Slot::kGuests) == 0; };
    if (spin(empty, spin_us_)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    slot.state.fetch_or(Slot::kCallerSleeps, std::memory_order_acq_rel);
    left_.wait(lock, empty);
  }

  void leave(Slot& slot) {
    const std::uint32_t before = slot.state.fetch_sub(1, std::memory_order_acq_rel);
    if ((before & Slot::kGuests) == 1 && (before & Slot::kCallerSleeps) != 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      left_.notify_all();
    }
  }

  void wake(int count) {
    published_.fetch_add(1, std::memory_order_seq_cst);
    int asleep = sleepers_.load(std::memory_order_seq_cst);
    if (asleep == 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (asleep = asleep < count ? asleep : count; asleep > 0; --asleep) work_.notify_one();
  }

  void want_workers(int count) {
    count = count < kMaxWorkers ? count : kMaxWorkers;
    if (workers_.load(std::memory_order_relaxed) >= count) return;
    const std::lock_guard<std::mutex> lock(birth_);
    while (workers_.load(std::memory_order_relaxed) < count && start_worker()) {
    }
  }

  bool start_worker() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of the program, not for the pool
    pthread_t thread;
    const bool started = pthread_create(&thread, nullptr, &Pool::worker, this) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!started) return false;  // a limit of the system: go on with fewer
    pthread_detach(thread);
    workers_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }

  static void* worker(void* self) {
    static_cast<Pool*>(self)->serve();
    return nullptr;
  }

  [[noreturn]] void serve() {
    for (;;) {
      const std::uint64_t seen = published_.load(std::memory_order_seq_cst);
      bool worked = false;
      for (Slot& slot : slots_) {
        if (!slot.has_work() || !slot.enter()) continue;
        slot.help();
        leave(slot);
        worked = true;
      }
      if (worked) continue;
      const auto news = [&] { return published_.load(std::memory_order_seq_cst) != seen; };
      if (spin(news, spin_us_)) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      work_.wait(lock, news);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  const int spin_us_ = spin_microseconds();
  Slot slots_[kSlots];
  alignas(128) std::atomic<std::uint64_t> published_{0};  // counts calls; a change means: look at the slots
  std::atomic<int> sleepers_{0};
  std::atomic<int> workers_{0};
  std::mutex mutex_, birth_;
  std::condition_variable work_, left_;
};

// Never deleted: workers may sleep in it until the very end of the process.
std::atomic<Pool*> current{nullptr};

Pool* pool() {
  Pool* found = current.load(std::memory_order_acquire);
  if (found != nullptr) return found;
  Pool* made = new (std::nothrow) Pool;
  if (made == nullptr) return nullptr;
  if (current.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return made;
  delete made;  // another thread was first; this one has no workers yet
  return found;
}

// OpenMP's entry point that compilers call for `#pragma omp parallel` (GNU's; LLVM's and Intel's runtimes have it too),
// and omp_get_max_threads.
using Parallel = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);
using MostThreads = int (*)();

std::atomic<Parallel> openmp_parallel{nullptr};
std::atomic<MostThreads> openmp_most{nullptr};

// Always the whole team, of whom `threads` work: a smaller team would end the others, and the next larger one start them.
void run_in_team(Parallel parallel, Ranges& ranges) {
  const MostThreads most = openmp_most.load(std::memory_order_acquire);
  const int team = most != nullptr && most() > ranges.threads ? most() : ranges.threads;
  parallel([](void* given) { static_cast<Ranges*>(given)->help(); }, &ranges, static_cast<unsigned>(team), 0);
}

// A child has none of its parent's workers, and locks may have been held: it begins with a pool of its own. OpenMP's
// team is lost as well, and GNU's runtime would wait for it for ever.
void forget_pool() {
  current.store(nullptr, std::memory_order_release);
  openmp_parallel.store(nullptr, std::memory_order_release);
}

__attribute__((constructor)) void watch_forks() { pthread_atfork(nullptr, nullptr, forget_pool); }

}  // namespace

void run_chunks(int threads, std::int64_t tasks, std::int64_t chunks, RangeBody body, void* context) noexcept {
  if (tasks <= 0) return;
  chunks = chunks < tasks ? chunks : tasks;
  threads = chunks < threads ? static_cast<int>(chunks) : threads;
  if (threads <= 1) return body(context, 0, tasks, 0);
  if (const Parallel parallel = openmp_parallel.load(std::memory_order_acquire)) {
    Ranges ranges;
    ranges.set(threads, tasks, chunks, body, context);
    return run_in_team(parallel, ranges);
  }
  Pool* const shared = pool();
  if (shared == nullptr) return body(context, 0, tasks, 0);
  shared->run(threads, tasks, chunks, body, context);
}

}  // namespace convswap

// Let the threads of an OpenMP runtime do the work: `parallel` is its GOMP_parallel, `most` its omp_get_max_threads, both
// null to go back to workers of our own. Two teams on the same cores wait for one another, as idle threads of both spin.
// A child after fork() has workers of its own again.
CONVSWAP_API void convswap_join_openmp(void* parallel, void* most) {
  convswap::openmp_most.store(reinterpret_cast<convswap::MostThreads>(most), std::memory_order_release);
  convswap::openmp_parallel.store(reinterpret_cast<convswap::Parallel>(parallel), std::memory_order_release);
}

// How many workers the pool has started in this process (0 before the first call that needs one, and after a fork).
CONVSWAP_API int convswap_pool_workers() {
  const convswap::Pool* found = convswap::current.load(std::memory_order_acquire);
  return found == nullptr ? 0 : found->workers();
}

// For tests: visits[i] += 1 for every i in [0, tasks), by `threads` threads in `chunks` ranges, with about `work`
// rounds of idle arithmetic per task. `most` receives the largest thread number that was seen, plus one.
CONVSWAP_API int convswap_pool_visit(int threads, std::int64_t tasks, std::int64_t chunks, int work,
                                     std::int32_t* visits, std::int32_t* most) {
  using convswap::kBadArgument;
  if (tasks < 0 || chunks < 1 || work < 0 || most == nullptr || (tasks > 0 && visits == nullptr)) return kBadArgument;
  std::atomic<int> largest{0};
  convswap::parallel_for_chunks(threads, tasks, chunks, [&](std::int64_t begin, std::int64_t end, int thread) {
    int seen = largest.load(std::memory_order_relaxed);
    while (seen <= thread && !largest.compare_exchange_weak(seen, thread + 1, std::memory_order_relaxed)) {
    }
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint32_t random = static_cast<std::uint32_t>(i);
      for (int round = 0; round < work; ++round) {
        random = random * 1664525u + 1013904223u;
        __asm__ volatile("" : "+r"(random));  // keeps the arithmetic
      }
      visits[i] += 1;
    }
  });
  *most = largest.load(std::memory_order_relaxed);
  return convswap::kOk;
}
