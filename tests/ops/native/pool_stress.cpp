// A program around the thread pool alone, for a sanitizer: many callers at once, calls inside calls, uneven work,
// forks in between. It prints "ok" and ends with 0, or says what was wrong.
//
//   g++ -std=c++17 -O1 -g -fsanitize=thread -pthread pool_stress.cpp .../threads.cpp -o pool_stress && ./pool_stress
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../../../src/convswap/ops/native/csrc/threads.h"

using convswap::parallel_for;
using convswap::parallel_for_chunks;

namespace {

std::atomic<int> failures{0};

void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  failures.fetch_add(1);
}

// Plain (not atomic) writes: the pool must order them before the return, and no two threads may share a task or a
// thread number.
void one_call(int threads, std::int64_t tasks, std::int64_t chunks) {
  std::vector<int> visits(static_cast<std::size_t>(tasks), 0), scratch(static_cast<std::size_t>(threads) * 16, 0);
  parallel_for_chunks(threads, tasks, chunks, [&](std::int64_t begin, std::int64_t end, int thread) {
    check(thread >= 0 && thread < threads, "thread number");
    for (std::int64_t i = begin; i < end; ++i) {
      scratch[static_cast<std::size_t>(thread) * 16] += 1;
      visits[static_cast<std::size_t>(i)] += 1;
    }
  });
  std::int64_t sum = 0;
  for (const int count : visits) check(count == 1, "a task was not done exactly once");
  for (const int count : scratch) sum += count;
  check(sum == tasks, "scratch memory of the threads");
}

void nested(int threads) {
  std::vector<int> visits(64, 0);
  parallel_for(threads, 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t outer = begin; outer < end; ++outer) {
      parallel_for(threads, 8, [&](std::int64_t from, std::int64_t to, int) {
        for (std::int64_t inner = from; inner < to; ++inner) visits[static_cast<std::size_t>(outer * 8 + inner)] += 1;
      });
    }
  });
  for (const int count : visits) check(count == 1, "nested call");
}

void fork_and_use() {
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 20; ++i) one_call(3, 100, 7);
    _exit(failures.load() == 0 ? 0 : 1);
  }
  int status = 1;
  check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a child after fork");
}

}  // namespace

int main(int count, char** words) {
  const int rounds = count > 1 ? std::atoi(words[1]) : 300;
  const bool forks = count <= 2;  // a second word: no forks (thread sanitizer watches threads or forks, not both)
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([=] {
      for (int i = 0; i < rounds; ++i) {
        one_call(1 + (caller + i) % 5, (i * 37) % 301, 1 + i % 23);
        if (i % 16 == 0) nested(3);
      }
    });
  }
  for (int i = 0; forks && i < 10; ++i) fork_and_use();
  for (auto& caller : callers) caller.join();

  // More callers than slots: the last ones run alone.
  callers.clear();
  for (int caller = 0; caller < 48; ++caller) callers.emplace_back([] { one_call(4, 5000, 50); });
  for (auto& caller : callers) caller.join();
  if (failures.load() == 0) std::puts("ok");
  return failures.load() == 0 ? 0 : 1;
}
