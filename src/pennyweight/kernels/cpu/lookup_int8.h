// First-layer product (int8 codes times packed signs) by table look-up, on the same panels as lookup_product.h.
//
// For 4 codes of a row there are 16 possible sums of a selection of them, one for each nibble of weights. A sum is
// between -512 and 508; with 512 added it is 10 bits, held as two bytes of 5 bits in two tables of 16. One shuffle of
// each table serves 4 steps of K for 32 or 64 columns; the bytes of 8 look-ups are added before they could overflow
// (8 * 31 = 248), then joined to 16 bits, and after 64 look-ups to 32. The weights stand for 0 and 1, so the product is
// 2 * sum(selected x) - sum(x).
//
// Included by one file per instruction set, inside an anonymous namespace; `Vector` as in lookup_product.h, with
// interleave_low/high of bytes and multiply_pairs (unsigned bytes by signed bytes, adjacent products added).
#pragma once

#include <immintrin.h>
#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

constexpr int64_t kInt8RowBlock = 8;  // rows whose tables stay in the first-level cache
constexpr int kInt8Rows = 4;
constexpr int64_t kInt8Burst = 8;     // look-ups whose 5-bit values fit a byte
constexpr int64_t kInt8Lookups = 64;  // look-ups whose 10-bit values fit 16 bits
constexpr int64_t kInt8TableBytes = 32;

// The two tables of four codes, low 5 bits then high 5 bits.
inline void build_int8_table(const int8_t* x, uint8_t* table) {
    // Rows of 4 selection bits for the entries 0-3 and 8-11, and 4-7 and 12-15: packing restores their order.
    const __m256i first = _mm256_setr_epi32(0x00000000, 0x00000001, 0x00000100, 0x00000101, 0x01000000, 0x01000001,
                                            0x01000100, 0x01000101);
    const __m256i second = _mm256_or_si256(first, _mm256_set1_epi32(0x00010000));
    const __m256i one = _mm256_set1_epi16(1);
    int32_t four;
    memcpy(&four, x, 4);
    const __m256i codes = _mm256_set1_epi32(four);
    const __m256i sums =
        _mm256_add_epi16(_mm256_packs_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(first, codes), one),
                                            _mm256_madd_epi16(_mm256_maddubs_epi16(second, codes), one)),
                         _mm256_set1_epi16(512));
    const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(sums, _mm256_set1_epi16(31)), _mm256_srli_epi16(sums, 5));
    _mm256_store_si256(reinterpret_cast<__m256i*>(table), _mm256_permute4x64_epi64(bytes, 0xd8));
}

template <class Vector>
struct LookupInt8 {
    static constexpr int64_t kColumns = Vector::lanes;
    using V = typename Vector::type;

    static int64_t panel_bytes(int64_t k) { return (k + 63) / 64 * 8 * kColumns; }

    static void pack_panel(const uint64_t* w, int64_t columns, int64_t k, uint8_t* panel) {
        LookupProduct<Vector>::pack_panel(w, columns, (k + 63) / 64, panel);
    }

    static int64_t scratch_bytes(int64_t rows, int64_t, int64_t k) {
        return kInt8RowBlock * (k + 8) + kInt8RowBlock * 4 +
               (rows == 1 ? (k + 7) / 8 * 2 : kInt8RowBlock * kInt8Lookups) * kInt8TableBytes +
               kInt8Lookups * kColumns + 128;
    }

    static void product(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                        int64_t z_stride, uint8_t* scratch) {
        scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64;
        for (int64_t r = 0; r < rows; r += kInt8RowBlock) {
            const int64_t count = rows - r < kInt8RowBlock ? rows - r : kInt8RowBlock;
            if (rows == 1) {
                single_row(x, panels, columns, k, z, scratch);
            } else {
                row_block(x + r * k, count, panels, columns, k, z + r * z_stride, z_stride, scratch);
            }
        }
    }

   private:
    // The row padded with zeros to whole bytes of weights; returns its sum.
    static int32_t pad_row(const int8_t* x, int64_t k, int8_t* padded) {
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += x[i];
        memcpy(padded, x, static_cast<size_t>(k));
        memset(padded + k, 0, 8);
        return sum;
    }

    static int32_t start_value(int64_t k, int32_t row_sum) {
        return static_cast<int32_t>(-1024 * ((k + 7) / 8 * 2)) - row_sum;
    }

    // `a` holds each 128-bit lane's columns 0-7 and `b` its columns 8-15.
    static void write(V a, V b, int64_t valid, bool first, int32_t start, int32_t* z) {
        alignas(64) __m128i left[kColumns / 16], right[kColumns / 16];
        Vector::store(left, a), Vector::store(right, b);
        PW_UNROLL
        for (int lane = 0; lane < kColumns / 16; ++lane) {
            add_counts<2>(left[lane], first, start, valid - 16 * lane, z + 16 * lane);
            add_counts<2>(right[lane], first, start, valid - 16 * lane - 8, z + 16 * lane + 8);
        }
    }

    static V join(V low, V high, bool upper) {
        const V weights = Vector::set16(1 | 32 << 8);
        return Vector::multiply_pairs(
            upper ? Vector::interleave_high(low, high) : Vector::interleave_low(low, high), weights);
    }

    template <int kRows>
    static void tile(const uint8_t* tables, const uint8_t* indices, int64_t lookups, int64_t valid, bool first,
                     const int32_t* starts, int32_t* z, int64_t z_stride) {
        V a[kRows], b[kRows];
        PW_UNROLL
        for (int r = 0; r < kRows; ++r) a[r] = b[r] = Vector::zero();
        for (int64_t g = 0; g < lookups; g += kInt8Burst) {
            const int64_t stop = lookups - g < kInt8Burst ? lookups : g + kInt8Burst;
            V low[kRows], high[kRows];
            PW_UNROLL
            for (int r = 0; r < kRows; ++r) low[r] = high[r] = Vector::zero();
            for (int64_t i = g; i < stop; ++i) {
                const V index = Vector::load(indices + i * kColumns);
                const uint8_t* table = tables + i * kInt8TableBytes;
                PW_UNROLL
                for (int r = 0; r < kRows; ++r, table += kInt8Lookups * kInt8TableBytes) {
                    low[r] = Vector::add8(low[r], Vector::lookup(Vector::broadcast16(table), index));
                    high[r] = Vector::add8(high[r], Vector::lookup(Vector::broadcast16(table + 16), index));
                }
            }
            PW_UNROLL
            for (int r = 0; r < kRows; ++r) {
                a[r] = Vector::add16(a[r], join(low[r], high[r], false));
                b[r] = Vector::add16(b[r], join(low[r], high[r], true));
            }
        }
        PW_UNROLL
        for (int r = 0; r < kRows; ++r) write(a[r], b[r], valid, first, starts[r], z + r * z_stride);
    }

    static void row_block(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                          int64_t z_stride, uint8_t* scratch) {
        const int64_t bytes = (k + 7) / 8, stride = k + 8;
        uint8_t* indices = scratch;
        uint8_t* tables = indices + kInt8Lookups * kColumns;
        int32_t* starts = reinterpret_cast<int32_t*>(tables + kInt8RowBlock * kInt8Lookups * kInt8TableBytes);
        int8_t* padded = reinterpret_cast<int8_t*>(starts + kInt8RowBlock);
        for (int64_t r = 0; r < rows; ++r) starts[r] = start_value(k, pad_row(x + r * k, k, padded + r * stride));
        int64_t byte = 0;
        do {
            const int64_t count = bytes - byte < kInt8Lookups / 2 ? bytes - byte : kInt8Lookups / 2;
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t g = 0; g < 2 * count; ++g) {
                    build_int8_table(padded + r * stride + 8 * byte + 4 * g,
                                     tables + (r * kInt8Lookups + g) * kInt8TableBytes);
                }
            }
            for (int64_t n = 0; n < columns; n += kColumns) {
                const int64_t valid = columns - n < kColumns ? columns - n : kColumns;
                unpack_nibbles<Vector>(panels + n / kColumns * panel_bytes(k) + byte * kColumns, count, indices);
                int64_t r = 0;
                for (; r + kInt8Rows <= rows; r += kInt8Rows) {
                    tile<kInt8Rows>(tables + r * kInt8Lookups * kInt8TableBytes, indices, 2 * count, valid, byte == 0,
                                    starts + r, z + r * z_stride + n, z_stride);
                }
                for (; r < rows; ++r) {
                    tile<1>(tables + r * kInt8Lookups * kInt8TableBytes, indices, 2 * count, valid, byte == 0,
                            starts + r, z + r * z_stride + n, z_stride);
                }
            }
            byte += count;
        } while (byte < bytes);
    }

    // One row: the nibbles are taken from the panels as they are used.
    static void single_row(const int8_t* x, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                           uint8_t* scratch) {
        const int64_t bytes = (k + 7) / 8;
        uint8_t* tables = scratch;
        int8_t* padded = reinterpret_cast<int8_t*>(tables + 2 * bytes * kInt8TableBytes);
        const int32_t start = start_value(k, pad_row(x, k, padded));
        for (int64_t g = 0; g < 2 * bytes; ++g) build_int8_table(padded + 4 * g, tables + g * kInt8TableBytes);
        const V mask = Vector::set8(15);
        for (int64_t n = 0; n < columns; n += kColumns, panels += panel_bytes(k)) {
            const int64_t valid = columns - n < kColumns ? columns - n : kColumns;
            int64_t byte = 0;
            do {
                const int64_t block = byte;
                const int64_t block_stop = bytes - byte < kInt8Lookups / 2 ? bytes : byte + kInt8Lookups / 2;
                V a = Vector::zero(), b = Vector::zero();
                while (byte < block_stop) {
                    const int64_t stop = block_stop - byte < kInt8Burst / 2 ? block_stop : byte + kInt8Burst / 2;
                    V low = Vector::zero(), high = Vector::zero();
                    for (; byte < stop; ++byte) {
                        const V both = Vector::load(panels + byte * kColumns);
                        const V even = Vector::and_(both, mask), odd = Vector::and_(Vector::shift_right4(both), mask);
                        const uint8_t* table = tables + 2 * byte * kInt8TableBytes;
                        low = Vector::add8(low, Vector::lookup(Vector::broadcast16(table), even));
                        high = Vector::add8(high, Vector::lookup(Vector::broadcast16(table + 16), even));
                        low = Vector::add8(low, Vector::lookup(Vector::broadcast16(table + 32), odd));
                        high = Vector::add8(high, Vector::lookup(Vector::broadcast16(table + 48), odd));
                    }
                    a = Vector::add16(a, join(low, high, false));
                    b = Vector::add16(b, join(low, high, true));
                }
                write(a, b, valid, block == 0, start, z + n);
            } while (byte < bytes);
        }
    }
};

}  // namespace
}  // namespace pennyweight
