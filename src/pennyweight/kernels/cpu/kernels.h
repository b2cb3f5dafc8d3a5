// The table of functions every instruction-set path fills, and nothing else.
//
// All paths compute the same integers; they differ in the layout of a weight panel, which each path packs for itself.
// Files compiled with instruction-set flags include only this header and C headers: an inline function of the C++
// library compiled there could be chosen by the linker for a machine that cannot run it.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Loops over a register tile must disappear, or the compiler keeps the tile in memory.
#if defined(__clang__)
#define PW_UNROLL _Pragma("unroll")
#else
#define PW_UNROLL _Pragma("GCC unroll 16")
#endif

namespace pennyweight {

// An accumulator of few bits: a mask that cuts mantissas, and bits of the smallest and largest magnitudes.
struct Accumulator {
    int32_t mask, product_smallest, product_largest, sum_smallest, sum_largest;
    int64_t chunk;
};

// Masks with n of m in each row and column of every tile; rows of scores and of masks lie `stride` apart.
enum TransposableSolver { kExact, kGreedySwap, kGreedyKeep, kGreedyPrune };
struct TransposableTask {
    int n, m;
    TransposableSolver solver;
    int64_t stride;
};

// Bit 1 stands for +1 and bit 0 for -1; the bits beyond K of the last word are 0 in both operands.
struct Kernels {
    const char* name;

    // Sign bits (x >= 0, so -0.0 gives 1) of `count` floats; returns the first NaN's index, or -1.
    int64_t (*pack_signs)(const float* x, int64_t count, uint64_t* words);
    // codes = clamp(round_half_even(x / scale), -128, 127); returns the first NaN's index, or -1.
    int64_t (*quantize)(const float* x, int64_t count, float scale, int8_t* codes);
    // Bits of (z > limit) xor invert; the bits beyond `count` of the last word are 0.
    void (*threshold)(const int32_t* z, const int32_t* limit, const uint64_t* invert, int64_t count, uint64_t* words);

    // Binary product: z[m, n] = k - 2 * popcount(a[m] ^ b[n]). Panels of `panel_columns` rows of b.
    int64_t panel_columns;
    int64_t row_block;  // rows a task should take to use its caches well
    int64_t (*panel_bytes)(int64_t words);
    void (*pack_panel)(const uint64_t* b, int64_t columns, int64_t words, uint8_t* panel);
    int64_t (*scratch_bytes)(int64_t rows, int64_t columns, int64_t words);
    void (*product)(const uint64_t* a, int64_t rows, int64_t words, const uint8_t* panels, int64_t columns, int64_t k,
                    int32_t* z, int64_t z_stride, uint8_t* scratch);
    // The same from two row-major operands, for a left operand too short to pay for packing panels.
    void (*product_rows)(const uint64_t* a, int64_t rows, const uint64_t* b, int64_t columns, int64_t words, int64_t k,
                         int32_t* z, int64_t z_stride);

    // First-layer product: z[m, n] = sum over k of x[m, k] * sign(w[n, k]) for int8 codes x.
    int64_t int8_panel_columns;
    int64_t (*int8_panel_bytes)(int64_t k);
    void (*pack_int8_panel)(const uint64_t* w, int64_t columns, int64_t k, uint8_t* panel);
    int64_t (*int8_scratch_bytes)(int64_t rows, int64_t columns, int64_t k);
    void (*int8_product)(const int8_t* x, int64_t rows, const uint8_t* panels, int64_t columns, int64_t k, int32_t* z,
                         int64_t z_stride, uint8_t* scratch);

    // Sign bits of images, one plane a channel, to (channels + 63) / 64 words a pixel; whether a NaN was among them.
    bool (*pack_planes)(const float* x, int64_t channels, int64_t plane, int64_t pixels, uint64_t* words);
    // Sums z[row, column] to one plane a column, as float32 or as int32.
    void (*write_planes)(const int32_t* z, int64_t rows, int64_t columns, int64_t z_stride, bool as_float, void* out,
                         int64_t plane);

    // Product in an accumulator of few bits, called while float32 rounds towards zero.
    void (*accumulate)(const float* x, int64_t rows, int64_t k, const float* w, int64_t stride,
                       const Accumulator& format, float* z, int64_t z_stride, int64_t columns);

    // One row of tiles of a transposable mask: a byte of 0 or 1 for each score.
    int64_t (*transposable_scratch_bytes)(int m);
    void (*transposable)(const TransposableTask& task, const float* scores, int rows, int64_t columns, uint8_t* kept,
                         uint8_t* scratch);
};

inline constexpr int64_t kPanelAlignment = 64;

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512bw_kernels();
const Kernels* avx512vpopcnt_kernels();
const Kernels* neon_kernels();

}  // namespace pennyweight
