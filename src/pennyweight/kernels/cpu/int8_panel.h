// The layout of a first-layer weight panel that AVX2 and AVX-512 share: one 64-bit word holds 4 steps of K for 16
// columns, bit 4 * column + step, so that a word expands to 64 bytes that stand next to each other as vector lanes.
#pragma once

#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

constexpr int64_t kInt8Columns = 16;

inline int64_t int8_steps(int64_t k) { return (k + 3) / 4; }

int64_t int8_panel_bytes(int64_t k) { return int8_steps(k) * 8; }

void pack_int8_panel(const uint64_t* w, int64_t columns, int64_t k, uint8_t* panel) {
    const int64_t words = (k + 63) / 64;
    for (int64_t step = 0; step < int8_steps(k); ++step) {
        uint64_t word = 0;
        for (int64_t c = 0; c < columns; ++c) {
            word |= ((w[c * words + step / 16] >> (4 * (step % 16))) & 15) << (4 * c);
        }
        memcpy(panel + 8 * step, &word, 8);
    }
}

// Rows padded with zeros to whole steps, so that a step is one 32-bit load; returns the sum of each row.
inline void pad_codes(const int8_t* x, int64_t rows, int64_t k, int8_t* padded, int32_t* row_sums) {
    const int64_t stride = int8_steps(k) * 4;
    for (int64_t r = 0; r < rows; ++r) {
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += x[r * k + i];
        row_sums[r] = sum;
        memcpy(padded + r * stride, x + r * k, static_cast<size_t>(k));
        memset(padded + r * stride + k, 0, static_cast<size_t>(stride - k));
    }
}

}  // namespace
}  // namespace pennyweight
