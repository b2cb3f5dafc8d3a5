// Products whose every product and partial sum is cut to few bits (arXiv 2401.14110), in vectors of float.
//
// The caller sets the rounding of float32 towards zero: products and sums then come cut to 24 bits exactly, and cutting
// them further, by a mask on the mantissa, equals cutting the exact value. The rest is on the bits of the magnitude,
// which order like the values: too small becomes 0, too large the largest.
//
// Included by one file per instruction set, inside an anonymous namespace; vectors are the compiler's own, so the
// flags of the file decide what they become. k is never reordered; rows and columns are independent.
#pragma once

#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

template <int kBytes>
struct Accumulate {
    typedef float Float __attribute__((vector_size(kBytes)));
    typedef int32_t Int __attribute__((vector_size(kBytes)));
    static constexpr int64_t lanes = kBytes / 4;

    static inline Float cut(Float value, const Int& mask, const Int& smallest, const Int& largest) {
        const Int bits = reinterpret_cast<Int>(value);
        Int magnitude = bits & mask;
        magnitude = magnitude < largest ? magnitude : largest;
        magnitude &= magnitude >= smallest;
        return reinterpret_cast<Float>(magnitude | (bits & INT32_MIN));
    }

    template <int kRows, int kVectors>
    static inline void tile(const float* x, int64_t k, const float* w, int64_t stride, const Accumulator& format,
                            float* z, int64_t z_stride, int64_t columns) {
        const Int mask = Int{} + format.mask;
        const Int product_low = Int{} + format.product_smallest, product_high = Int{} + format.product_largest;
        const Int sum_low = Int{} + format.sum_smallest, sum_high = Int{} + format.sum_largest;
        Float total[kRows][kVectors];
        PW_UNROLL for (int r = 0; r < kRows; ++r)
            PW_UNROLL for (int v = 0; v < kVectors; ++v) total[r][v] = Float{};
        for (int64_t start = 0; start < k; start += format.chunk) {
            const int64_t end = start + format.chunk < k ? start + format.chunk : k;
            Float sum[kRows][kVectors];
            PW_UNROLL for (int r = 0; r < kRows; ++r)
                PW_UNROLL for (int v = 0; v < kVectors; ++v) sum[r][v] = Float{};
            for (int64_t i = start; i < end; ++i) {
                Float column[kVectors];
                PW_UNROLL for (int v = 0; v < kVectors; ++v) memcpy(&column[v], w + i * stride + v * lanes, kBytes);
                PW_UNROLL for (int r = 0; r < kRows; ++r) {
                    const float left = x[r * k + i];
                    PW_UNROLL for (int v = 0; v < kVectors; ++v) {
                        const Float product = cut(left * column[v], mask, product_low, product_high);
                        sum[r][v] = cut(sum[r][v] + product, mask, sum_low, sum_high);
                    }
                }
            }
            PW_UNROLL for (int r = 0; r < kRows; ++r)
                PW_UNROLL for (int v = 0; v < kVectors; ++v)
                    total[r][v] = cut(total[r][v] + sum[r][v], mask, sum_low, sum_high);
        }
        PW_UNROLL for (int r = 0; r < kRows; ++r) {
            float row[kVectors * lanes];
            PW_UNROLL for (int v = 0; v < kVectors; ++v) memcpy(row + v * lanes, &total[r][v], kBytes);
            memcpy(z + r * z_stride, row, static_cast<size_t>(columns) * sizeof(float));
        }
    }

    template <int kVectors>
    static inline void columns_of(const float* x, int64_t rows, int64_t k, const float* w, int64_t stride,
                                  const Accumulator& format, float* z, int64_t z_stride, int64_t columns) {
        constexpr int kRows = kBytes == 64 ? 8 / kVectors : 4 / kVectors;  // as many as registers hold
        int64_t r = 0;
        for (; r + kRows <= rows; r += kRows)
            tile<kRows, kVectors>(x + r * k, k, w, stride, format, z + r * z_stride, z_stride, columns);
        for (; r < rows; ++r) tile<1, kVectors>(x + r * k, k, w, stride, format, z + r * z_stride, z_stride, columns);
    }

    // z[rows, columns] = x[rows, k] . w[k, stride]; w is padded to whole vectors of 16 columns.
    static void product(const float* x, int64_t rows, int64_t k, const float* w, int64_t stride,
                        const Accumulator& format, float* z, int64_t z_stride, int64_t columns) {
        int64_t c = 0;
        for (; c + lanes < columns; c += 2 * lanes) {
            const int64_t width = columns - c < 2 * lanes ? columns - c : 2 * lanes;
            columns_of<2>(x, rows, k, w + c, stride, format, z + c, z_stride, width);
        }
        if (c < columns) columns_of<1>(x, rows, k, w + c, stride, format, z + c, z_stride, columns - c);
    }
};

}  // namespace
}  // namespace pennyweight
