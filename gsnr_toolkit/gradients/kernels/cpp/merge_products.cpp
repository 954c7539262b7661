// Merges per-sample products L_i^T R_i into running moments without ever writing the products to memory.
//
// The loops are those of a matrix product (Goto & van de Geijn 2008): strips of both factors are copied into the order
// in which they are read, and a tile that fits the registers is formed over all rows of a sample. It is merged at once
// into the tile's mean and centred squares (Welford 1962). Those are kept in scratch memory, tile after tile, because
// rows of the matrix itself are often a power of two apart and would evict one another from the cache.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "merge_moments.h"
#include "threads.h"

namespace {

#ifdef __AVX512F__
constexpr int VECTOR = 64, HIGH = 14, WIDE = 2; // bytes; rows of a tile, and its columns in vectors
#else
constexpr int VECTOR = 32, HIGH = 6, WIDE = 2;
#endif

constexpr int64_t LINE = 64;                 // bytes of a cache line
constexpr int64_t LEFT_BYTES = 1250000;      // of a copy of the left factor: fits the cache of one core
constexpr int64_t SCRATCH_ENTRIES = 1 << 21; // per thread, for means, and as many for squares
constexpr int64_t FEW_ROWS = 256;            // total rows of samples that are copied together
constexpr int64_t SMALL = 1 << 20;           // fewer multiplications are done before another thread could start
constexpr int64_t LEFT_COST = 4, RIGHT_COST = 1; // of copying one entry, in multiplications of a vector

int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Offsets of all entries of some dimensions, the last dimension fastest
std::vector<int64_t> offsets(const int64_t* sizes, const int64_t* strides, int64_t dims) {
  std::vector<int64_t> found{0};
  for (int64_t d = 0; d < dims; ++d) {
    std::vector<int64_t> inner;
    for (const int64_t outer : found)
      for (int64_t i = 0; i < sizes[d]; ++i) inner.push_back(outer + i * strides[d]);
    found.swap(inner);
  }
  return found;
}

// One factor: samples of rows of entries. Rows and entries may each span several dimensions, as windows of an image do
template <typename T>
struct Factor {
  const T* data;
  int64_t sample; // stride between samples
  std::vector<int64_t> rows, entries;
  bool dense; // entries are contiguous

  // layout: stride between samples, numbers of dimensions of rows and of entries, all sizes, all strides
  Factor(const T* data, const int64_t* layout) : data(data), sample(layout[0]) {
    const int64_t across = layout[1], dims = layout[1] + layout[2];
    const int64_t *sizes = layout + 3, *strides = sizes + dims;
    rows = offsets(sizes, strides, across);
    entries = offsets(sizes + across, strides + across, layout[2]);
    dense = true;
    for (size_t j = 0; j < entries.size(); ++j) dense = dense && entries[j] == static_cast<int64_t>(j);
  }
};

struct Cut { // how a matrix of tiles is cut into blocks
  int64_t down, across; // number of blocks
  int64_t high, wide;   // tiles of the largest block
};

struct Block { // a range of tiles
  int64_t top, bottom, first, last;

  int64_t high() const { return bottom - top; }
};

// Copies strips of WIDTH entries of a sample's rows, each strip row after row, with zeros beyond the last entry
template <int64_t WIDTH, typename T>
void copy_strips(const Factor<T>& factor, int64_t sample, int64_t rows, int64_t first, int64_t last, T* to,
                 int64_t apart) {
  const int64_t entries = static_cast<int64_t>(factor.entries.size());
  for (int64_t t = 0; t < rows; ++t) {
    const T* from = factor.data + sample * factor.sample + factor.rows[static_cast<size_t>(t)];
    for (int64_t s = first; s < last; ++s) {
      T* row = to + (s - first) * apart + t * WIDTH;
      const int64_t some = std::min(WIDTH, entries - s * WIDTH), *places = factor.entries.data() + s * WIDTH;
      if (some == WIDTH && factor.dense)
        for (int64_t j = 0; j < WIDTH; ++j) row[j] = from[s * WIDTH + j];
      else if (some == WIDTH)
        for (int64_t j = 0; j < WIDTH; ++j) row[j] = from[places[j]];
      else
        for (int64_t j = 0; j < WIDTH; ++j) row[j] = j < some ? from[places[j]] : T(0);
    }
  }
}

template <typename T>
struct Ahead { // read after a tile's product, and therefore prefetched while the product is formed
  const T *mean, *squares, *next;
  const int64_t* rows; // offsets of rows of next: HIGH of them
};

template <typename T>
struct Tile {
  typedef T Vector __attribute__((vector_size(VECTOR), may_alias));
  static constexpr int64_t LANES = VECTOR / sizeof(T), WIDTH = WIDE * LANES, SIZE = HIGH * WIDTH;

  // With PARTS = HIGH, prefetches one row of each with every part of the rows: prefetching all at once would delay the
  // reads of the product itself. With PARTS = 1, prefetches nothing.
  template <int64_t PARTS>
  static void product(const T* left, const T* right, int64_t rows, T* out, const Ahead<T>& ahead) {
    Vector sums[HIGH][WIDE] = {};
    for (int64_t part = 0; part < PARTS; ++part) {
      for (int64_t j = 0; PARTS > 1 && j < WIDTH; j += LINE / static_cast<int64_t>(sizeof(T))) {
        __builtin_prefetch(ahead.mean + part * WIDTH + j, 1);
        __builtin_prefetch(ahead.squares + part * WIDTH + j, 1);
        __builtin_prefetch(ahead.next + ahead.rows[part] + j, 0, 2);
      }
      const int64_t some = rows * (part + 1) / PARTS - rows * part / PARTS;
      for (int64_t t = 0; t < some; ++t, left += HIGH, right += WIDTH) {
        const Vector* own = reinterpret_cast<const Vector*>(right);
#pragma GCC unroll 16
        for (int i = 0; i < HIGH; ++i)
#pragma GCC unroll 2
          for (int j = 0; j < WIDE; ++j) sums[i][j] += left[i] * own[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < HIGH; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < WIDE; ++j) reinterpret_cast<Vector*>(out)[i * WIDE + j] = sums[i][j];
  }

  // Merges one more sample; without squares, returns their growth
  static double take_in(const T* sample, T* mean, T* squares, int64_t before) {
    const Vector* given = reinterpret_cast<const Vector*>(sample);
    Vector *held = reinterpret_cast<Vector*>(mean), *kept = reinterpret_cast<Vector*>(squares), added = {};
    if (before == 0) {
      for (int j = 0; j < HIGH * WIDE; ++j) held[j] = given[j];
      for (int j = 0; kept != nullptr && j < HIGH * WIDE; ++j) kept[j] = Vector{};
      return 0;
    }
    const T weight = T(1) / static_cast<T>(before + 1), cross = static_cast<T>(before) / static_cast<T>(before + 1);
    for (int j = 0; j < HIGH * WIDE; ++j) {
      const Vector gap = given[j] - held[j], grown = gap * gap * cross;
      held[j] += gap * weight;
      if (kept != nullptr) kept[j] += grown;
      else added += grown;
    }
    double total = 0;
    for (int64_t j = 0; kept == nullptr && j < LANES; ++j) total += static_cast<double>(added[j]);
    return total;
  }
};

template <typename T>
struct Merge {
  static constexpr int64_t WIDTH = Tile<T>::WIDTH, TILE = Tile<T>::SIZE;

  Factor<T> left, right;
  int64_t count; // samples
  int64_t threads;
  T *mean, *m2;           // m2 may be null
  int64_t stride, seen;
  int64_t rows = static_cast<int64_t>(right.rows.size());
  int64_t height = static_cast<int64_t>(left.entries.size()), width = static_cast<int64_t>(right.entries.size());

  // Number of samples whose copies are in the cache at the same time
  int64_t together() const { return std::min(count, std::max<int64_t>(1, FEW_ROWS / rows)); }

  // Whether all samples are, so that one tile's moments are complete before the next tile
  bool at_once() const { return together() == count; }

  Cut cut() const {
    const int64_t tall = parts_of(height, HIGH), broad = parts_of(width, WIDTH);
    const int64_t fit = LEFT_BYTES / static_cast<int64_t>(sizeof(T)) / (HIGH * rows * together());
    const int64_t fewest = parts_of(tall, std::max<int64_t>(1, fit));
    Cut best{};
    for (int64_t down = fewest; down <= std::min(tall, fewest + threads - 1); ++down) {
      const int64_t high = parts_of(tall, down);
      const int64_t least = at_once() ? 1 : parts_of(broad, std::max<int64_t>(1, SCRATCH_ENTRIES / (high * TILE)));
      for (int64_t across = least; across <= std::min(broad, least + threads - 1); ++across) {
        const Cut other{down, across, high, parts_of(broad, across)};
        if (best.down == 0 || work(other) < work(best)) best = other;
      }
    }
    return best;
  }

  // Cost of the busiest thread, for one row
  int64_t work(const Cut& cut) const {
    const int64_t high = cut.high * HIGH, blocks = parts_of(cut.down * cut.across, threads);
    return blocks * (high * cut.wide * WIDE + LEFT_COST * high + RIGHT_COST * cut.wide * WIDTH);
  }

  int64_t left_space(const Cut& cut) const { return cut.high * HIGH * rows * together(); }
  int64_t right_space() const { return WIDTH * rows * together(); }
  int64_t scratch_space(const Cut& cut) const { return cut.high * (at_once() ? 1 : cut.wide) * TILE; }

  int64_t thread_space(const Cut& cut) const {
    const int64_t scratch = (m2 == nullptr ? 1 : 2) * scratch_space(cut);
    return parts_of(TILE + scratch + right_space() + left_space(cut), 1024) * 1024;
  }

  template <int64_t SIZE>
  void copy(const Factor<T>& factor, int64_t first, int64_t last, int64_t sample, int64_t many, T* to) const {
    for (int64_t i = 0; i < many; ++i)
      copy_strips<SIZE>(factor, sample + i, rows, first, last, to + i * rows * SIZE, many * rows * SIZE);
  }

  double block(const Block& block, const Cut& cut, T* memory) const {
    T *tile = memory, *means = tile + TILE, *squares = m2 == nullptr ? nullptr : means + scratch_space(cut);
    T *strip = means + (m2 == nullptr ? 1 : 2) * scratch_space(cut), *strips = strip + right_space();
    double added = 0;
    for (int64_t sample = 0; sample < count; sample += together()) {
      const int64_t many = std::min(together(), count - sample);
      copy<HIGH>(left, block.top, block.bottom, sample, many, strips);
      for (int64_t s = block.first; s < block.last; ++s) {
        const int64_t at = at_once() ? 0 : (s - block.first) * block.high() * TILE;
        copy<WIDTH>(right, s, s + 1, sample, many, strip);
        const size_t after = static_cast<size_t>(std::min(s + 1, block.last - 1) * WIDTH);
        const T* next = right.data + sample * right.sample + right.entries[after];
        added += column(block.high(), sample, many, strips, strip, next, tile, means + at,
                        squares == nullptr ? nullptr : squares + at);
        if (at_once()) added += store({block.top, block.bottom, s, s + 1}, means, squares);
      }
    }
    return at_once() ? added : added + store(block, means, squares);
  }

  // Merges one column of tiles
  double column(int64_t high, int64_t sample, int64_t many, const T* strips, const T* strip, const T* next, T* tile,
                T* means, T* squares) const {
    double added = 0;
    for (int64_t p = 0; p < high; ++p)
      for (int64_t i = 0; i < many; ++i) {
        T *held = means + p * TILE, *kept = squares == nullptr ? nullptr : squares + p * TILE;
        const int64_t* fetched = right.rows.data() + std::min(p * HIGH, std::max<int64_t>(rows - HIGH, 0));
        const Ahead<T> ahead{held, kept == nullptr ? held : kept, next + i * right.sample, fetched};
        const T *lefts = strips + (p * many + i) * rows * HIGH, *rights = strip + i * rows * WIDTH;
        if (i == 0) Tile<T>::template product<HIGH>(lefts, rights, rows, tile, ahead);
        else Tile<T>::template product<1>(lefts, rights, rows, tile, ahead);
        added += Tile<T>::take_in(tile, held, kept, sample + i);
      }
    return added;
  }

  double store(const Block& block, const T* means, T* squares) const {
    double added = 0;
    for (int64_t row = block.top * HIGH; row < std::min(block.bottom * HIGH, height); ++row)
      for (int64_t s = block.first; s < block.last; ++s) {
        const int64_t tile = (s - block.first) * block.high() + row / HIGH - block.top;
        const int64_t from = tile * TILE + row % HIGH * WIDTH, to = row * stride + s * WIDTH;
        const int64_t some = std::min(WIDTH, width - s * WIDTH);
        if (m2 != nullptr) {
          merge_moments(mean + to, m2 + to, seen, means + from, squares + from, count, some);
          continue;
        }
        T grown[WIDTH] = {};
        merge_moments<T>(mean + to, nullptr, seen, means + from, grown, count, some);
        for (int64_t j = 0; j < some; ++j) added += static_cast<double>(grown[j]);
      }
    return added;
  }

  // Without memory, returns the number of entries of it that are needed
  double run(T* memory) const {
    const Cut cut = this->cut();
    const int64_t blocks = cut.down * cut.across, each = thread_space(cut);
    if (memory == nullptr) return static_cast<double>(std::min(threads, blocks) * each);
    const int64_t tall = parts_of(height, HIGH), broad = parts_of(width, WIDTH);
    return sum_over_tasks(blocks, threads, [&](int64_t task, int64_t thread) {
      const int64_t d = task / cut.across, a = task % cut.across;
      const int64_t top = tall * d / cut.down, bottom = tall * (d + 1) / cut.down;
      const int64_t first = broad * a / cut.across, last = broad * (a + 1) / cut.across;
      return block({top, bottom, first, last}, cut, memory + thread * each);
    });
  }
};

template <typename T>
double merge(const T* left, const int64_t* left_layout, const T* right, const int64_t* right_layout, int64_t count,
             int64_t threads, T* mean, T* m2, int64_t stride, int64_t seen, T* memory) {
  Merge<T> whole{{left, left_layout}, {right, right_layout}, count, threads, mean, m2, stride, seen};
  if (count * whole.rows * whole.height * whole.width <= SMALL) whole.threads = 1;
  while (whole.right.rows.size() < HIGH) whole.right.rows.push_back(whole.right.rows.back());
  return whole.run(memory);
}

} // namespace

extern "C" double merge_products_float32(const float* left, const int64_t* left_layout, const float* right,
                                         const int64_t* right_layout, int64_t count, int64_t threads, float* mean,
                                         float* m2, int64_t stride, int64_t seen, float* memory) {
  return merge(left, left_layout, right, right_layout, count, threads, mean, m2, stride, seen, memory);
}

extern "C" double merge_products_float64(const double* left, const int64_t* left_layout, const double* right,
                                         const int64_t* right_layout, int64_t count, int64_t threads, double* mean,
                                         double* m2, int64_t stride, int64_t seen, double* memory) {
  return merge(left, left_layout, right, right_layout, count, threads, mean, m2, stride, seen, memory);
}
