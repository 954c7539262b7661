// Merges samples into running moments in one pass over memory, as merging.py describes, at the speed of reading them.
//
// A block of columns of all samples fits the first-level cache, so the mean and the squares about it are both computed
// there. Entries are independent, so the compiler can use whole vectors without reordering any sum.

#include <algorithm>
#include <cstdint>

#include "merge_moments.h"
#include "threads.h"

namespace {

constexpr int64_t WIDTH = 128;     // entries of a block
constexpr int64_t SMALL = 1 << 15; // fewer numbers than this are read by one thread before others could start

template <typename T>
struct Merge {
  const T* samples;
  int64_t count, rows, columns; // contiguous samples of this shape
  T *mean, *m2;                 // m2 may be null
  int64_t stride;               // between rows of mean and m2
  int64_t seen;

  double block(int64_t row, int64_t start) const {
    const int64_t width = std::min(WIDTH, columns - start), at = row * stride + start;
    const T* first = samples + row * columns + start;
    T own[WIDTH] = {}, squares[WIDTH] = {};
    for (int64_t i = 0; i < count; ++i) {
      const T* sample = first + i * rows * columns;
      for (int64_t j = 0; j < width; ++j) own[j] += sample[j];
    }
    for (int64_t j = 0; j < width; ++j) own[j] /= static_cast<T>(count);
    for (int64_t i = 0; i < count; ++i) {
      const T* sample = first + i * rows * columns;
      for (int64_t j = 0; j < width; ++j) squares[j] += (sample[j] - own[j]) * (sample[j] - own[j]);
    }
    merge_moments(mean + at, m2 == nullptr ? nullptr : m2 + at, seen, own, squares, count, width);
    double added = 0;
    for (int64_t j = 0; j < width; ++j) added += static_cast<double>(squares[j]);
    return added;
  }

  double run(int64_t threads) const {
    const int64_t across = (columns + WIDTH - 1) / WIDTH, blocks = rows * across;
    const int64_t tasks = count * rows * columns > SMALL ? std::min(threads, blocks) : 1;
    return sum_over_tasks(tasks, threads, [&](int64_t task, int64_t) {
      double added = 0;
      for (int64_t i = blocks * task / tasks; i < blocks * (task + 1) / tasks; ++i)
        added += block(i / across, i % across * WIDTH);
      return added;
    });
  }
};

} // namespace

extern "C" double merge_samples_float32(const float* samples, const int64_t* shape, int64_t threads, float* mean,
                                        float* m2, int64_t stride, int64_t seen) {
  return Merge<float>{samples, shape[0], shape[1], shape[2], mean, m2, stride, seen}.run(threads);
}

extern "C" double merge_samples_float64(const double* samples, const int64_t* shape, int64_t threads, double* mean,
                                        double* m2, int64_t stride, int64_t seen) {
  return Merge<double>{samples, shape[0], shape[1], shape[2], mean, m2, stride, seen}.run(threads);
}
