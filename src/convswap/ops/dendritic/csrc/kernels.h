// The kernels, written once for any vector type; each file of one instruction set includes this inside its own unnamed
// namespace, so that no function compiled for a newer processor can stand in for another file's.
//
// A vector type V gives: lanes, pixels (how many go together in the backward pass), T, load, held (keeps a loaded value
// in its register), store, all (broadcast), zero, add, fused (a * b + c), relu (NaN stays NaN), open (slope where
// not v <= 0, else 0; so NaN lets it pass, as torch does) and sums (lanes vectors in memory -> the vector of their
// sums).

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DENDRITIC_UNROLL  // as many copies as there are taps and pixels, each with its checks, take minutes to compile
#elif defined(__clang__)
#define DENDRITIC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DENDRITIC_UNROLL _Pragma("GCC unroll 64")
#endif

template <class V, int TapRows, int TapColumns, int Rows, int Columns>
void forward_tile(float* total, const float* x, int64_t row, int64_t channel, const float* weight, const float* bias,
                  int64_t inputs) {
  using T = typename V::T;
  constexpr int taps = TapRows * TapColumns, pixels = Rows * Columns;
  T sum[pixels];
  DENDRITIC_UNROLL
  for (int i = 0; i < pixels; ++i) sum[i] = V::load(total + i * V::kLanes);
  for (int64_t c = 0; c < inputs; ++c) {
    T w[taps];
    DENDRITIC_UNROLL
    for (int t = 0; t < taps; ++t) w[t] = V::load(weight + t * V::kLanes);
    const T b = V::load(bias);
    DENDRITIC_UNROLL
    for (int r = 0; r < Rows + TapRows - 1; ++r) {
      DENDRITIC_UNROLL
      for (int q = 0; q < Columns + TapColumns - 1; ++q) {
        const T h = V::relu(V::add(V::all(x + r * row + q), b));
        DENDRITIC_UNROLL
        for (int t = 0; t < taps; ++t) {
          const int to_row = r - t / TapColumns, to_column = q - t % TapColumns;
          if (to_row < 0 || to_row >= Rows || to_column < 0 || to_column >= Columns) continue;
          sum[to_row * Columns + to_column] = V::fused(w[t], h, sum[to_row * Columns + to_column]);
        }
      }
    }
    x += channel;
    weight += taps * V::kLanes;
    bias += V::kLanes;
  }
  DENDRITIC_UNROLL
  for (int i = 0; i < pixels; ++i) V::store(total + i * V::kLanes, sum[i]);
}

// `Pixels` neighbours at once: the gradients that they share are loaded once.
template <class V, int TapRows, int TapColumns, bool Inputs, bool Weights, int Pixels>
inline void backward_pixels(const float* g, int64_t step, const float* x, float* slopes, const typename V::T& b,
                            const typename V::T* w, typename V::T* dw, typename V::T& db) {
  using T = typename V::T;
  constexpr int window = TapColumns + Pixels - 1;
  T v[Pixels], h[Pixels], slope[Pixels];
  DENDRITIC_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    v[p] = V::add(V::all(x + p), b);
    h[p] = V::relu(v[p]);
    slope[p] = V::zero();
  }
  DENDRITIC_UNROLL
  for (int place = 0; place < TapRows * window; ++place) {
    const int row = place / window, column = place % window;
    const T seen = V::held(V::load(g + row * step + column * V::kLanes));
    DENDRITIC_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const int tap_column = TapColumns - 1 - (column - p), tap = (TapRows - 1 - row) * TapColumns + tap_column;
      if (tap_column < 0 || tap_column >= TapColumns) continue;
      if constexpr (Inputs) slope[p] = V::fused(w[tap], seen, slope[p]);
      if constexpr (Weights) dw[tap] = V::fused(h[p], seen, dw[tap]);
    }
  }
  if constexpr (Inputs) {
    DENDRITIC_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const T kept = V::open(v[p], slope[p]);
      db = V::add(db, kept);
      V::store(slopes + p * V::kLanes, kept);
    }
  }
}

template <class V, int TapRows, int TapColumns, bool Inputs, bool Weights>
void backward_tile(const BackwardTile& tile) {
  using T = typename V::T;
  constexpr int taps = TapRows * TapColumns;
  T w[taps], dw[taps];
  DENDRITIC_UNROLL
  for (int t = 0; t < taps; ++t) {
    w[t] = V::load(tile.weight + t * V::kLanes);
    dw[t] = V::zero();
  }
  const T b = V::load(tile.bias);
  T db = V::zero();
  const float* x = tile.x;
  float* slopes = tile.slopes;
  const int64_t step = tile.pitch * V::kLanes, rows = tile.rows, columns = tile.columns;
  for (int64_t r = 0; r < rows; ++r) {
    const float* g = tile.gradient + r * step;
    int64_t q = 0;
    for (; q + V::kPixels <= columns; q += V::kPixels) {
      backward_pixels<V, TapRows, TapColumns, Inputs, Weights, V::kPixels>(g, step, x, slopes, b, w, dw, db);
      g += V::kPixels * V::kLanes;
      slopes += V::kPixels * V::kLanes;
      x += V::kPixels;
    }
    for (; q < columns; ++q) {
      backward_pixels<V, TapRows, TapColumns, Inputs, Weights, 1>(g, step, x, slopes, b, w, dw, db);
      g += V::kLanes;
      slopes += V::kLanes;
      ++x;
    }
  }
  // The tile's sums are formed apart and then added: many small roundings instead of few large ones.
  if constexpr (Weights) {
    DENDRITIC_UNROLL
    for (int t = 0; t < taps; ++t) {
      float* to = tile.weight_gradient + t * V::kLanes;
      V::store(to, V::add(V::load(to), dw[t]));
    }
  }
  if constexpr (Inputs) {
    V::store(tile.bias_gradient, V::add(V::load(tile.bias_gradient), db));
    for (int64_t i = 0; i < rows * columns; i += V::kLanes) {
      V::store(tile.x_gradient + i, V::add(V::load(tile.x_gradient + i), V::sums(tile.slopes + i * V::kLanes)));
    }
  }
}

template <class V, int Rows, int Columns>
constexpr void add_shape(Kernels& kernels) {
  const int place = kernels.shapes++;
  kernels.shape[place] = TileShape{Rows, Columns};
  auto& table = kernels.forward[place];
  table[0][0] = forward_tile<V, 1, 1, Rows, Columns>;
  table[0][1] = forward_tile<V, 1, 2, Rows, Columns>;
  table[0][2] = forward_tile<V, 1, 3, Rows, Columns>;
  table[1][0] = forward_tile<V, 2, 1, Rows, Columns>;
  table[1][1] = forward_tile<V, 2, 2, Rows, Columns>;
  table[1][2] = forward_tile<V, 2, 3, Rows, Columns>;
  table[2][0] = forward_tile<V, 3, 1, Rows, Columns>;
  table[2][1] = forward_tile<V, 3, 2, Rows, Columns>;
  table[2][2] = forward_tile<V, 3, 3, Rows, Columns>;
}

template <class V, bool Inputs, bool Weights>
constexpr void add_taps(Backward (&table)[kMostTaps][kMostTaps]) {
  table[0][0] = backward_tile<V, 1, 1, Inputs, Weights>;
  table[0][1] = backward_tile<V, 1, 2, Inputs, Weights>;
  table[0][2] = backward_tile<V, 1, 3, Inputs, Weights>;
  table[1][0] = backward_tile<V, 2, 1, Inputs, Weights>;
  table[1][1] = backward_tile<V, 2, 2, Inputs, Weights>;
  table[1][2] = backward_tile<V, 2, 3, Inputs, Weights>;
  table[2][0] = backward_tile<V, 3, 1, Inputs, Weights>;
  table[2][1] = backward_tile<V, 3, 2, Inputs, Weights>;
  table[2][2] = backward_tile<V, 3, 3, Inputs, Weights>;
}

template <class V>
constexpr void add_backward(Kernels& kernels) {
  kernels.lanes = V::kLanes;
  add_taps<V, true, true>(kernels.both);
  add_taps<V, true, false>(kernels.inputs);
  add_taps<V, false, true>(kernels.weights);
}
