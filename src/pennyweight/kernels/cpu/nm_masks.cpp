// N:M masks by magnitude and unbiased N:M pruning, bit for bit what masks.nm and masks.mvue compute with torch.
//
// Groups are taken four at a time, one a lane, in vectors of 16 bytes, which every 64-bit processor has: one code, and
// so one result, on all of them. Float operations stand in the order of the reference; none may be contracted.
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <atomic>

#include "pool.h"

#define PW_API extern "C" __attribute__((visibility("default")))

namespace {

using pennyweight::parallel_for;

constexpr int64_t kMaxGroup = 64;
constexpr int64_t kTaskGroups = 4096;  // a multiple of 4, so that tasks start with a whole Philox block
constexpr int32_t kInfinity = 0x7F800000;

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
typedef uint64_t Longs __attribute__((vector_size(16)));

Floats same(float x) { return Floats{x, x, x, x}; }
Ints same(int32_t x) { return Ints{x, x, x, x}; }
Floats choose(Ints mask, Floats yes, Floats no) { return (Floats)((mask & (Ints)yes) | (~mask & (Ints)no)); }
Ints larger(Ints a, Ints b) { return ((a > b) & a) | (~(a > b) & b); }
Floats absolute(Floats x) { return (Floats)((Ints)x & same(0x7FFFFFFF)); }
#if defined(__SSE2__)
bool any(Ints mask) { return _mm_movemask_epi8((__m128i)mask) != 0; }
Longs times_even(Words a, Longs factor) { return (Longs)_mm_mul_epu32((__m128i)a, (__m128i)factor); }
void transpose(Floats* r) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }
#else
bool any(Ints mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
Longs times_even(Words a, Longs factor) { return ((Longs)a & Longs{0xFFFFFFFFu, 0xFFFFFFFFu}) * factor; }
void transpose(Floats* r) {
    const Floats a = r[0], b = r[1], c = r[2], d = r[3];
    for (int i = 0; i < 4; ++i) r[i] = Floats{a[i], b[i], c[i], d[i]};
}
#endif

struct Products {
    Words low, high;
};

// The 64-bit products of four words with a constant.
Products times(Words a, uint32_t factor) {
    const Longs wide = {factor, factor}, low = {0xFFFFFFFFu, 0xFFFFFFFFu};
    const Longs even = times_even(a, wide), odd = times_even((Words)((Longs)a >> 32), wide);
    return {(Words)((even & low) | (odd << 32)), (Words)((even >> 32) | (odd & ~low))};
}

// numerics.random.uniform for elements first .. first + count - 1, `first` a multiple of 4; writes whole blocks of 16.
void uniform(uint32_t key0, uint32_t key1, int64_t first, int64_t count, float* u) {
    for (int64_t i = 0; i < count; i += 16) {
        const uint64_t block = static_cast<uint64_t>((first + i) / 4);
        Words c0, c1, c2 = {}, c3 = {};
        for (int lane = 0; lane < 4; ++lane) {
            c0[lane] = static_cast<uint32_t>(block + static_cast<uint64_t>(lane));
            c1[lane] = static_cast<uint32_t>((block + static_cast<uint64_t>(lane)) >> 32);
        }
        uint32_t k0 = key0, k1 = key1;
        for (int round = 0; round < 10; ++round) {
            const Products p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
            c0 = p1.high ^ c1 ^ k0;
            c2 = p0.high ^ c3 ^ k1;
            c1 = p1.low;
            c3 = p0.low;
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        Floats out[4];
        const Words words[4] = {c0, c1, c2, c3};
        for (int j = 0; j < 4; ++j) {
            out[j] = __builtin_convertvector((Ints)(words[j] >> 8), Floats) * same(0x1p-24f);
        }
        transpose(out);
        memcpy(u + i, out, sizeof out);
    }
}

// Four groups as m vectors, lane l holding group l. Groups of a matrix's rows are m floats each, one after another;
// groups of its columns are m rows `stride` floats apart.
void load(const float* x, int64_t m, int64_t stride, int64_t lanes, Floats* group) {
    if (stride > 0 && lanes == 4) {
        for (int64_t i = 0; i < m; ++i) memcpy(&group[i], x + i * stride, 16);
    } else if (stride == 0 && m == 4 && lanes == 4) {
        memcpy(group, x, 64);
        transpose(group);
    } else {
        const int64_t across = stride > 0 ? 1 : m, along = stride > 0 ? stride : 1;
        for (int64_t i = 0; i < m; ++i) {
            group[i] = same(0.0f);
            for (int64_t lane = 0; lane < lanes; ++lane) group[i][lane] = x[lane * across + i * along];
        }
    }
}

void store(const Floats* group, int64_t m, int64_t stride, int64_t lanes, float* out) {
    if (stride > 0 && lanes == 4) {
        for (int64_t i = 0; i < m; ++i) memcpy(out + i * stride, &group[i], 16);
    } else if (stride == 0 && m == 4 && lanes == 4) {
        Floats r[4] = {group[0], group[1], group[2], group[3]};
        transpose(r);
        memcpy(out, r, 64);
    } else {
        const int64_t across = stride > 0 ? 1 : m, along = stride > 0 ? stride : 1;
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t lane = 0; lane < lanes; ++lane) out[lane * across + i * along] = group[i][lane];
        }
    }
}

Floats sum(const Floats* size, int64_t m) {
    Floats total = size[0];
    for (int64_t i = 1; i < m; ++i) total = total + size[i];
    return total;
}

Ints certain(Floats size, Floats tau) { return (size >= tau) & (size > same(0.0f)); }

// Scales groups whose sum overflows by 2^-8; returns false where a value is not finite.
bool scale(Floats* size, int64_t m, Floats* total, Floats* up) {
    for (int64_t i = 0; i < m; ++i) {
        if (any((Ints)size[i] >= kInfinity)) return false;
    }
    const Ints overflows = (Ints)*total == same(kInfinity);
    const Floats down = choose(overflows, same(0x1p-8f), same(1.0f));
    *up = choose(overflows, same(0x1p8f), same(1.0f));
    for (int64_t i = 0; i < m; ++i) size[i] = size[i] * down;
    *total = sum(size, m);
    return true;
}

// Prunes four groups in place; returns false where a value is not finite. M is m where it is known, else 0.
template <int M>
bool prune(Floats* group, int64_t runtime_m, int n, Floats u) {
    const int64_t m = M > 0 ? M : runtime_m;
    const Floats zero = same(0.0f), one = same(1.0f), all = same(static_cast<float>(n));
    Floats size[M > 0 ? M : kMaxGroup], up = one;
    Ints sure[M > 0 ? M : kMaxGroup];
    for (int64_t i = 0; i < m; ++i) size[i] = absolute(group[i]);
    Floats total = sum(size, m);
    if (any((Ints)total >= kInfinity) && !scale(size, m, &total, &up)) return false;
    Floats tau = total / all, left = all;
    for (int pass = 0;; ++pass) {
        left = all;
        Floats rest = zero;
        for (int64_t i = 0; i < m; ++i) {
            sure[i] = certain(size[i], tau);
            left = left - choose(sure[i], one, zero);
            rest = rest + choose(sure[i], zero, size[i]);
        }
        if (pass == n - 1) break;
        const Floats lower = choose(left > zero, rest / left, tau);
        if (n > 2 && !any(lower != tau)) break;  // a second pass costs less than foreseeing that it is not needed
        tau = lower;
    }
    if (any(left < zero)) {  // rounding made tau so small that more than n are certain: the first n of them are
        Floats slots = all;
        for (int64_t i = 0; i < m; ++i) {
            const Ints kept = sure[i] & (slots > zero);
            slots = slots - choose(kept, one, zero);
            size[i] = choose(sure[i], zero, size[i]);
            sure[i] = kept;
        }
    }
    Floats point = u * tau, reached = zero;
    const Floats level = tau * up;
    for (int64_t i = 0; i < m; ++i) {
        reached = reached + choose(sure[i], zero, size[i]);
        const Ints hit = ~sure[i] & (reached > point) & (left > zero);
        point = point + choose(hit, tau, zero);
        left = left - choose(hit, one, zero);
        const Floats drawn = (Floats)((Ints)level | ((Ints)group[i] & same(INT32_MIN)));
        group[i] = choose(sure[i], group[i], choose(hit, drawn, zero));
    }
    return true;
}

typedef bool (*Prune)(Floats*, int64_t, int, Floats);

Prune prune_of(int64_t m) {
    return m == 2 ? prune<2> : m == 4 ? prune<4> : m == 8 ? prune<8> : m == 16 ? prune<16> : prune<0>;
}

// Which of each group's m magnitudes are among the n largest, the first of equal ones: vectors of 0 and -1.
template <int M>
bool rank(const Floats* group, int64_t runtime_m, int n, Ints* kept) {
    const int64_t m = M > 0 ? M : runtime_m;
    Ints bits[M > 0 ? M : kMaxGroup], beaten[M > 0 ? M : kMaxGroup], largest = same(0);
    for (int64_t i = 0; i < m; ++i) {
        bits[i] = (Ints)absolute(group[i]);  // magnitudes order as their bits do
        beaten[i] = same(0);
        largest = larger(bits[i], largest);
    }
    if (any(largest >= kInfinity)) return false;
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = i + 1; j < m; ++j) {
            const Ints later_wins = bits[j] > bits[i];  // -1 where true
            beaten[i] += later_wins;
            beaten[j] += ~later_wins;
        }
    }
    for (int64_t i = 0; i < m; ++i) kept[i] = beaten[i] > same(-n);
    return true;
}

typedef bool (*Rank)(const Floats*, int64_t, int, Ints*);

Rank rank_of(int64_t m) {
    return m == 2 ? rank<2> : m == 4 ? rank<4> : m == 8 ? rank<8> : m == 16 ? rank<16> : rank<0>;
}

// 2:4, 1:4 and 3:4 within a row: the group is the vector, its rivals are its rotations.
int rank_row_of_four(const float* x, int n, bool* finite) {
    Ints v;
    memcpy(&v, x, 16);
    v &= same(0x7FFFFFFF);
    const Ints a = {v[1], v[2], v[3], v[0]}, b = {v[2], v[3], v[0], v[1]}, c = {v[3], v[0], v[1], v[2]};
    // An earlier rival wins a tie: v >= w is v > w - 1.
    const Ints beaten = (a > v - Ints{0, 0, 0, 1}) + (b > v - Ints{0, 0, 1, 1}) + (c > v - Ints{0, 1, 1, 1});
    if (any(v >= kInfinity)) *finite = false;
    const Ints kept = (beaten > same(-n)) & Ints{1, 2, 4, 8};
    return kept[0] | kept[1] | kept[2] | kept[3];
}

}  // namespace

// Unbiased pruning of a contiguous matrix whose `axis` is a multiple of m. Group g takes element g of the key's
// uniform numbers. Returns 0 where a value is not finite; `out` is then undefined.
PW_API int pw_mvue(const float* x, int64_t rows, int64_t columns, int64_t n, int64_t m, int axis, uint32_t key0,
                   uint32_t key1, float* out, int threads) {
    std::atomic<int> finite{1};
    const Prune prune_four = prune_of(m);
    // Columns of one group row are cut into pieces; rows of groups are one long line of groups.
    const int64_t line = axis == 1 ? rows * columns / m : columns, lines = axis == 1 ? 1 : rows / m;
    const int64_t pieces = (line + kTaskGroups - 1) / kTaskGroups;
    parallel_for(lines * pieces, rows * columns < 65536 ? 1 : threads, [&](int64_t task) {
        const int64_t at = task / pieces, start = task % pieces * kTaskGroups;
        const int64_t count = line - start < kTaskGroups ? line - start : kTaskGroups;
        const int64_t first = at * line + start, skip = first % 4, stride = axis == 1 ? 0 : columns;
        const int64_t offset = axis == 1 ? start * m : at * m * columns + start;
        alignas(16) float u[kTaskGroups + 32];
        uniform(key0, key1, first - skip, count + skip, u);
        Floats group[kMaxGroup];
        for (int64_t i = 0; i < count; i += 4) {
            const int64_t lanes = count - i < 4 ? count - i : 4, here = offset + i * (axis == 1 ? m : 1);
            Floats draw;
            memcpy(&draw, u + skip + i, 16);
            load(x + here, m, stride, lanes, group);
            if (!prune_four(group, m, static_cast<int>(n), draw)) {
                finite = 0;
                return;
            }
            store(group, m, stride, lanes, out + here);
        }
    });
    return finite;
}

// Mask bits of a contiguous matrix whose `axis` is a multiple of m; each row of bits starts with a byte of its own.
PW_API int pw_nm_mask(const float* x, int64_t rows, int64_t columns, int64_t n, int64_t m, int axis, uint8_t* bits,
                      int threads) {
    std::atomic<int> finite{1};
    const Rank rank_four = rank_of(m);
    const int64_t bytes = (columns + 7) / 8, tasks = axis == 1 ? rows : rows / m;
    parallel_for(tasks, rows * columns < 65536 ? 1 : threads, [&](int64_t task) {
        bool ok = true;
        if (axis == 1 && m == 4) {
            const float* from = x + task * columns;
            uint8_t* to = bits + task * bytes;
            for (int64_t i = 0; i + 8 <= columns; i += 8) {
                const int low = rank_row_of_four(from + i, static_cast<int>(n), &ok);
                *to++ = static_cast<uint8_t>(low | rank_row_of_four(from + i + 4, static_cast<int>(n), &ok) << 4);
            }
            if (columns % 8) *to = static_cast<uint8_t>(rank_row_of_four(from + columns - 4, static_cast<int>(n), &ok));
        } else if (axis == 1) {
            Floats group[kMaxGroup];
            Ints kept[kMaxGroup];
            uint8_t* to = bits + task * bytes;
            memset(to, 0, static_cast<size_t>(bytes));
            for (int64_t g = 0; g < columns / m && ok; g += 4) {
                const int64_t lanes = columns / m - g < 4 ? columns / m - g : 4;
                load(x + task * columns + g * m, m, 0, lanes, group);
                ok = rank_four(group, m, static_cast<int>(n), kept);
                for (int64_t lane = 0; lane < lanes; ++lane) {
                    for (int64_t i = 0, bit = (g + lane) * m; i < m; ++i, ++bit) {
                        to[bit / 8] = static_cast<uint8_t>(to[bit / 8] | (kept[i][lane] & 1) << bit % 8);
                    }
                }
            }
        } else {
            Floats group[kMaxGroup];
            Ints kept[kMaxGroup];
            memset(bits + task * m * bytes, 0, static_cast<size_t>(m * bytes));
            for (int64_t column = 0; column < columns && ok; column += 4) {
                const int64_t lanes = columns - column < 4 ? columns - column : 4;
                load(x + task * m * columns + column, m, columns, lanes, group);
                ok = rank_four(group, m, static_cast<int>(n), kept);
                for (int64_t i = 0; i < m; ++i) {
                    const Ints set = kept[i] & Ints{1, 2, 4, 8};
                    const int four = (set[0] | set[1] | set[2] | set[3]) & ((1 << lanes) - 1);
                    uint8_t* to = bits + (task * m + i) * bytes + column / 8;
                    *to = static_cast<uint8_t>(*to | four << column % 8);
                }
            }
        }
        if (!ok) finite = 0;
    });
    return finite;
}
