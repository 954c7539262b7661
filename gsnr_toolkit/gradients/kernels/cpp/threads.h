// Splits work over the threads that torch already has.
//
// GOMP_parallel is the entry point of GNU's OpenMP. LLVM's and Intel's libraries have it too, so code from any compiler
// can be linked to the one that torch ships, and no second library keeps threads of its own.

#pragma once

#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

extern "C" {
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num();
}

// Sum of work(task, thread) over all tasks, always in the same order. A thread that is done takes the next task. Threads
// beyond the number of tasks are started all the same: OpenMP would create a team of another size from scratch.
template <typename Work>
double sum_over_tasks(int64_t tasks, int64_t threads, const Work& work) {
  std::vector<double> sums(static_cast<size_t>(tasks));
  std::atomic<int64_t> next{0};
  auto share = [&](int64_t thread) {
    if (thread >= tasks) return;
    for (int64_t task = next++; task < tasks; task = next++) sums[static_cast<size_t>(task)] = work(task, thread);
  };
  if (threads > 1 && tasks > 1) {
    auto run = [](void* given) { (*static_cast<decltype(share)*>(given))(omp_get_thread_num()); };
    GOMP_parallel(run, &share, static_cast<unsigned>(threads), 0);
  } else {
    share(0);
  }
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}
