// Between torch's layout of images, one plane a channel, and ours, the channels of a pixel side by side.
//
// Included by one file per instruction set, inside an anonymous namespace; vectors are the compiler's own, so the
// flags of the file decide what they become.
#pragma once

#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

template <int kBytes>
struct Planes {
    typedef float Float __attribute__((vector_size(kBytes)));
    typedef int32_t Int __attribute__((vector_size(kBytes)));
    static constexpr int64_t lanes = kBytes / 4;

    // Sign bits of `pixels` pixels, (channels + 63) / 64 words each. Returns whether a NaN was among them.
    static bool pack(const float* x, int64_t channels, int64_t plane, int64_t pixels, uint64_t* words) {
        const int64_t stride = (channels + 63) / 64;
        Int unordered{};
        int64_t p = 0;
        for (; p + 4 * lanes <= pixels; p += 4 * lanes) {
            pack_block<4>(x + p, channels, plane, words + p * stride, stride, unordered);
        }
        for (; p + lanes <= pixels; p += lanes) {
            pack_block<1>(x + p, channels, plane, words + p * stride, stride, unordered);
        }
        int32_t lane[lanes];
        memcpy(lane, &unordered, sizeof lane);
        bool found = false;
        for (int64_t i = 0; i < lanes; ++i) found |= lane[i] != 0;
        for (; p < pixels; ++p) {
            for (int64_t w = 0; w < stride; ++w) words[p * stride + w] = 0;
            for (int64_t c = 0; c < channels; ++c) {
                const float value = x[c * plane + p];
                found |= value != value;
                words[p * stride + c / 64] |= static_cast<uint64_t>(value >= 0.0f) << (c % 64);
            }
        }
        return found;
    }

    // Sums of `rows` pixels to one plane a column, as float32 or as they are.
    static void write(const int32_t* z, int64_t rows, int64_t columns, int64_t z_stride, bool as_float, void* out,
                      int64_t plane) {
        if (as_float) {
            transpose(z, rows, columns, z_stride, static_cast<float*>(out), plane);
        } else {
            transpose(z, rows, columns, z_stride, static_cast<int32_t*>(out), plane);
        }
    }

   private:
    // One bit of the accumulator a channel, one lane a pixel.
    template <int kVectors>
    static inline void pack_block(const float* x, int64_t channels, int64_t plane, uint64_t* words, int64_t stride,
                                  Int& unordered) {
        for (int64_t w = 0; w < stride; ++w) {
            Int half[2][kVectors];
            PW_UNROLL for (int h = 0; h < 2; ++h) {
                PW_UNROLL for (int v = 0; v < kVectors; ++v) half[h][v] = Int{};
                const int64_t start = 64 * w + 32 * h;
                const int64_t stop = channels - start < 32 ? channels : start + 32;
                Int bit = Int{} + 1;
                for (int64_t c = start; c < stop; ++c, bit += bit) {
                    PW_UNROLL for (int v = 0; v < kVectors; ++v) {
                        Float value;
                        memcpy(&value, x + c * plane + v * lanes, sizeof value);
                        half[h][v] |= (value >= 0.0f) & bit;
                        unordered |= value != value;
                    }
                }
            }
            uint32_t low[kVectors * lanes], high[kVectors * lanes];
            memcpy(low, half[0], sizeof low), memcpy(high, half[1], sizeof high);
            for (int64_t i = 0; i < kVectors * lanes; ++i) {
                words[i * stride + w] = low[i] | static_cast<uint64_t>(high[i]) << 32;
            }
        }
    }

    template <class T>
    static void transpose(const int32_t* z, int64_t rows, int64_t columns, int64_t z_stride, T* out, int64_t plane) {
        for (int64_t c = 0; c < columns; ++c) {
            for (int64_t r = 0; r < rows; ++r) out[c * plane + r] = static_cast<T>(z[r * z_stride + c]);
        }
    }
};

}  // namespace
}  // namespace pennyweight
