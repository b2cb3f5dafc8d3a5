// The 512-bit vector of the look-up templates.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace pennyweight {
namespace {

struct Vector512 {
    using type = __m512i;
    static constexpr int64_t lanes = 64;
    static type load(const void* p) { return _mm512_loadu_si512(p); }
    static void store(void* p, type v) { _mm512_storeu_si512(p, v); }
    static type zero() { return _mm512_setzero_si512(); }
    static type set8(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
    static type set16(int v) { return _mm512_set1_epi16(static_cast<short>(v)); }
    static type add8(type a, type b) { return _mm512_add_epi8(a, b); }
    static type add16(type a, type b) { return _mm512_add_epi16(a, b); }
    static type sub16(type a, type b) { return _mm512_sub_epi16(a, b); }
    static type and_(type a, type b) { return _mm512_and_si512(a, b); }
    static type shift_right4(type a) { return _mm512_srli_epi16(a, 4); }
    static type shift_left4(type a) { return _mm512_slli_epi16(a, 4); }
    static type shift_right8(type a) { return _mm512_srli_epi16(a, 8); }
    static type interleave_low(type a, type b) { return _mm512_unpacklo_epi8(a, b); }
    static type interleave_high(type a, type b) { return _mm512_unpackhi_epi8(a, b); }
    static type multiply_pairs(type a, type b) { return _mm512_maddubs_epi16(a, b); }
    static type lookup(type table, type index) { return _mm512_shuffle_epi8(table, index); }
    static type broadcast16(const void* p) {
        return _mm512_broadcast_i32x4(_mm_load_si128(static_cast<const __m128i*>(p)));
    }
};

}  // namespace
}  // namespace pennyweight
