// The unoptimised product the paper's kernel is held against: three loops over one number a sign, nothing packed, nothing
// tiled. benchmarks/binary_mnist.py compiles it with -O3 and nothing else.
#include <stdint.h>

extern "C" void naive_float(const float* x, const float* w, int64_t rows, int64_t columns, int64_t k, float* z) {
    for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
            float sum = 0.0f;
            for (int64_t i = 0; i < k; ++i) sum += x[m * k + i] * w[n * k + i];
            z[m * columns + n] = sum;
        }
    }
}

extern "C" void naive_int8(const int8_t* x, const int8_t* w, int64_t rows, int64_t columns, int64_t k, int32_t* z) {
    for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
            int32_t sum = 0;
            for (int64_t i = 0; i < k; ++i) sum += static_cast<int32_t>(x[m * k + i]) * w[n * k + i];
            z[m * columns + n] = sum;
        }
    }
}
