// First-layer product for AVX2: weights expanded to bytes 0/1 and multiplied by vpmaddubsw, whose pair sums of at most
// 2 * 128 cannot saturate. Each weight is 0 or 1, so the result is 2 * sum(selected x) - sum(x).
#pragma once

#include <immintrin.h>

#include "int8_panel.h"

namespace pennyweight {
namespace {

constexpr int64_t kInt8BlockSteps = 120;  // 16-bit sums hold 127 steps of at most 256
constexpr int kInt8Rows = 4;

int64_t int8_scratch_bytes(int64_t rows, int64_t, int64_t k) {
    return rows * int8_steps(k) * 4 + rows * 4 + kInt8BlockSteps * 64 + 256;
}

// 32 bits (8 columns x 4 steps) to 32 bytes of 0 or -1.
inline __m256i expand_bits(uint32_t bits) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                            3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), spread);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
}

inline void add_to_row(int32_t* z, __m256i pairs, int64_t valid, bool first, int32_t row_sum) {
    __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(2));
    alignas(32) int32_t values[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(values), sum);
    for (int64_t c = 0; c < valid; ++c) z[c] = (first ? -row_sum : z[c]) + values[c];
}

template <int kRows>
void int8_tile(const int8_t* x, int64_t x_stride, const uint8_t* weights, int64_t steps, int32_t* z, int64_t z_stride,
               int64_t valid, bool first, const int32_t* row_sums) {
    __m256i left[kRows], right[kRows];
    for (int r = 0; r < kRows; ++r) left[r] = right[r] = _mm256_setzero_si256();
    for (int64_t s = 0; s < steps; ++s) {
        const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 64 * s));
        const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 64 * s + 32));
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            int32_t four;
            memcpy(&four, x + r * x_stride + 4 * s, 4);
            const __m256i codes = _mm256_set1_epi32(four);
            left[r] = _mm256_add_epi16(left[r], _mm256_maddubs_epi16(w0, codes));
            right[r] = _mm256_add_epi16(right[r], _mm256_maddubs_epi16(w1, codes));
        }
    }
    for (int r = 0; r < kRows; ++r) {
        add_to_row(z + r * z_stride, left[r], valid < 8 ? valid : 8, first, row_sums[r]);
        if (valid > 8) add_to_row(z + r * z_stride + 8, right[r], valid - 8, first, row_sums[r]);
    }
}

void int8_product(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                  int64_t z_stride, uint8_t* scratch) {
    scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64;
    const int64_t steps = int8_steps(k), stride = steps * 4;
    uint8_t* weights = scratch;
    int32_t* row_sums = reinterpret_cast<int32_t*>(weights + kInt8BlockSteps * 64);
    int8_t* padded = reinterpret_cast<int8_t*>(row_sums + rows);
    pad_codes(x, rows, k, padded, row_sums);
    const __m256i one = _mm256_set1_epi8(1);
    for (int64_t n = 0; n < columns; n += kInt8Columns, panels += int8_panel_bytes(k)) {
        const int64_t valid = columns - n < kInt8Columns ? columns - n : kInt8Columns;
        int64_t start = 0;
        do {
            const int64_t count = steps - start < kInt8BlockSteps ? steps - start : kInt8BlockSteps;
            for (int64_t s = 0; s < count; ++s) {
                uint32_t bits[2];
                memcpy(bits, panels + 8 * (start + s), 8);
                __m256i* out = reinterpret_cast<__m256i*>(weights + 64 * s);
                _mm256_store_si256(out, _mm256_and_si256(expand_bits(bits[0]), one));
                _mm256_store_si256(out + 1, _mm256_and_si256(expand_bits(bits[1]), one));
            }
            int64_t r = 0;
            for (; r + kInt8Rows <= rows; r += kInt8Rows) {
                int8_tile<kInt8Rows>(padded + r * stride + 4 * start, stride, weights, count, z + r * z_stride + n,
                                     z_stride, valid, start == 0, row_sums + r);
            }
            for (; r < rows; ++r) {
                int8_tile<1>(padded + r * stride + 4 * start, stride, weights, count, z + r * z_stride + n, z_stride,
                             valid, start == 0, row_sums + r);
            }
            start += count;
        } while (start < steps);
    }
}

}  // namespace
}  // namespace pennyweight
