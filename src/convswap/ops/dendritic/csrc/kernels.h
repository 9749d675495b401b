// The kernels, written once for any vector type; each file of one instruction set includes this inside its own unnamed
// namespace, so that no function compiled for a newer processor can stand in for another file's.
//
// A vector type V gives: lanes, pixels (how many go together in the backward pass), T, load, held (keeps a loaded value
// in its register), store, all (broadcast), zero, add, times, fused (a * b + c), relu (NaN stays NaN), open (slope where
// not v <= 0, else 0; so NaN lets it pass, as torch does) and sums (lanes vectors in memory -> the vector of their sums).

#if defined(__clang__) || defined(__GNUC__)
#define DENDRITIC_INLINE __attribute__((always_inline))
#endif

template <int I>
struct Number {
  static constexpr int value = I;
};

template <int I, int N, class F>
DENDRITIC_INLINE constexpr void unroll(const F& body) {
  if constexpr (I < N) {
    body(Number<I>{});
    unroll<I + 1, N>(body);
  }
}

template <class V, int TapRows, int TapColumns, int Rows, int Columns>
void forward_tile(float* total, const float* x, int64_t row, int64_t channel, const float* weight, const float* bias,
                  int64_t inputs) {
  using T = typename V::T;
  T sum[Rows * Columns];
  unroll<0, Rows * Columns>([&](auto i) DENDRITIC_INLINE { sum[i.value] = V::load(total + i.value * V::lanes); });
  for (int64_t c = 0; c < inputs; ++c) {
    T w[TapRows * TapColumns];
    unroll<0, TapRows * TapColumns>([&](auto t) DENDRITIC_INLINE { w[t.value] = V::load(weight + t.value * V::lanes); });
    const T b = V::load(bias);
    unroll<0, Rows + TapRows - 1>([&](auto r) DENDRITIC_INLINE {
      const float* line = x + r.value * row;
      unroll<0, Columns + TapColumns - 1>([&](auto q) DENDRITIC_INLINE {
        const T h = V::relu(V::add(V::all(line + q.value), b));
        unroll<0, TapRows * TapColumns>([&](auto t) DENDRITIC_INLINE {
          constexpr int to_row = decltype(r)::value - decltype(t)::value / TapColumns;
          constexpr int to_column = decltype(q)::value - decltype(t)::value % TapColumns;
          if constexpr (to_row >= 0 && to_row < Rows && to_column >= 0 && to_column < Columns) {
            constexpr int to = to_row * Columns + to_column;
            sum[to] = V::fused(w[t.value], h, sum[to]);
          }
        });
      });
    });
    x += channel;
    weight += TapRows * TapColumns * V::lanes;
    bias += V::lanes;
  }
  unroll<0, Rows * Columns>([&](auto i) DENDRITIC_INLINE { V::store(total + i.value * V::lanes, sum[i.value]); });
}

// `Pixels` neighbours at once: the gradients that they share are loaded once.
template <class V, int TapRows, int TapColumns, bool Inputs, bool Weights, int Pixels>
DENDRITIC_INLINE inline void backward_pixels(const float* g, int64_t step, const float* x, float* slopes,
                                             const typename V::T& b, const typename V::T* w, typename V::T* dw,
                                             typename V::T& db) {
  using T = typename V::T;
  T v[Pixels], h[Pixels], slope[Pixels];
  unroll<0, Pixels>([&](auto p) DENDRITIC_INLINE {
    v[p.value] = V::add(V::all(x + p.value), b);
    h[p.value] = V::relu(v[p.value]);
  });
  constexpr int window = TapColumns + Pixels - 1;
  unroll<0, TapRows * window>([&](auto place) DENDRITIC_INLINE {
    constexpr int row = decltype(place)::value / window, column = decltype(place)::value % window;
    const T seen = V::held(V::load(g + row * step + column * V::lanes));
    unroll<0, Pixels>([&](auto p) DENDRITIC_INLINE {
      constexpr int pixel = decltype(p)::value, tap_column = TapColumns - 1 - (column - pixel);
      if constexpr (tap_column >= 0 && tap_column < TapColumns) {
        constexpr int tap = (TapRows - 1 - row) * TapColumns + tap_column;
        if constexpr (Inputs) {
          constexpr bool first = tap == TapRows * TapColumns - 1;
          slope[pixel] = first ? V::times(w[tap], seen) : V::fused(w[tap], seen, slope[pixel]);
        }
        if constexpr (Weights) dw[tap] = V::fused(h[pixel], seen, dw[tap]);
      }
    });
  });
  if constexpr (Inputs) {
    unroll<0, Pixels>([&](auto p) DENDRITIC_INLINE {
      const T kept = V::open(v[p.value], slope[p.value]);
      db = V::add(db, kept);
      V::store(slopes + p.value * V::lanes, kept);
    });
  }
}

template <class V, int TapRows, int TapColumns, bool Inputs, bool Weights>
void backward_tile(const BackwardTile& tile) {
  using T = typename V::T;
  constexpr int taps = TapRows * TapColumns;
  T w[taps], dw[taps];
  unroll<0, taps>([&](auto t) DENDRITIC_INLINE {
    w[t.value] = V::load(tile.weight + t.value * V::lanes);
    dw[t.value] = V::zero();
  });
  const T b = V::load(tile.bias);
  T db = V::zero();
  const float* x = tile.x;
  float* slopes = tile.slopes;
  const int64_t step = tile.pitch * V::lanes, rows = tile.rows, columns = tile.columns;
  for (int64_t r = 0; r < rows; ++r) {
    const float* g = tile.gradient + r * step;
    int64_t q = 0;
    for (; q + V::pixels <= columns; q += V::pixels) {
      backward_pixels<V, TapRows, TapColumns, Inputs, Weights, V::pixels>(g, step, x, slopes, b, w, dw, db);
      g += V::pixels * V::lanes;
      slopes += V::pixels * V::lanes;
      x += V::pixels;
    }
    for (; q < columns; ++q) {
      backward_pixels<V, TapRows, TapColumns, Inputs, Weights, 1>(g, step, x, slopes, b, w, dw, db);
      g += V::lanes;
      slopes += V::lanes;
      ++x;
    }
  }
  // The tile's sums are formed apart and then added: many small roundings instead of few large ones.
  if constexpr (Weights) {
    unroll<0, taps>([&](auto t) DENDRITIC_INLINE {
      float* to = tile.weight_gradient + t.value * V::lanes;
      V::store(to, V::add(V::load(to), dw[t.value]));
    });
  }
  if constexpr (Inputs) {
    V::store(tile.bias_gradient, V::add(V::load(tile.bias_gradient), db));
    for (int64_t i = 0; i < rows * columns; i += V::lanes) {
      V::store(tile.x_gradient + i, V::add(V::load(tile.x_gradient + i), V::sums(tile.slopes + i * V::lanes)));
    }
  }
}

template <class V, int Rows, int Columns>
constexpr void add_shape(Kernels& kernels) {
  const int place = kernels.shapes++;
  kernels.shape[place] = TileShape{Rows, Columns};
  unroll<0, kMostTaps>([&](auto u) DENDRITIC_INLINE {
    unroll<0, kMostTaps>([&](auto v) DENDRITIC_INLINE {
      kernels.forward[place][u.value][v.value] =
          forward_tile<V, decltype(u)::value + 1, decltype(v)::value + 1, Rows, Columns>;
    });
  });
}

template <class V>
constexpr void add_backward(Kernels& kernels) {
  kernels.lanes = V::lanes;
  unroll<0, kMostTaps>([&](auto u) DENDRITIC_INLINE {
    unroll<0, kMostTaps>([&](auto v) DENDRITIC_INLINE {
      constexpr int rows = decltype(u)::value + 1, columns = decltype(v)::value + 1;
      kernels.both[u.value][v.value] = backward_tile<V, rows, columns, true, true>;
      kernels.inputs[u.value][v.value] = backward_tile<V, rows, columns, true, false>;
      kernels.weights[u.value][v.value] = backward_tile<V, rows, columns, false, true>;
    });
  });
}
