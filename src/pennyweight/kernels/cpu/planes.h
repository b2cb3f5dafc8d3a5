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
        bool found = false;
        const int64_t whole = pixels / lanes * lanes;
        for (int64_t p = 0; p < whole; p += kPixels) {
            const int64_t count = whole - p < kPixels ? whole - p : kPixels;
            for (int64_t w = 0; w < stride; ++w) {
                const int64_t left = channels - 64 * w;
                Int low[kPixels / lanes], high[kPixels / lanes];
                pack_half(x + p + 64 * w * plane, left < 32 ? left : 32, plane, count, low, unordered);
                pack_half(x + p + (64 * w + 32) * plane, left < 64 ? left - 32 : 32, plane, count, high, unordered);
                uint32_t first[kPixels], second[kPixels];
                memcpy(first, low, static_cast<size_t>(count) * 4), memcpy(second, high, static_cast<size_t>(count) * 4);
                for (int64_t i = 0; i < count; ++i) {
                    words[(p + i) * stride + w] = first[i] | static_cast<uint64_t>(second[i]) << 32;
                }
            }
        }
        int32_t lane[lanes];
        memcpy(lane, &unordered, sizeof lane);
        for (int64_t i = 0; i < lanes; ++i) found |= lane[i] != 0;
        for (int64_t p = whole; p < pixels; ++p) {
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
    static constexpr int64_t kPixels = 1024;  // whose bits stay in the first-level cache

    // Up to 32 channels, one bit of an int32 each, one lane a pixel; four planes are read side by side, in order.
    static void pack_half(const float* x, int64_t channels, int64_t plane, int64_t pixels, Int* bits, Int& unordered) {
        for (int64_t v = 0; v < pixels / lanes; ++v) bits[v] = Int{};
        int64_t c = 0;
        for (; c + 4 <= channels; c += 4) add_planes<4>(x + c * plane, c, plane, pixels, bits, unordered);
        for (; c < channels; ++c) add_planes<1>(x + c * plane, c, plane, pixels, bits, unordered);
    }

    template <int kPlanes>
    static inline void add_planes(const float* x, int64_t channel, int64_t plane, int64_t pixels, Int* bits,
                                  Int& unordered) {
        const Int bit = Int{} + static_cast<int32_t>(uint32_t{1} << channel);
        Int wrong{};
        for (int64_t v = 0; v < pixels / lanes; ++v) {
            Int sum = bits[v];
            PW_UNROLL for (int i = 0; i < kPlanes; ++i) {
                Float value;
                memcpy(&value, x + i * plane + v * lanes, sizeof value);
                sum |= (value >= 0.0f) & (bit << i);
                wrong |= value != value;
            }
            bits[v] = sum;
        }
        unordered |= wrong;
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
