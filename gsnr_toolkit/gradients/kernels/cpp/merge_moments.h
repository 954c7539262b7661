// Merges the moments of new samples into running moments: Chan, Golub & LeVeque (1979).

#pragma once

#include <cstdint>

// own: mean of `count` new samples. squares: their centred squares; overwritten with the growth of m2. m2 may be null.
template <typename T>
inline void merge_moments(T* mean, T* m2, int64_t seen, const T* own, T* squares, int64_t count, int64_t width) {
  if (seen == 0) {
    for (int64_t j = 0; j < width; ++j) mean[j] = own[j];
    for (int64_t j = 0; m2 != nullptr && j < width; ++j) m2[j] = squares[j];
    return;
  }
  const double share = static_cast<double>(count) / static_cast<double>(seen + count);
  const T weight = static_cast<T>(share), cross = static_cast<T>(share * static_cast<double>(seen));
  for (int64_t j = 0; j < width; ++j) {
    const T gap = own[j] - mean[j];
    mean[j] += gap * weight;
    squares[j] += gap * gap * cross;
  }
  for (int64_t j = 0; m2 != nullptr && j < width; ++j) m2[j] += squares[j];
}
