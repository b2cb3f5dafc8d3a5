// First-layer product with AVX-512 VNNI: vpdpbusd of weights 0/1 (unsigned) and int8 codes adds four products to each of
// 16 columns, exactly. Each weight is 0 or 1, so the result is 2 * sum(selected x) - sum(x).
#pragma once

#include <immintrin.h>

#include "int8_panel.h"

namespace pennyweight {
namespace {

constexpr int kInt8Panels = 4;               // panels of 16 columns side by side in a register tile
constexpr int kInt8Rows = 6;
constexpr int64_t kInt8BlockSteps = 128;     // expanded weights of a block stay in the first-level cache

int64_t int8_scratch_bytes(int64_t rows, int64_t, int64_t k) {
    return kInt8BlockSteps * kInt8Panels * 64 + rows * int8_steps(k) * 4 + rows * 4 + 64;
}

inline __m512i expand_weights(const uint8_t* word) {
    uint64_t bits;
    memcpy(&bits, word, 8);
    return _mm512_maskz_mov_epi8(_cvtu64_mask64(bits), _mm512_set1_epi8(1));
}

inline __m512i four_codes(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

inline __mmask16 column_mask(int64_t valid) {
    return static_cast<__mmask16>(valid >= 16 ? 65535 : valid <= 0 ? 0 : (1 << valid) - 1);
}

// One row: weights expanded as they are used. `panels` may be fewer than kInt8Panels.
template <int kPanels>
void int8_single(const int8_t* x, const uint8_t* panels, int64_t steps, int32_t row_sum, int64_t columns, int32_t* z) {
    __m512i sums[kPanels];
    for (int c = 0; c < kPanels; ++c) sums[c] = _mm512_setzero_si512();
    for (int64_t s = 0; s < steps; ++s) {
        const __m512i codes = four_codes(x + 4 * s);
        for (int c = 0; c < kPanels; ++c) {
            sums[c] = _mm512_dpbusd_epi32(sums[c], expand_weights(panels + 8 * (c * steps + s)), codes);
        }
    }
    for (int c = 0; c < kPanels; ++c) {
        const __m512i value = _mm512_sub_epi32(_mm512_slli_epi32(sums[c], 1), _mm512_set1_epi32(row_sum));
        _mm512_mask_storeu_epi32(z + 16 * c, column_mask(columns - 16 * c), value);
    }
}

template <int kRows, int kPanels>
void int8_tile(const int8_t* x, int64_t x_stride, const uint8_t* weights, int64_t steps, bool first,
               const int32_t* row_sums, int64_t columns, int32_t* z, int64_t z_stride) {
    __m512i sums[kRows][kPanels];
    for (int r = 0; r < kRows; ++r) {
        for (int c = 0; c < kPanels; ++c) sums[r][c] = _mm512_setzero_si512();
    }
    for (int64_t s = 0; s < steps; ++s) {
        __m512i w[kPanels];
        for (int c = 0; c < kPanels; ++c) w[c] = _mm512_load_si512(weights + 64 * (kInt8Panels * s + c));
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m512i codes = four_codes(x + r * x_stride + 4 * s);
#pragma GCC unroll 4
            for (int c = 0; c < kPanels; ++c) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], w[c], codes);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int c = 0; c < kPanels; ++c) {
            int32_t* out = z + r * z_stride + 16 * c;
            const __mmask16 mask = column_mask(columns - 16 * c);
            const __m512i before =
                first ? _mm512_set1_epi32(-row_sums[r]) : _mm512_maskz_loadu_epi32(mask, out);
            _mm512_mask_storeu_epi32(out, mask, _mm512_add_epi32(before, _mm512_slli_epi32(sums[r][c], 1)));
        }
    }
}

template <int kPanels>
void int8_columns(const int8_t* x, int64_t rows, const int32_t* row_sums, const uint8_t* panels, int64_t columns,
                  int64_t steps, int32_t* z, int64_t z_stride, uint8_t* weights) {
    if (rows == 1) {
        int8_single<kPanels>(x, panels, steps, row_sums[0], columns, z);
        return;
    }
    int64_t start = 0;
    do {
        const int64_t count = steps - start < kInt8BlockSteps ? steps - start : kInt8BlockSteps;
        for (int64_t s = 0; s < count; ++s) {
            for (int c = 0; c < kPanels; ++c) {
                _mm512_store_si512(weights + 64 * (kInt8Panels * s + c),
                                   expand_weights(panels + 8 * (c * steps + start + s)));
            }
        }
        int64_t r = 0;
        const int8_t* block = x + 4 * start;
        for (; r + kInt8Rows <= rows; r += kInt8Rows) {
            int8_tile<kInt8Rows, kPanels>(block + r * steps * 4, steps * 4, weights, count, start == 0, row_sums + r,
                                          columns, z + r * z_stride, z_stride);
        }
        for (; r < rows; ++r) {
            int8_tile<1, kPanels>(block + r * steps * 4, steps * 4, weights, count, start == 0, row_sums + r, columns,
                                  z + r * z_stride, z_stride);
        }
        start += count;
    } while (start < steps);
}

void int8_product(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                  int64_t z_stride, uint8_t* scratch) {
    scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64;
    const int64_t steps = int8_steps(k);
    uint8_t* weights = scratch;
    int32_t* row_sums = reinterpret_cast<int32_t*>(weights + kInt8BlockSteps * kInt8Panels * 64);
    int8_t* padded = reinterpret_cast<int8_t*>(row_sums + rows);
    pad_codes(x, rows, k, padded, row_sums);
    int64_t n = 0;
    for (; n + 16 * (kInt8Panels - 1) < columns; n += 16 * kInt8Panels) {
        int8_columns<kInt8Panels>(padded, rows, row_sums, panels + n / 16 * steps * 8, columns - n, steps, z + n,
                                  z_stride, weights);
    }
    for (; n < columns; n += 16) {
        int8_columns<1>(padded, rows, row_sums, panels + n / 16 * steps * 8, columns - n, steps, z + n, z_stride,
                        weights);
    }
}

}  // namespace
}  // namespace pennyweight
