// Products of integers of 1 to 8 bits, each bit of an operand a plane of packed words.
//
// A plane's bits are taken as signs s_i = 2 b_i - 1, so that every pair of planes is one binary product of the path in
// use, and A = sum over i of 2^i s_i is an odd integer (A = 2 u - (2^bits - 1) for the unsigned code u). An operand's
// value is a = (gain A + offset) / 2 with integers of the format: gain 1 and offset 2^bits - 1 + 2 low for codes that
// start at `low`, gain 2 and offset 0 for signs. Then
//     4 a.b = gain_a gain_b A.B + gain_a offset_b sum(A) + offset_a gain_b sum(B) + K offset_a offset_b,
// where the sums run along K, one a row, and A.B is the sum of the planes' products times 2^(i + j).
#include <string.h>

#include <atomic>

#include "kernels.h"
#include "registry.h"
#include "tiles.h"

#define PW_API extern "C" __attribute__((visibility("default")))

namespace pennyweight {
namespace {

constexpr int64_t kRows = 16;       // of a tile: its planes' sums stay in the second-level cache
constexpr int64_t kColumns = 256;

// Bit `plane` of 8 codes, a byte each, as one byte: the multiplication gathers the lowest bits at the top.
inline uint64_t gather(uint64_t codes, int plane) {
    return ((codes >> plane & 0x0101010101010101u) * 0x0102040810204080u) >> 56;
}

inline uint64_t load8(const uint8_t* codes) {
    uint64_t eight;
    memcpy(&eight, codes, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    eight = __builtin_bswap64(eight);
#endif
    return eight;
}

inline int64_t popcount(uint64_t v) {
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<int64_t>((v * 0x0101010101010101u) >> 56);
}

// Planes of `k` codes, each plane `words` words; returns sum over k of A.
template <int kBits>
int64_t pack_planes(const uint8_t* codes, int64_t k, int64_t words, uint64_t* planes) {
    int64_t sum = 0;
    for (int64_t w = 0; w < words; ++w) {
        const uint8_t* from = codes + 64 * w;
        uint8_t last[64];
        if (k - 64 * w < 64) {
            memset(last, 0, sizeof last);
            memcpy(last, from, static_cast<size_t>(k - 64 * w));
            from = last;
        }
        uint64_t packed[kBits] = {};
        for (int start = 0; start < 64; start += 8) {
            const uint64_t eight = load8(from + start);
            PW_UNROLL
            for (int i = 0; i < kBits; ++i) packed[i] |= gather(eight, i) << start;
        }
        PW_UNROLL
        for (int i = 0; i < kBits; ++i) {
            planes[i * words + w] = packed[i];
            sum += popcount(packed[i]) << i;
        }
    }
    return 2 * sum - k * ((int64_t{1} << kBits) - 1);
}

int64_t pack_row(const uint8_t* codes, int64_t k, int bits, int64_t words, uint64_t* planes) {
    switch (bits) {
        case 1: return pack_planes<1>(codes, k, words, planes);
        case 2: return pack_planes<2>(codes, k, words, planes);
        case 3: return pack_planes<3>(codes, k, words, planes);
        case 4: return pack_planes<4>(codes, k, words, planes);
        case 5: return pack_planes<5>(codes, k, words, planes);
        case 6: return pack_planes<6>(codes, k, words, planes);
        case 7: return pack_planes<7>(codes, k, words, planes);
        default: return pack_planes<8>(codes, k, words, planes);
    }
}

// codes = clamp(codes, low, high) - start, as bytes.
void clamp(int8_t* codes, int64_t k, int8_t low, int8_t high, int8_t start) {
    for (int64_t c = 0; c < k; ++c) {
        const int8_t above = codes[c] < low ? low : codes[c];
        const int8_t within = above > high ? high : above;
        codes[c] = static_cast<int8_t>(static_cast<uint8_t>(within) - static_cast<uint8_t>(start));
    }
}

// acc += sum over the planes i of a row of 2^i z[i], times 2^shift.
void add_planes(const int32_t* z, int bits, int64_t columns, int shift, int32_t* acc) {
    for (int i = 0; i < bits; ++i) {
        const int32_t* from = z + i * columns;
        const int32_t factor = int32_t{1} << (i + shift);
        for (int64_t c = 0; c < columns; ++c) acc[c] += factor * from[c];
    }
}

struct Operand {
    int bits;
    int64_t gain, offset;
    const int64_t* sums;
};

void multiply(const Kernels* p, const uint64_t* a, const Operand& left, int64_t m, int64_t k, const uint8_t* b,
              const Operand& right, int64_t n, int32_t* z, int threads) {
    const int64_t words = ceil_div(k, 64), panel = p->panel_bytes(words);
    const int64_t plane_bytes = ceil_div(n, p->panel_columns) * panel;
    const double work = static_cast<double>(m * left.bits) * static_cast<double>(n * right.bits) * static_cast<double>(k);
    if (m <= 0 || n <= 0) return;
    const int64_t column_tasks = ceil_div(n, kColumns);
    parallel_for(ceil_div(m, kRows) * column_tasks, work < kParallelWork ? 1 : threads, [&](int64_t task) {
        thread_local Buffer scratch, plane_sums, totals;
        const int64_t row = task / column_tasks * kRows, column = task % column_tasks * kColumns;
        const int64_t rows = m - row < kRows ? m - row : kRows;
        const int64_t columns = n - column < kColumns ? n - column : kColumns;
        const int64_t planes = rows * left.bits;
        int32_t* sums = reinterpret_cast<int32_t*>(plane_sums.reserve(planes * columns * 4));
        int32_t* total = reinterpret_cast<int32_t*>(totals.reserve(rows * columns * 4));
        uint8_t* own = scratch.reserve(p->scratch_bytes(planes, columns, words));
        memset(total, 0, static_cast<size_t>(rows * columns) * 4);
        for (int j = 0; j < right.bits; ++j) {
            p->product(a + row * left.bits * words, planes, words,
                       b + j * plane_bytes + column / p->panel_columns * panel, columns, k, sums, columns, own);
            for (int64_t r = 0; r < rows; ++r) {
                add_planes(sums + r * left.bits * columns, left.bits, columns, j, total + r * columns);
            }
        }
        const int64_t gain = left.gain * right.gain, both = k * left.offset * right.offset;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t of_row = left.gain * right.offset * left.sums[row + r] + both;
            int32_t* out = z + (row + r) * n + column;
            for (int64_t c = 0; c < columns; ++c) {
                const int64_t four = gain * total[r * columns + c] + of_row +
                                     left.offset * right.gain * right.sums[column + c];
                out[c] = static_cast<int32_t>(four / 4);
            }
        }
    });
}

}  // namespace
}  // namespace pennyweight

using namespace pennyweight;

// Codes (rows, k) to planes (rows, bits, words) and the sum of A along each row.
PW_API void pw_pack_planes(const uint8_t* codes, int64_t rows, int64_t k, int bits, uint64_t* planes, int64_t* sums,
                           int threads) {
    const int64_t words = ceil_div(k, 64);
    parallel_for(rows, rows * k < 262144 ? 1 : threads, [&](int64_t r) {
        sums[r] = pack_row(codes + r * k, k, bits, words, planes + r * bits * words);
    });
}

// The same from floats: codes are clamp(round_half_even(x / scale), low, high) - start, low and high within int8.
// Returns the first NaN's index, or -1.
PW_API int64_t pw_quantize_planes(int index, const float* x, int64_t rows, int64_t k, float scale, int low, int high,
                                  int start, int bits, uint64_t* planes, int64_t* sums, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64);
    std::atomic<int64_t> bad{INT64_MAX};
    parallel_for(rows, rows * k < 262144 ? 1 : threads, [&](int64_t r) {
        thread_local Buffer buffer;
        int8_t* codes = reinterpret_cast<int8_t*>(buffer.reserve(k));
        const int64_t at = p->quantize(x + r * k, k, scale, codes);
        if (at >= 0) {
            int64_t known = bad.load();
            while (r * k + at < known && !bad.compare_exchange_weak(known, r * k + at)) {
            }
            return;
        }
        clamp(codes, k, static_cast<int8_t>(low), static_cast<int8_t>(high), static_cast<int8_t>(start));
        sums[r] = pack_row(reinterpret_cast<const uint8_t*>(codes), k, bits, words, planes + r * bits * words);
    });
    return bad.load() == INT64_MAX ? -1 : bad.load();
}

// z (m, n) of planes a (m, bits_a, words) and b, whose planes lie one after the other as panels of this path.
PW_API void pw_plane_product(int index, const uint64_t* a, int bits_a, const int64_t* ends_a, const int64_t* sums_a,
                             int64_t m, int64_t k, const uint8_t* b, int bits_b, const int64_t* ends_b,
                             const int64_t* sums_b, int64_t n, int32_t* z, int threads) {
    multiply(path(index), a, {bits_a, ends_a[0], ends_a[1], sums_a}, m, k, b, {bits_b, ends_b[0], ends_b[1], sums_b}, n,
             z, threads);
}
