// The NEON path (aarch64): xor and byte popcount on plain row-major words, 4 rows x 2 columns in registers. The byte
// counts of up to 30 steps are added before they are widened. Helpers are the portable ones.
#include <arm_neon.h>

#include "kernels.h"

namespace pennyweight {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 2;
constexpr int64_t kByteSteps = 30;  // 30 * 8 = 240 fits a byte

template <int kRows, int kCols>
void tile(const uint64_t* a, const uint64_t* b, int64_t words, int64_t k, int32_t* z, int64_t z_stride) {
    uint32x4_t total[kRows][kCols];
    PW_UNROLL
    for (int r = 0; r < kRows; ++r) {
        PW_UNROLL
        for (int c = 0; c < kCols; ++c) total[r][c] = vdupq_n_u32(0);
    }
    int64_t w = 0;
    while (w + 2 <= words) {
        const int64_t left = (words - w) / 2, steps = left < kByteSteps ? left : kByteSteps;
        uint8x16_t count[kRows][kCols];
        PW_UNROLL
        for (int r = 0; r < kRows; ++r) {
            PW_UNROLL
            for (int c = 0; c < kCols; ++c) count[r][c] = vdupq_n_u8(0);
        }
        for (int64_t s = 0; s < steps; ++s, w += 2) {
            uint64x2_t right[kCols];
            PW_UNROLL
            for (int c = 0; c < kCols; ++c) right[c] = vld1q_u64(b + c * words + w);
            PW_UNROLL
            for (int r = 0; r < kRows; ++r) {
                const uint64x2_t row = vld1q_u64(a + r * words + w);
                PW_UNROLL
                for (int c = 0; c < kCols; ++c) {
                    count[r][c] =
                        vaddq_u8(count[r][c], vcntq_u8(vreinterpretq_u8_u64(veorq_u64(row, right[c]))));
                }
            }
        }
        PW_UNROLL
        for (int r = 0; r < kRows; ++r) {
            PW_UNROLL
            for (int c = 0; c < kCols; ++c) total[r][c] = vpadalq_u16(total[r][c], vpaddlq_u8(count[r][c]));
        }
    }
    PW_UNROLL
    for (int r = 0; r < kRows; ++r) {
        PW_UNROLL
        for (int c = 0; c < kCols; ++c) {
            int64_t differing = vaddvq_u32(total[r][c]);
            if (w < words) {
                differing += vaddlv_u8(vcnt_u8(vcreate_u8(a[r * words + w] ^ b[c * words + w])));
            }
            z[r * z_stride + c] = static_cast<int32_t>(k - 2 * differing);
        }
    }
}

template <int kRows>
void strip(const uint64_t* a, const uint64_t* b, int64_t columns, int64_t words, int64_t k, int32_t* z,
           int64_t z_stride) {
    int64_t n = 0;
    for (; n + kTileColumns <= columns; n += kTileColumns) {
        tile<kRows, kTileColumns>(a, b + n * words, words, k, z + n, z_stride);
    }
    for (; n < columns; ++n) tile<kRows, 1>(a, b + n * words, words, k, z + n, z_stride);
}

void product_rows(const uint64_t* a, int64_t rows, const uint64_t* b, int64_t columns, int64_t words, int64_t k,
                  int32_t* z, int64_t z_stride) {
    int64_t m = 0;
    for (; m + kTileRows <= rows; m += kTileRows) {
        strip<kTileRows>(a + m * words, b, columns, words, k, z + m * z_stride, z_stride);
    }
    for (; m < rows; ++m) strip<1>(a + m * words, b, columns, words, k, z + m * z_stride, z_stride);
}

void product(const uint64_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns, int64_t k,
             int32_t* z, int64_t z_stride, uint8_t*) {
    product_rows(a, rows, reinterpret_cast<const uint64_t*>(panels), columns, words, k, z, z_stride);
}

// Sign bits of 64 floats: each comparison mask keeps the bit of its lane, and pairwise additions gather them.
int64_t pack_signs(const float* x, int64_t count, uint64_t* words) {
    const uint32x4_t bit = {1, 2, 4, 8};
    int64_t start = 0;
    for (; start + 64 <= count; start += 64) {
        uint64_t word = 0;
        uint32x4_t ordered = vdupq_n_u32(~0u);
        for (int i = 0; i < 16; ++i) {
            const float32x4_t v = vld1q_f32(x + start + 4 * i);
            ordered = vandq_u32(ordered, vceqq_f32(v, v));
            word |= static_cast<uint64_t>(vaddvq_u32(vandq_u32(vcgezq_f32(v), bit))) << (4 * i);
        }
        if (vminvq_u32(ordered) == 0) break;
        words[start / 64] = word;
    }
    const int64_t rest = portable_kernels()->pack_signs(x + start, count - start, words + start / 64);
    return rest < 0 ? -1 : start + rest;
}

Kernels make() {
    Kernels kernels = *portable_kernels();
    kernels.name = "neon";
    kernels.pack_signs = pack_signs;
    kernels.product = product;
    kernels.product_rows = product_rows;
    return kernels;
}

}  // namespace

const Kernels* neon_kernels() {
    static const Kernels kernels = make();
    return &kernels;
}

}  // namespace pennyweight
