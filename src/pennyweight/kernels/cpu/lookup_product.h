// Binary product by table look-up, for instruction sets with a byte shuffle and no vector popcount (AVX2, AVX-512BW).
//
// One byte shuffle looks up, for 32 or 64 columns at once, how many of 4 bits differ from 4 bits of the left operand.
// A table entry is a byte and a count of 4 needs three bits, so an entry carries the counts of TWO rows, one in each
// nibble: there are only 256 such tables, one for each pair of nibbles. Three look-ups are added before a nibble can
// overflow (3 * 4 = 12), giving t. Two running sums per pair of rows then suffice, both modulo 256 and without any
// masking: V += t and S += (t as 16-bit words) >> 4. With columns 2c and 2c+1 as low and high byte of a word, and
// (low0, high0), (low1, high1) their counts of the two rows,
//     S.high = sum high1,                   V.high = sum low1 + 16 sum high1,
//     S.low  = 16 sum low1 + sum high0,     V.low  = sum low0 + 16 sum high0      (mod 256),
// which is solved from the top as long as every sum is below 256, that is for 60 look-ups (240 bits of K).
// The inner step is 3 shuffles, 4 adds and 1 shift for 2 rows x 32 columns x 12 bits.
//
// Included by one file per instruction set, inside an anonymous namespace so that no two of them share a symbol.
// The including file defines `Vector` with: lanes, and static load, store, zero, set, add8, add16, sub16, and_, shift
// right/left of 16-bit words by 4, shift right by 8, lookup(table16, index), broadcast of 16 bytes.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

constexpr int kBlockBytes = 30;               // bytes of K whose counts fit the 8-bit sums
constexpr int kBlockLookups = 2 * kBlockBytes;
constexpr int kQuad = 4;                      // pairs of rows in a register tile
constexpr int kLookupRowBlock = 32;                 // rows whose tables stay in the first-level cache
constexpr int64_t kWideBytes = 273 * kBlockBytes;  // bytes of K whose counts fit 16 bits

struct PairTables {
    alignas(64) uint8_t entry[256][16];
};

constexpr PairTables make_pair_tables() {
    PairTables tables{};
    for (int pair = 0; pair < 256; ++pair) {
        for (int index = 0; index < 16; ++index) {
            int low = 0, high = 0;
            for (int bit = 0; bit < 4; ++bit) {
                low += (((pair & 15) ^ index) >> bit) & 1;
                high += (((pair >> 4) ^ index) >> bit) & 1;
            }
            tables.entry[pair][index] = static_cast<uint8_t>(low | (high << 4));
        }
    }
    return tables;
}

constexpr PairTables kPairTables = make_pair_tables();

// The low nibbles of a byte's columns, then the high ones, as look-up indices.
template <class Vector>
void unpack_nibbles(const uint8_t* panel, int64_t bytes, uint8_t* indices) {
    const typename Vector::type mask = Vector::set8(15);
    for (int64_t j = 0; j < bytes; ++j) {
        const typename Vector::type both = Vector::load(panel + j * Vector::lanes);
        Vector::store(indices + 2 * j * Vector::lanes, Vector::and_(both, mask));
        Vector::store(indices + (2 * j + 1) * Vector::lanes, Vector::and_(Vector::shift_right4(both), mask));
    }
}

// Adds kScale * counts (8 unsigned 16-bit numbers) to 8 columns of z, or to `start` for the first block of K.
template <int kScale>
void add_counts(__m128i counts, bool first, int32_t start, int64_t valid, int32_t* z) {
    if (valid <= 0) return;
    const __m256i wide = _mm256_mullo_epi32(_mm256_cvtepu16_epi32(counts), _mm256_set1_epi32(kScale));
    if (valid >= 8) {
        __m256i* out = reinterpret_cast<__m256i*>(z);
        const __m256i before = first ? _mm256_set1_epi32(start) : _mm256_loadu_si256(out);
        _mm256_storeu_si256(out, _mm256_add_epi32(before, wide));
        return;
    }
    alignas(32) int32_t values[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(values), wide);
    for (int64_t c = 0; c < valid; ++c) z[c] = (first ? start : z[c]) + values[c];
}

template <class Vector>
struct LookupProduct {
    static constexpr int64_t kColumns = Vector::lanes;
    static constexpr int64_t kHalf = kColumns / 2;
    using V = typename Vector::type;

    static int64_t panel_bytes(int64_t words) { return words * 8 * kColumns; }

    // Byte j of the panel's column c lies at [j * kColumns + c].
    static void pack_panel(const uint64_t* b, int64_t columns, int64_t words, uint8_t* panel) {
        if (columns < kColumns) memset(panel, 0, static_cast<size_t>(panel_bytes(words)));
        for (int64_t w = 0; w < words; ++w) {
            uint8_t* base = panel + w * 8 * kColumns;
            int64_t c = 0;
            for (; c + 8 <= columns; c += 8) transpose8(b + c * words + w, words, base + c);
            for (; c < columns; ++c) {
                const uint64_t word = b[c * words + w];
                for (int j = 0; j < 8; ++j) base[j * kColumns + c] = static_cast<uint8_t>(word >> (8 * j));
            }
        }
    }

    static int64_t scratch_bytes(int64_t rows, int64_t columns, int64_t words) {
        const int64_t panels = (columns + kColumns - 1) / kColumns;
        if (rows == 1) return words * 16 * 16 + 64;
        return panels * kLookupRowBlock * kColumns * 2 + kLookupRowBlock / 2 * kBlockLookups * 16 + kBlockLookups * kColumns + 64;
    }

    static void product(const uint64_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns,
                        int64_t k, int32_t* z, int64_t z_stride, uint8_t* scratch) {
        scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64;
        const int64_t bytes = (k + 7) / 8;
        if (rows == 1) {
            single_row(reinterpret_cast<const uint8_t*>(a), bytes, words, panels, columns, k, z, scratch);
            return;
        }
        for (int64_t r = 0; r < rows; r += kLookupRowBlock) {
            const int64_t count = rows - r < kLookupRowBlock ? rows - r : kLookupRowBlock;
            int64_t done = 0;
            do {
                const int64_t stop = bytes - done < kWideBytes ? bytes : done + kWideBytes;
                row_block(reinterpret_cast<const uint8_t*>(a + r * words), count, words, panels, columns, done, stop, k,
                          z + r * z_stride, z_stride, scratch);
                done = stop;
            } while (done < bytes);
        }
    }

   private:
    // Eight columns' words to eight rows of eight bytes.
    static void transpose8(const uint64_t* b, int64_t stride, uint8_t* out) {
        uint64_t x[8];
        for (int c = 0; c < 8; ++c) x[c] = b[c * stride];
        for (int c = 0; c < 4; ++c) {
            const uint64_t t = (x[c] >> 32 ^ x[c + 4]) & 0x00000000ffffffffu;
            x[c + 4] ^= t, x[c] ^= t << 32;
        }
        for (int c = 0; c < 8; c += (c & 1) ? 3 : 1) {
            const uint64_t t = (x[c] >> 16 ^ x[c + 2]) & 0x0000ffff0000ffffu;
            x[c + 2] ^= t, x[c] ^= t << 16;
        }
        for (int c = 0; c < 8; c += 2) {
            const uint64_t t = (x[c] >> 8 ^ x[c + 1]) & 0x00ff00ff00ff00ffu;
            x[c + 1] ^= t, x[c] ^= t << 8;
        }
        for (int j = 0; j < 8; ++j) memcpy(out + j * kColumns, &x[j], 8);
    }

    // tables[quad][lookup][pair of the quad][16]; absent rows and look-ups get the table of zeros.
    static void build_tables(const uint8_t* a, int64_t rows, int64_t row_bytes, int64_t start, int64_t bytes,
                             int64_t lookups, uint8_t* tables) {
        uint8_t index[kBlockLookups];
        for (int64_t pair = 0; 2 * pair < rows; ++pair) {
            uint8_t* out = tables + (pair / kQuad * kBlockLookups * kQuad + pair % kQuad) * 16;
            const uint8_t* low = a + 2 * pair * row_bytes + start;
            const bool single = 2 * pair + 1 == rows;
            const uint8_t* high = single ? low : low + row_bytes;
            for (int64_t j = 0; j < bytes; ++j) {
                index[2 * j] = static_cast<uint8_t>((low[j] & 15) | (high[j] << 4));
                index[2 * j + 1] = static_cast<uint8_t>((low[j] >> 4) | (high[j] & 240));
            }
            for (int64_t g = 0; g < 2 * bytes; ++g) memcpy(out + g * kQuad * 16, kPairTables.entry[index[g]], 16);
            for (int64_t g = 2 * bytes; g < lookups; ++g) memset(out + g * kQuad * 16, 0, 16);
        }
    }

    template <int kPairs>
    static void tile(const uint8_t* tables, const uint8_t* indices, int64_t steps, uint16_t* sums) {
        V v[kPairs], s[kPairs];
        PW_UNROLL
        for (int p = 0; p < kPairs; ++p) v[p] = s[p] = Vector::zero();
        for (int64_t i = 0; i < steps; ++i) {
            const V i0 = Vector::load(indices), i1 = Vector::load(indices + kColumns),
                    i2 = Vector::load(indices + 2 * kColumns);
            PW_UNROLL
            for (int p = 0; p < kPairs; ++p) {
                V t = Vector::lookup(Vector::broadcast16(tables + p * 16), i0);
                t = Vector::add8(t, Vector::lookup(Vector::broadcast16(tables + (kQuad + p) * 16), i1));
                t = Vector::add8(t, Vector::lookup(Vector::broadcast16(tables + (2 * kQuad + p) * 16), i2));
                v[p] = Vector::add8(v[p], t);
                s[p] = Vector::add8(s[p], Vector::shift_right4(t));
            }
            tables += 3 * kQuad * 16;
            indices += 3 * kColumns;
        }
        const V byte = Vector::set16(255);
        PW_UNROLL
        for (int p = 0; p < kPairs; ++p) {
            const V high1 = Vector::shift_right8(s[p]);
            const V low1 = Vector::and_(Vector::sub16(Vector::shift_right8(v[p]), Vector::shift_left4(high1)), byte);
            const V high0 = Vector::and_(Vector::sub16(s[p], Vector::shift_left4(low1)), byte);
            const V low0 = Vector::and_(Vector::sub16(v[p], Vector::shift_left4(high0)), byte);
            uint16_t* out = sums + p * 2 * kColumns;
            accumulate(out, low0), accumulate(out + kHalf, low1);
            accumulate(out + 2 * kHalf, high0), accumulate(out + 3 * kHalf, high1);
        }
    }

    static void accumulate(uint16_t* sums, V value) { Vector::store(sums, Vector::add16(Vector::load(sums), value)); }

    static void row_block(const uint8_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns,
                          int64_t start, int64_t stop, int64_t k, int32_t* z, int64_t z_stride, uint8_t* scratch) {
        const int64_t count = (columns + kColumns - 1) / kColumns;
        const int64_t pairs = (rows + 1) / 2;
        uint8_t* indices = scratch;
        uint8_t* tables = indices + kBlockLookups * kColumns;
        uint16_t* sums = reinterpret_cast<uint16_t*>(tables + kLookupRowBlock / 2 * kBlockLookups * 16);
        memset(sums, 0, static_cast<size_t>(count * pairs * 2 * kColumns) * 2);
        // The last step of a block may look up beyond its bytes, in tables of zeros: any index will do.
        memset(indices, 0, static_cast<size_t>(kBlockLookups * kColumns));
        for (int64_t byte = start; byte < stop; byte += kBlockBytes) {
            const int64_t bytes = stop - byte < kBlockBytes ? stop - byte : kBlockBytes;
            const int64_t steps = (2 * bytes + 2) / 3;
            build_tables(a, rows, words * 8, byte, bytes, 3 * steps, tables);
            for (int64_t panel = 0; panel < count; ++panel) {
                unpack_nibbles<Vector>(panels + panel * panel_bytes(words) + byte * kColumns, bytes, indices);
                uint16_t* panel_sums = sums + panel * pairs * 2 * kColumns;
                for (int64_t p = 0; p < pairs; p += kQuad) {
                    const uint8_t* quad = tables + p * kBlockLookups * 16;
                    uint16_t* out = panel_sums + p * 2 * kColumns;
                    switch (pairs - p < kQuad ? pairs - p : kQuad) {
                        case 1: tile<1>(quad, indices, steps, out); break;
                        case 2: tile<2>(quad, indices, steps, out); break;
                        case 3: tile<3>(quad, indices, steps, out); break;
                        default: tile<4>(quad, indices, steps, out); break;
                    }
                }
            }
        }
        for (int64_t panel = 0; panel < count; ++panel) {
            const int64_t n = panel * kColumns;
            const int64_t valid = columns - n < kColumns ? columns - n : kColumns;
            for (int64_t r = 0; r < rows; ++r) {
                write_row(sums + (panel * pairs + r / 2) * 2 * kColumns + r % 2 * kColumns, start == 0, k, valid,
                          z + r * z_stride + n);
            }
        }
    }

    // Sums lie as [even columns][odd columns].
    static void write_row(const uint16_t* sums, bool first, int64_t k, int64_t valid, int32_t* z) {
        const int32_t start = static_cast<int32_t>(k);
        for (int64_t c = 0; c < kHalf; c += 8) {
            const __m128i even = _mm_load_si128(reinterpret_cast<const __m128i*>(sums + c));
            const __m128i odd = _mm_load_si128(reinterpret_cast<const __m128i*>(sums + kHalf + c));
            add_counts<-2>(_mm_unpacklo_epi16(even, odd), first, start, valid - 2 * c, z + 2 * c);
            add_counts<-2>(_mm_unpackhi_epi16(even, odd), first, start, valid - 2 * c - 8, z + 2 * c + 8);
        }
    }

    // One row: counts of single nibbles, no pairing; bound by reading the panels.
    static void single_row(const uint8_t* a, int64_t bytes, int64_t words, const uint8_t* panels, int64_t columns,
                           int64_t k, int32_t* z, uint8_t* tables) {
        const V low_nibble = Vector::set8(15), low_byte = Vector::set16(255);
        for (int64_t j = 0; j < bytes; ++j) {
            memcpy(tables + 32 * j, kPairTables.entry[a[j] & 15], 16);
            memcpy(tables + 32 * j + 16, kPairTables.entry[a[j] >> 4], 16);
        }
        for (int64_t j = 0; j < 32 * bytes; ++j) tables[j] &= 15;
        for (int64_t n = 0; n < columns; n += kColumns, panels += panel_bytes(words)) {
            const int64_t valid = columns - n < kColumns ? columns - n : kColumns;
            bool first = true;
            int64_t done = 0;
            do {
                const int64_t wide_stop = bytes - done < kWideBytes ? bytes : done + kWideBytes;
                V even = Vector::zero(), odd = Vector::zero();
                while (done < wide_stop) {
                    const int64_t stop = wide_stop - done < kBlockBytes ? wide_stop : done + kBlockBytes;
                    V low = Vector::zero(), high = Vector::zero();
                    for (; done < stop; ++done) {
                        const V both = Vector::load(panels + done * kColumns);
                        low = Vector::add8(low, Vector::lookup(Vector::broadcast16(tables + 32 * done),
                                                               Vector::and_(both, low_nibble)));
                        high = Vector::add8(
                            high, Vector::lookup(Vector::broadcast16(tables + 32 * done + 16),
                                                 Vector::and_(Vector::shift_right4(both), low_nibble)));
                    }
                    const V sum = Vector::add8(low, high);
                    even = Vector::add16(even, Vector::and_(sum, low_byte));
                    odd = Vector::add16(odd, Vector::shift_right8(sum));
                }
                alignas(64) uint16_t sums[kColumns];
                Vector::store(sums, even), Vector::store(sums + kHalf, odd);
                write_row(sums, first, k, valid, z + n);
                first = false;
            } while (done < bytes);
        }
    }
};

}  // namespace
}  // namespace pennyweight
