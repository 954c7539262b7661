// Samples merged into running moments in one pass over memory: what merging.py describes, at the speed of reading them.
//
// A block of columns of all samples fits the first-level cache, so the mean and the squares about it are both taken
// there; entries are independent, which is what lets the compiler use whole vectors without reordering any sum.

#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t WIDTH = 128;     // entries of a block
constexpr int64_t SMALL = 1 << 15; // numbers that one thread reads before others could start

template <typename T>
struct Merge {
  const T* samples;
  int64_t count, rows, columns; // samples of this shape, one after the other
  T *mean, *m2;                 // m2 may be null
  int64_t stride;               // from row to row of both
  int64_t seen;

  double block(int64_t row, int64_t start) const {
    const int64_t width = std::min(WIDTH, columns - start);
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
    store(row * stride + start, width, own, squares);
    double added = 0;
#pragma omp simd reduction(+ : added)
    for (int64_t j = 0; j < width; ++j) added += squares[j];
    return added;
  }

  // Chan et al. (1979); squares become what the sum of centred squares grows by
  void store(int64_t at, int64_t width, const T* own, T* squares) const {
    T* held = mean + at;
    if (seen == 0) {
      for (int64_t j = 0; j < width; ++j) held[j] = own[j];
    } else {
      const double share = static_cast<double>(count) / static_cast<double>(seen + count);
      const T weight = static_cast<T>(share), cross = static_cast<T>(share * static_cast<double>(seen));
      for (int64_t j = 0; j < width; ++j) {
        const T gap = own[j] - held[j];
        held[j] += gap * weight;
        squares[j] += gap * gap * cross;
      }
    }
    if (m2 == nullptr) return;
    T* spread = m2 + at;
    if (seen == 0) {
      for (int64_t j = 0; j < width; ++j) spread[j] = squares[j];
    } else {
      for (int64_t j = 0; j < width; ++j) spread[j] += squares[j];
    }
  }

  double run() const {
    const int64_t blocks = (columns + WIDTH - 1) / WIDTH, tasks = rows * blocks;
    double added = 0;
#pragma omp parallel for schedule(static) reduction(+ : added) if (count * rows * columns > SMALL)
    for (int64_t task = 0; task < tasks; ++task) added += block(task / blocks, task % blocks * WIDTH);
    return added;
  }
};

} // namespace

extern "C" double merge_float32(const float* samples, int64_t count, int64_t rows, int64_t columns, float* mean,
                                float* m2, int64_t stride, int64_t seen) {
  return Merge<float>{samples, count, rows, columns, mean, m2, stride, seen}.run();
}

extern "C" double merge_float64(const double* samples, int64_t count, int64_t rows, int64_t columns, double* mean,
                                double* m2, int64_t stride, int64_t seen) {
  return Merge<double>{samples, count, rows, columns, mean, m2, stride, seen}.run();
}
