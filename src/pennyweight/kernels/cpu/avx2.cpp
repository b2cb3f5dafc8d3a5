// The AVX2 path: look-up product of 32 columns at a time, and the row-wise helpers.
#include <immintrin.h>
#include <string.h>

#include "accumulate.h"
#include "kernels.h"
#include "lookup_product.h"
#include "planes.h"

#include "lookup_int8.h"
#include "transposable.h"

namespace pennyweight {
namespace {

struct Vector256 {
    using type = __m256i;
    static constexpr int64_t lanes = 32;
    static type load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static void store(void* p, type v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
    static type zero() { return _mm256_setzero_si256(); }
    static type set8(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
    static type set16(int v) { return _mm256_set1_epi16(static_cast<short>(v)); }
    static type add8(type a, type b) { return _mm256_add_epi8(a, b); }
    static type add16(type a, type b) { return _mm256_add_epi16(a, b); }
    static type sub16(type a, type b) { return _mm256_sub_epi16(a, b); }
    static type and_(type a, type b) { return _mm256_and_si256(a, b); }
    static type shift_right4(type a) { return _mm256_srli_epi16(a, 4); }
    static type shift_left4(type a) { return _mm256_slli_epi16(a, 4); }
    static type shift_right8(type a) { return _mm256_srli_epi16(a, 8); }
    static type interleave_low(type a, type b) { return _mm256_unpacklo_epi8(a, b); }
    static type interleave_high(type a, type b) { return _mm256_unpackhi_epi8(a, b); }
    static type multiply_pairs(type a, type b) { return _mm256_maddubs_epi16(a, b); }
    static type lookup(type table, type index) { return _mm256_shuffle_epi8(table, index); }
    static type broadcast16(const void* p) {
        return _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i*>(p)));
    }
};

using Product = LookupProduct<Vector256>;
using Int8 = LookupInt8<Vector256>;

int64_t pack_signs(const float* x, int64_t count, uint64_t* words) {
    const __m256 zero = _mm256_setzero_ps();
    int64_t start = 0;
    for (; start + 64 <= count; start += 64) {
        uint64_t word = 0;
        __m256 unordered = zero;
        for (int i = 0; i < 8; ++i) {
            const __m256 v = _mm256_loadu_ps(x + start + 8 * i);
            const __m256 positive = _mm256_cmp_ps(v, zero, _CMP_GE_OQ);
            unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
            word |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(positive))) << (8 * i);
        }
        if (_mm256_movemask_ps(unordered)) break;
        words[start / 64] = word;
    }
    const int64_t rest = portable_kernels()->pack_signs(x + start, count - start, words + start / 64);
    return rest < 0 ? -1 : start + rest;
}

int64_t quantize(const float* x, int64_t count, float scale, int8_t* codes) {
    const __m256 divisor = _mm256_set1_ps(scale), low = _mm256_set1_ps(-128.0f), high = _mm256_set1_ps(127.0f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i part[4];
        __m256 unordered = _mm256_setzero_ps();
        for (int j = 0; j < 4; ++j) {
            const __m256 ratio = _mm256_div_ps(_mm256_loadu_ps(x + i + 8 * j), divisor);
            unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(ratio, ratio, _CMP_UNORD_Q));
            const __m256 rounded = _mm256_round_ps(ratio, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            part[j] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(rounded, low), high));
        }
        if (_mm256_movemask_ps(unordered)) break;
        const __m256i packed =
            _mm256_packs_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_permutevar8x32_epi32(packed, order));
    }
    const int64_t rest = portable_kernels()->quantize(x + i, count - i, scale, codes + i);
    return rest < 0 ? -1 : i + rest;
}

void threshold(const int32_t* z, const int32_t* limit, const uint64_t* invert, int64_t count, uint64_t* words) {
    int64_t start = 0;
    for (; start + 64 <= count; start += 64) {
        uint64_t word = 0;
        for (int i = 0; i < 8; ++i) {
            const __m256i greater = _mm256_cmpgt_epi32(Vector256::load(z + start + 8 * i),
                                                       Vector256::load(limit + start + 8 * i));
            word |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(greater))))
                    << (8 * i);
        }
        words[start / 64] = word ^ invert[start / 64];
    }
    portable_kernels()->threshold(z + start, limit + start, invert + start / 64, count - start, words + start / 64);
}

void product_rows(const uint64_t* a, int64_t rows, const uint64_t* b, int64_t columns, int64_t words, int64_t k,
                  int32_t* z, int64_t z_stride) {
    for (int64_t m = 0; m < rows; ++m) {
        const uint64_t* left = a + m * words;
        for (int64_t n = 0; n < columns; ++n) {
            const uint64_t* right = b + n * words;
            int64_t sum0 = 0, sum1 = 0, w = 0;
            for (; w + 2 <= words; w += 2) {
                sum0 += _mm_popcnt_u64(left[w] ^ right[w]);
                sum1 += _mm_popcnt_u64(left[w + 1] ^ right[w + 1]);
            }
            if (w < words) sum0 += _mm_popcnt_u64(left[w] ^ right[w]);
            z[m * z_stride + n] = static_cast<int32_t>(k - 2 * (sum0 + sum1));
        }
    }
}

}  // namespace

const Kernels* avx2_kernels() {
    static const Kernels kernels = {
        "avx2",
        pack_signs,
        quantize,
        threshold,
        Product::kColumns,
        kLookupRowBlock,
        Product::panel_bytes,
        Product::pack_panel,
        Product::scratch_bytes,
        Product::product,
        product_rows,
        Int8::kColumns,
        Int8::panel_bytes,
        Int8::pack_panel,
        Int8::scratch_bytes,
        Int8::product,
        Planes<32>::pack,
        Planes<32>::write,
        Accumulate<32>::product,
        TransposableMasks<32>::scratch_bytes,
        TransposableMasks<32>::solve,
    };
    return &kernels;
}

}  // namespace pennyweight
