// The AVX-512 VPOPCNTDQ path: XNOR and vector popcount, 16 columns of 64-bit words at a time.
//
// Popcount, xor and add would be three operations for each 512 bits. Words are taken in pairs instead. With x0 = a0 ^ b0
// and x1 = a1 ^ b1, a running sum keeps `ones` modulo 2 and hands on a carry of weight 2:
//     ones' = ones ^ x0 ^ x1 = ones ^ (a0 ^ a1) ^ (b0 ^ b1),
//     carry = majority(ones, x0, x1) = ones == x0 ? ones : not ones'.
// The second word enters only as a0 ^ a1 and b0 ^ b1, which packing stores in its place, so a pair costs two three-input
// operations, one xor, one popcount of the carry and one add: five operations for 1024 bits, and half the popcounts.
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

constexpr int64_t kColumns = 16;
constexpr int kTileRows = 4;
constexpr int64_t kRowBlock = 64;

// Truth tables of the three-input operations.
constexpr int kXor3 = 0x96;
constexpr int kCarry = 0xd4;  // of (x0, ones, ones'): ones == x0 ? ones : not ones'

int64_t pairs_of(int64_t words) { return (words + 1) / 2; }

int64_t panel_bytes(int64_t words) { return pairs_of(words) * 2 * kColumns * 8; }

// [pair][first word of 16 columns][xor of both words of 16 columns]
void pack_panel(const uint64_t* b, int64_t columns, int64_t words, uint8_t* panel) {
    uint64_t* out = reinterpret_cast<uint64_t*>(panel);
    for (int64_t p = 0; p < pairs_of(words); ++p, out += 2 * kColumns) {
        for (int64_t c = 0; c < kColumns; ++c) {
            const uint64_t first = c < columns ? b[c * words + 2 * p] : 0;
            const uint64_t second = c < columns && 2 * p + 1 < words ? b[c * words + 2 * p + 1] : 0;
            out[c] = first;
            out[kColumns + c] = first ^ second;
        }
    }
}

int64_t scratch_bytes(int64_t rows, int64_t, int64_t words) {
    return (rows < kRowBlock ? rows : kRowBlock) * pairs_of(words) * 16;
}

template <int kRows>
void tile(const uint64_t* a, int64_t stride, int64_t pairs, const uint8_t* panel, int64_t columns, int64_t k, int32_t* z,
          int64_t z_stride) {
    __m512i ones[kRows][2], sums[kRows][2];
    PW_UNROLL
    for (int r = 0; r < kRows; ++r) {
        PW_UNROLL
        for (int c = 0; c < 2; ++c) ones[r][c] = sums[r][c] = _mm512_setzero_si512();
    }
    const __m512i* b = reinterpret_cast<const __m512i*>(panel);
    for (int64_t p = 0; p < pairs; ++p, b += 4) {
        const __m512i first[2] = {_mm512_load_si512(b), _mm512_load_si512(b + 1)};
        const __m512i both[2] = {_mm512_load_si512(b + 2), _mm512_load_si512(b + 3)};
        PW_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const __m512i a0 = _mm512_set1_epi64(static_cast<long long>(a[r * stride + 2 * p]));
            const __m512i a1 = _mm512_set1_epi64(static_cast<long long>(a[r * stride + 2 * p + 1]));
            PW_UNROLL
            for (int c = 0; c < 2; ++c) {
                const __m512i x0 = _mm512_xor_si512(first[c], a0);
                const __m512i next = _mm512_ternarylogic_epi64(ones[r][c], both[c], a1, kXor3);
                const __m512i carry = _mm512_ternarylogic_epi64(x0, ones[r][c], next, kCarry);
                ones[r][c] = next;
                sums[r][c] = _mm512_add_epi64(sums[r][c], _mm512_popcnt_epi64(carry));
            }
        }
    }
    const __m256i offset = _mm256_set1_epi32(static_cast<int>(k));
    PW_UNROLL
    for (int r = 0; r < kRows; ++r) {
        PW_UNROLL
        for (int c = 0; c < 2; ++c) {
            const int64_t valid = columns - 8 * c;
            if (valid <= 0) break;
            const __m512i count =
                _mm512_add_epi64(_mm512_slli_epi64(sums[r][c], 1), _mm512_popcnt_epi64(ones[r][c]));
            const __m256i half = _mm512_cvtepi64_epi32(count);
            const __m256i value = _mm256_sub_epi32(offset, _mm256_slli_epi32(half, 1));
            const __mmask8 mask = static_cast<__mmask8>(valid >= 8 ? 255 : (1 << valid) - 1);
            _mm256_mask_storeu_epi32(z + r * z_stride + 8 * c, mask, value);
        }
    }
}

void product(const uint64_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns, int64_t k,
             int32_t* z, int64_t z_stride, uint8_t* scratch) {
    const int64_t pairs = pairs_of(words), stride = 2 * pairs;
    uint64_t* left = reinterpret_cast<uint64_t*>(scratch);
    for (int64_t start = 0; start < rows; start += kRowBlock) {
        const int64_t count = rows - start < kRowBlock ? rows - start : kRowBlock;
        for (int64_t r = 0; r < count; ++r) {
            const uint64_t* source = a + (start + r) * words;
            uint64_t* out = left + r * stride;
            for (int64_t w = 0; w < words; ++w) out[w] = w % 2 ? source[w] ^ source[w - 1] : source[w];
            if (words % 2) out[words] = source[words - 1];
        }
        const uint8_t* panel = panels;
        for (int64_t n = 0; n < columns; n += kColumns, panel += panel_bytes(words)) {
            int32_t* out = z + start * z_stride + n;
            int64_t r = 0;
            for (; r + kTileRows <= count; r += kTileRows) {
                tile<kTileRows>(left + r * stride, stride, pairs, panel, columns - n, k, out + r * z_stride, z_stride);
            }
            for (; r < count; ++r) {
                tile<1>(left + r * stride, stride, pairs, panel, columns - n, k, out + r * z_stride, z_stride);
            }
        }
    }
}

void product_rows(const uint64_t* a, int64_t rows, const uint64_t* b, int64_t columns, int64_t words, int64_t k,
                  int32_t* z, int64_t z_stride) {
    for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
            const uint64_t *left = a + m * words, *right = b + n * words;
            __m512i sum = _mm512_setzero_si512();
            for (int64_t w = 0; w < words; w += 8) {
                const int64_t rest = words - w;
                const __mmask8 mask = static_cast<__mmask8>(rest >= 8 ? 255 : (1 << rest) - 1);
                const __m512i differing = _mm512_xor_si512(_mm512_maskz_loadu_epi64(mask, left + w),
                                                           _mm512_maskz_loadu_epi64(mask, right + w));
                sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differing));
            }
            z[m * z_stride + n] = static_cast<int32_t>(k - 2 * _mm512_reduce_add_epi64(sum));
        }
    }
}

int64_t pack_signs(const float* x, int64_t count, uint64_t* words) {
    const __m512 zero = _mm512_setzero_ps();
    int64_t start = 0;
    for (; start < count; start += 64) {
        uint64_t word = 0, unordered = 0;
        for (int i = 0; i < 4; ++i) {
            const int64_t rest = count - start - 16 * i;
            const __mmask16 mask = static_cast<__mmask16>(rest >= 16 ? 65535 : rest <= 0 ? 0 : (1 << rest) - 1);
            const __m512 v = _mm512_maskz_loadu_ps(mask, x + start + 16 * i);
            word |= static_cast<uint64_t>(_mm512_mask_cmp_ps_mask(mask, v, zero, _CMP_GE_OQ)) << (16 * i);
            unordered |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        }
        if (unordered) break;
        words[start / 64] = word;
    }
    if (start >= count) return -1;
    const int64_t rest = portable_kernels()->pack_signs(x + start, count - start, words + start / 64);
    return rest < 0 ? -1 : start + rest;
}

void threshold(const int32_t* z, const int32_t* limit, const uint64_t* invert, int64_t count, uint64_t* words) {
    for (int64_t start = 0; start < count; start += 64) {
        uint64_t word = 0, valid = 0;
        for (int i = 0; i < 4; ++i) {
            const int64_t rest = count - start - 16 * i;
            const __mmask16 mask = static_cast<__mmask16>(rest >= 16 ? 65535 : rest <= 0 ? 0 : (1 << rest) - 1);
            const __mmask16 greater =
                _mm512_mask_cmpgt_epi32_mask(mask, _mm512_maskz_loadu_epi32(mask, z + start + 16 * i),
                                             _mm512_maskz_loadu_epi32(mask, limit + start + 16 * i));
            word |= static_cast<uint64_t>(greater) << (16 * i);
            valid |= static_cast<uint64_t>(mask) << (16 * i);
        }
        words[start / 64] = (word ^ invert[start / 64]) & valid;
    }
}

Kernels make() {
    Kernels kernels = *avx512bw_kernels();
    kernels.name = "avx512vpopcnt";
    kernels.pack_signs = pack_signs;
    kernels.threshold = threshold;
    kernels.panel_columns = kColumns;
    kernels.row_block = kRowBlock;
    kernels.panel_bytes = panel_bytes;
    kernels.pack_panel = pack_panel;
    kernels.scratch_bytes = scratch_bytes;
    kernels.product = product;
    kernels.product_rows = product_rows;
    return kernels;
}

}  // namespace

const Kernels* avx512vpopcnt_kernels() {
    static const Kernels kernels = make();
    return &kernels;
}

}  // namespace pennyweight
