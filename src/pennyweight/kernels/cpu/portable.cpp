// The portable path: plain C++ that every compiler and machine runs. It is the one the other paths are tested against,
// so it stays simple; panels are the row-major words themselves.
#include <math.h>
#include <string.h>

#include "accumulate.h"
#include "kernels.h"
#include "planes.h"
#include "transposable.h"

namespace pennyweight {
namespace {

inline int64_t popcount(uint64_t v) {
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<int64_t>((v * 0x0101010101010101u) >> 56);
}

int64_t pack_signs(const float* x, int64_t count, uint64_t* words) {
    for (int64_t start = 0; start < count; start += 64) {
        const int64_t stop = count - start < 64 ? count - start : 64;
        uint64_t word = 0;
        for (int64_t i = 0; i < stop; ++i) {
            const float value = x[start + i];
            if (value != value) return start + i;
            word |= static_cast<uint64_t>(value >= 0.0f) << i;
        }
        words[start / 64] = word;
    }
    return -1;
}

int64_t quantize(const float* x, int64_t count, float scale, int8_t* codes) {
    for (int64_t i = 0; i < count; ++i) {
        const float value = nearbyintf(x[i] / scale);
        if (value != value) return i;
        codes[i] = static_cast<int8_t>(value < -128.0f ? -128.0f : (value > 127.0f ? 127.0f : value));
    }
    return -1;
}

void threshold(const int32_t* z, const int32_t* limit, const uint64_t* invert, int64_t count, uint64_t* words) {
    for (int64_t start = 0; start < count; start += 64) {
        const int64_t stop = count - start < 64 ? count - start : 64;
        uint64_t word = 0;
        for (int64_t i = 0; i < stop; ++i) word |= static_cast<uint64_t>(z[start + i] > limit[start + i]) << i;
        const uint64_t valid = stop == 64 ? ~uint64_t{0} : (uint64_t{1} << stop) - 1;
        words[start / 64] = (word ^ invert[start / 64]) & valid;
    }
}

int64_t panel_bytes(int64_t words) { return words * 8; }

void pack_panel(const uint64_t* b, int64_t, int64_t words, uint8_t* panel) {
    if (words > 0) memcpy(panel, b, static_cast<size_t>(words) * 8);
}

int64_t scratch_bytes(int64_t, int64_t, int64_t) { return 0; }

void product_rows(const uint64_t* a, int64_t rows, const uint64_t* b, int64_t columns, int64_t words, int64_t k,
                  int32_t* z, int64_t z_stride) {
    for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < columns; ++n) {
            int64_t differing = 0;
            for (int64_t w = 0; w < words; ++w) differing += popcount(a[m * words + w] ^ b[n * words + w]);
            z[m * z_stride + n] = static_cast<int32_t>(k - 2 * differing);
        }
    }
}

void product(const uint64_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns, int64_t k,
             int32_t* z, int64_t z_stride, uint8_t*) {
    product_rows(a, rows, reinterpret_cast<const uint64_t*>(panels), columns, words, k, z, z_stride);
}

int64_t int8_panel_bytes(int64_t k) { return (k + 63) / 64 * 8; }

void pack_int8_panel(const uint64_t* w, int64_t, int64_t k, uint8_t* panel) {
    if (k > 0) memcpy(panel, w, static_cast<size_t>((k + 63) / 64 * 8));
}

int64_t int8_scratch_bytes(int64_t, int64_t, int64_t k) { return k; }

void int8_product(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                  int64_t z_stride, uint8_t* scratch) {
    int8_t* signs = reinterpret_cast<int8_t*>(scratch);
    const int64_t words = (k + 63) / 64;
    for (int64_t n = 0; n < columns; ++n) {
        const uint64_t* w = reinterpret_cast<const uint64_t*>(panels) + n * words;
        for (int64_t i = 0; i < k; ++i) signs[i] = (w[i / 64] >> (i % 64)) & 1 ? 1 : -1;
        for (int64_t m = 0; m < rows; ++m) {
            int32_t sum = 0;
            for (int64_t i = 0; i < k; ++i) sum += static_cast<int32_t>(x[m * k + i]) * signs[i];
            z[m * z_stride + n] = sum;
        }
    }
}

}  // namespace

const Kernels* portable_kernels() {
    static const Kernels kernels = {
        "portable",   pack_signs,   quantize, threshold,        1,
        64,           panel_bytes,  pack_panel, scratch_bytes,  product,
        product_rows, 1,            int8_panel_bytes,           pack_int8_panel,
        int8_scratch_bytes,         int8_product, Planes<16>::pack, Planes<16>::write, Accumulate<16>::product,
        TransposableMasks<16>::scratch_bytes, TransposableMasks<16>::solve,
    };
    return &kernels;
}

}  // namespace pennyweight
