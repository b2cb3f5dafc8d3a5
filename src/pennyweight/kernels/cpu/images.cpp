// A run of packed convolutions over images in one call: an optional first layer of int8 codes times packed signs, then
// binary layers whose sums are compared with thresholds, pooled as bits and packed again, up to the last layer's sums or
// bits.
//
// Activations lie as 64-bit words of channels side by side (or int8 codes), pixels row by row, with the border a
// convolution pads around the image: a window is then a few contiguous pieces, gathered into a row of a matrix whose
// product with the weights the instruction-set paths know. The border's words are zero, which reads as -1. What the
// convolution pads instead (0, or +1) differs from that by a constant for each column and each set of taps that lie in
// the border: added to the sums, or taken from the thresholds once and for all.
#include <string.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels.h"
#include "registry.h"
#include "tiles.h"

#define PW_API extern "C" __attribute__((visibility("default")))

namespace pennyweight {
namespace {

constexpr int64_t kSampleBlock = 8;  // samples whose activations stay in the second-level cache

// The order of the numbers Python hands over.
struct Shape {
    int64_t int8, channels, columns, groups, pad_value;
    int64_t kernel[2], stride[2], dilation[2], before[2], after[2];  // rows, then columns; the border before and after
    int64_t pools, pool_kernel[2], pool_stride[2], pool_dilation[2], pool_before[2];
};

struct Conv : Shape {
    explicit Conv(const Shape& shape) : Shape(shape) {}
    bool hidden = false;
    int64_t taps = 0, group_channels = 0, group_columns = 0;
    int64_t units = 0;        // words (or codes) of a pixel
    int64_t group_units = 0;  // and of one group's share of it, once gathered
    int64_t row_units = 0;    // of a gathered row of one group
    int64_t panel_stride = 0;
    Buffer panels;
    std::vector<int32_t> ones;  // bits set, [tap][column]
    std::vector<int32_t> limit;
    std::vector<uint64_t> invert, flip;

    int64_t out_words() const { return ceil_div(columns, 64); }
    int64_t unit_bytes() const { return int8 ? 1 : 8; }
    bool gathers_bits() const { return !int8 && groups > 1 && group_channels % 64 != 0; }
};

// What depends on the size of the images.
struct Stage {
    int64_t in[2], conv[2], out[2];
    std::vector<int32_t> classes[2];  // of each output row and column: which taps lie in the border
    int64_t column_classes = 0;
    std::vector<int32_t> table;   // [class][column]: limits of a hidden layer, else what is added to the sums
    std::vector<char> adds;       // of each class: whether anything is added
    int64_t padded(const Conv& conv_, int axis) const { return in[axis] + conv_.before[axis] + conv_.after[axis]; }
    int64_t padded_bytes(const Conv& c) const { return padded(c, 0) * padded(c, 1) * c.units * c.unit_bytes(); }
};

struct Plan {
    const struct Network* network = nullptr;
    std::vector<Stage> stages;
};

struct Network {
    const Kernels* kernels = nullptr;
    std::vector<std::unique_ptr<Conv>> layers;
    std::mutex mutex;
    std::vector<std::unique_ptr<Plan>> plans;
};

enum Output { kInt32 = 0, kFloat32 = 1, kWords = 2 };

struct Scratch {
    Buffer activation[2], raw, first, sparse;
};

// Bits [start, start + count) of a row of words, from bit 0 on; the rest of the last word is zero.
void copy_bits(const uint64_t* source, int64_t start, int64_t count, uint64_t* out) {
    const int64_t shift = start % 64;
    source += start / 64;
    for (int64_t done = 0; done < count; done += 64, ++source) {
        uint64_t word = source[0] >> shift;
        const int64_t left = count - done;
        if (shift != 0 && left > 64 - shift) word |= source[1] << (64 - shift);
        if (left < 64) word &= (uint64_t{1} << left) - 1;
        out[done / 64] = word;
    }
}

// Appends `count` bits, clean beyond their end, at bit `at` of words that are zero from there on.
void append_bits(const uint64_t* source, int64_t count, uint64_t* out, int64_t at) {
    const int64_t shift = at % 64;
    out += at / 64;
    for (int64_t done = 0; done < count; done += 64, ++source, ++out) {
        out[0] |= source[0] << shift;
        if (shift != 0 && count - done > 64 - shift) out[1] |= source[0] >> (64 - shift);
    }
}

// Pixels of whole words to pixels of `count` bits, one after another.
void close_gaps(const uint64_t* words, int64_t samples, int64_t pixels, int64_t count, uint64_t* out) {
    const int64_t row_words = ceil_div(pixels * count, 64), pixel_words = ceil_div(count, 64);
    memset(out, 0, static_cast<size_t>(samples * row_words * 8));
    for (int64_t i = 0; i < samples * pixels; ++i) {
        append_bits(words + i * pixel_words, count, out + i / pixels * row_words, i % pixels * count);
    }
}

template <class T>
inline void copy_units(T* out, const T* source, int64_t count) {
    if (count > 8) {
        memcpy(out, source, static_cast<size_t>(count) * sizeof(T));
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        out[i] = source[i];
        asm volatile("" ::: "memory");  // a call of memcpy costs more than these few moves
    }
}

// Where an output pixel's window begins.
struct Position {
    int64_t sample, row, column;
    Position(const Stage& s, int64_t pixel)
        : sample(pixel / (s.conv[0] * s.conv[1])),
          row(pixel / s.conv[1] % s.conv[0]),
          column(pixel % s.conv[1]) {}
    void next(const Stage& s) {
        if (++column < s.conv[1]) return;
        column = 0;
        if (++row < s.conv[0]) return;
        row = 0, ++sample;
    }
    int64_t pixel_class(const Stage& s) const {
        return s.classes[0][static_cast<size_t>(row)] * s.column_classes + s.classes[1][static_cast<size_t>(column)];
    }
};

// The windows of `count` output pixels, one row each.
template <class T>
void gather(const Conv& c, const Stage& s, const T* images, int64_t pixel, int64_t count, int64_t group, T* out) {
    const int64_t width = s.padded(c, 1), height = s.padded(c, 0);
    const bool whole_rows = c.groups == 1 && c.dilation[1] == 1;
    const int64_t offset = group * c.group_units;
    Position at(s, pixel);
    for (int64_t i = 0; i < count; ++i, at.next(s)) {
        const T* window =
            images + ((at.sample * height + at.row * c.stride[0]) * width + at.column * c.stride[1]) * c.units;
        for (int64_t y = 0; y < c.kernel[0]; ++y, window += c.dilation[0] * width * c.units) {
            if (whole_rows) {
                copy_units(out, window, c.kernel[1] * c.units);
                out += c.kernel[1] * c.units;
                continue;
            }
            for (int64_t x = 0; x < c.kernel[1]; ++x, out += c.group_units) {
                copy_units(out, window + x * c.dilation[1] * c.units + offset, c.group_units);
            }
        }
    }
}

// The same for groups that begin inside a word.
void gather_bits(const Conv& c, const Stage& s, const uint64_t* images, int64_t pixel, int64_t count, int64_t group,
                 uint64_t* out) {
    const int64_t width = s.padded(c, 1), height = s.padded(c, 0);
    Position at(s, pixel);
    for (int64_t i = 0; i < count; ++i, at.next(s)) {
        for (int64_t y = 0; y < c.kernel[0]; ++y) {
            for (int64_t x = 0; x < c.kernel[1]; ++x, out += c.group_units) {
                const int64_t row = at.sample * height + at.row * c.stride[0] + y * c.dilation[0];
                const int64_t column = at.column * c.stride[1] + x * c.dilation[1];
                copy_bits(images + (row * width + column) * c.units, group * c.group_channels, c.group_channels, out);
            }
        }
    }
}

// Sums of `rows` output pixels for the columns [column, column + columns); all of them where there are groups.
void sums_of(const Kernels* p, const Conv& c, const Stage& s, const void* images, int64_t pixel, int64_t rows,
             int64_t column, int64_t columns, int32_t* z) {
    thread_local Buffer gathered, kernel_scratch;
    uint8_t* operand = gathered.reserve(rows * c.row_units * c.unit_bytes());
    for (int64_t group = 0; group < c.groups; ++group) {
        const int64_t count = c.groups == 1 ? columns : c.group_columns;
        int32_t* out = z + group * c.group_columns;
        const uint8_t* panels = c.panels.data() + group * c.panel_stride;
        if (c.int8) {
            gather(c, s, static_cast<const int8_t*>(images), pixel, rows, group, reinterpret_cast<int8_t*>(operand));
            p->int8_product(reinterpret_cast<const int8_t*>(operand), rows,
                            panels + column / p->int8_panel_columns * p->int8_panel_bytes(c.row_units), count,
                            c.row_units, out, columns,
                            kernel_scratch.reserve(p->int8_scratch_bytes(rows, count, c.row_units)));
            continue;
        }
        uint64_t* words = reinterpret_cast<uint64_t*>(operand);
        const uint64_t* packed = static_cast<const uint64_t*>(images);
        if (c.gathers_bits()) {
            gather_bits(c, s, packed, pixel, rows, group, words);
        } else {
            gather(c, s, packed, pixel, rows, group, words);
        }
        p->product(words, rows, c.row_units, panels + column / p->panel_columns * p->panel_bytes(c.row_units), count,
                   64 * c.row_units, out, columns, kernel_scratch.reserve(p->scratch_bytes(rows, count, c.row_units)));
    }
}

// Packed pixels to write to: the interior of the next layer's padded images, or images as they are.
struct Target {
    uint64_t* words;
    int64_t sample_stride, row_stride, pixel_stride;
    uint64_t* at(int64_t sample, int64_t row, int64_t column) const {
        return words + sample * sample_stride + row * row_stride + column * pixel_stride;
    }
};

Target interior(const Conv& next, const Stage& stage, uint8_t* padded) {
    const int64_t width = stage.padded(next, 1);
    uint64_t* words = reinterpret_cast<uint64_t*>(padded) + (next.before[0] * width + next.before[1]) * next.units;
    return {words, stage.padded(next, 0) * width * next.units, width * next.units, next.units};
}

Target whole(uint64_t* words, const int64_t size[2], int64_t pixel_words) {
    return {words, size[0] * size[1] * pixel_words, size[1] * pixel_words, pixel_words};
}

template <class Task>
void over_tiles(const Kernels* p, const Conv& c, int64_t pixels, int threads, const Task& task) {
    const double work = static_cast<double>(pixels * c.columns) * static_cast<double>(c.taps * c.group_channels) *
                        (c.int8 ? 8.0 : 1.0);
    const int64_t block = p->row_block < 64 ? 64 : p->row_block;
    if (c.groups == 1) {
        for_tiles(pixels, c.columns, work, block, threads, task);
        return;
    }
    parallel_for(ceil_div(pixels, block), work < kParallelWork ? 1 : threads, [&](int64_t index) {
        const int64_t pixel = index * block;
        task(pixel, pixels - pixel < block ? pixels - pixel : block, int64_t{0}, c.columns);
    });
}

// A hidden layer's bits before pooling.
void hidden_bits(const Kernels* p, const Conv& c, const Stage& s, const void* images, int64_t samples,
                 const Target& target, int threads) {
    over_tiles(p, c, samples * s.conv[0] * s.conv[1], threads,
               [&](int64_t pixel, int64_t rows, int64_t column, int64_t columns) {
                   thread_local Buffer sums;
                   int32_t* z = reinterpret_cast<int32_t*>(sums.reserve(rows * columns * 4));
                   sums_of(p, c, s, images, pixel, rows, column, columns, z);
                   Position at(s, pixel);
                   for (int64_t r = 0; r < rows; ++r, at.next(s)) {
                       const int32_t* limit = s.table.data() + at.pixel_class(s) * c.columns + column;
                       p->threshold(z + r * columns, limit, c.invert.data() + column / 64, columns,
                                    target.at(at.sample, at.row, at.column) + column / 64);
                   }
               });
}

// Bits that any pixel of a window has, where `flip` is clear; that all of them have, where it is set.
void pool_bits(const Conv& c, const Stage& s, const uint64_t* raw, int64_t samples, const Target& target) {
    const int64_t words = c.out_words();
    const Target source = whole(const_cast<uint64_t*>(raw), s.conv, words);
    for (int64_t sample = 0; sample < samples; ++sample) {
        for (int64_t row = 0; row < s.out[0]; ++row) {
            for (int64_t column = 0; column < s.out[1]; ++column) {
                uint64_t* out = target.at(sample, row, column);
                for (int64_t w = 0; w < words; ++w) out[w] = 0;
                for (int64_t y = 0; y < c.pool_kernel[0]; ++y) {
                    const int64_t from_row = row * c.pool_stride[0] - c.pool_before[0] + y * c.pool_dilation[0];
                    if (from_row < 0 || from_row >= s.conv[0]) continue;
                    for (int64_t x = 0; x < c.pool_kernel[1]; ++x) {
                        const int64_t from = column * c.pool_stride[1] - c.pool_before[1] + x * c.pool_dilation[1];
                        if (from < 0 || from >= s.conv[1]) continue;
                        const uint64_t* in = source.at(sample, from_row, from);
                        for (int64_t w = 0; w < words; ++w) out[w] |= in[w];
                    }
                }
                for (int64_t w = 0; w < words; ++w) out[w] ^= c.flip[static_cast<size_t>(w)];
            }
        }
    }
}

// The last layer's sums, one plane a column.
void write_sums(const Kernels* p, const Conv& c, const Stage& s, const void* images, int64_t samples, Output kind,
                void* out, int threads) {
    const int64_t plane = s.conv[0] * s.conv[1];
    over_tiles(p, c, samples * plane, threads, [&](int64_t pixel, int64_t rows, int64_t column, int64_t columns) {
        thread_local Buffer sums;
        int32_t* z = reinterpret_cast<int32_t*>(sums.reserve(rows * columns * 4));
        sums_of(p, c, s, images, pixel, rows, column, columns, z);
        Position at(s, pixel);
        for (int64_t r = 0; r < rows; ++r, at.next(s)) {
            const int64_t pixel_class = at.pixel_class(s);
            if (!s.adds[static_cast<size_t>(pixel_class)]) continue;
            const int32_t* add = s.table.data() + pixel_class * c.columns + column;
            for (int64_t n = 0; n < columns; ++n) z[r * columns + n] += add[n];
        }
        for (int64_t done = 0; done < rows;) {  // tiles may reach into the next sample
            const int64_t sample = (pixel + done) / plane, place = (pixel + done) % plane;
            const int64_t count = rows - done < plane - place ? rows - done : plane - place;
            p->write_planes(z + done * columns, count, columns, columns, kind == kFloat32,
                            static_cast<uint8_t*>(out) + ((sample * c.columns + column) * plane + place) * 4, plane);
            done += count;
        }
    });
}

int64_t find_nan(const float* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        if (x[i] != x[i]) return i;
    }
    return -1;
}

// One float image, planes of channels, to the padded operand of the first layer. Returns the first NaN's index, or -1.
int64_t prepare(const Kernels* p, const Conv& c, const Stage& s, const float* x, float scale, Buffer& first,
                uint8_t* padded) {
    const int64_t pixels = s.in[0] * s.in[1], width = s.padded(c, 1), bytes = c.units * c.unit_bytes();
    uint8_t* packed = first.reserve(pixels * bytes + c.channels * pixels);
    if (c.int8) {
        int8_t* planes = reinterpret_cast<int8_t*>(packed + pixels * bytes);
        const int64_t bad = p->quantize(x, c.channels * pixels, scale, planes);
        if (bad >= 0) return bad;
        for (int64_t channel = 0; channel < c.channels; ++channel) {
            for (int64_t i = 0; i < pixels; ++i) {
                packed[i * c.channels + channel] = static_cast<uint8_t>(planes[channel * pixels + i]);
            }
        }
    } else if (p->pack_planes(x, c.channels, pixels, pixels, reinterpret_cast<uint64_t*>(packed))) {
        return find_nan(x, c.channels * pixels);
    }
    for (int64_t row = 0; row < s.in[0]; ++row) {
        memcpy(padded + ((row + c.before[0]) * width + c.before[1]) * bytes, packed + row * s.in[1] * bytes,
               static_cast<size_t>(s.in[1] * bytes));
    }
    return -1;
}

// All layers for a few samples; `threads` > 1 splits each layer.
int64_t run_samples(const Plan& plan, const float* x, float scale, int64_t samples, Output kind, uint8_t* out,
                    int threads, Scratch& scratch) {
    const Network& network = *plan.network;
    const Kernels* p = network.kernels;
    const auto cleared = [&](size_t i) {
        const int64_t size = samples * plan.stages[i].padded_bytes(*network.layers[i]);
        uint8_t* images = scratch.activation[i % 2].reserve(size);
        memset(images, 0, static_cast<size_t>(size));
        return images;
    };
    uint8_t* images = cleared(0);
    const Conv& first = *network.layers.front();
    const Stage& entry = plan.stages.front();
    const int64_t values = first.channels * entry.in[0] * entry.in[1];
    for (int64_t sample = 0; sample < samples; ++sample) {
        const int64_t bad = prepare(p, first, entry, x + sample * values, scale, scratch.first,
                                    images + sample * entry.padded_bytes(first));
        if (bad >= 0) return sample * values + bad;
    }
    for (size_t i = 0; i < network.layers.size(); ++i) {
        const Conv& c = *network.layers[i];
        const Stage& s = plan.stages[i];
        if (!c.hidden) {
            write_sums(p, c, s, images, samples, kind, out, threads);
            return -1;
        }
        const bool last = i + 1 == network.layers.size(), gaps = last && c.columns % 64 != 0;
        uint8_t* next = last ? nullptr : cleared(i + 1);
        Target target{};
        if (!last) {
            target = interior(*network.layers[i + 1], plan.stages[i + 1], next);
        } else {
            uint64_t* words = reinterpret_cast<uint64_t*>(
                gaps ? scratch.sparse.reserve(samples * s.out[0] * s.out[1] * c.out_words() * 8) : out);
            target = whole(words, s.out, c.out_words());
        }
        if (c.pools) {
            uint64_t* raw = reinterpret_cast<uint64_t*>(
                scratch.raw.reserve(samples * s.conv[0] * s.conv[1] * c.out_words() * 8));
            hidden_bits(p, c, s, images, samples, whole(raw, s.conv, c.out_words()), threads);
            pool_bits(c, s, raw, samples, target);
        } else {
            hidden_bits(p, c, s, images, samples, target, threads);
        }
        if (gaps) close_gaps(target.words, samples, s.out[0] * s.out[1], c.columns, reinterpret_cast<uint64_t*>(out));
        images = next;
    }
    return -1;
}

// Of each output position, which taps lie in the border: classes numbered in order of appearance.
std::vector<std::vector<char>> border_classes(const Conv& c, int axis, int64_t in, int64_t count,
                                              std::vector<int32_t>& classes) {
    std::map<std::vector<char>, int32_t> known;
    std::vector<std::vector<char>> found;
    for (int64_t position = 0; position < count; ++position) {
        std::vector<char> outside(static_cast<size_t>(c.kernel[axis]));
        for (int64_t tap = 0; tap < c.kernel[axis]; ++tap) {
            const int64_t at = position * c.stride[axis] - c.before[axis] + tap * c.dilation[axis];
            outside[static_cast<size_t>(tap)] = at < 0 || at >= in;
        }
        const auto entry = known.emplace(outside, static_cast<int32_t>(found.size()));
        if (entry.second) found.push_back(outside);
        classes.push_back(entry.first->second);
    }
    return found;
}

// What the kernels' sums (border bits and padding bits 0) lack to the sums that are meant.
int64_t correction(const Conv& c, const std::vector<char>& rows, const std::vector<char>& columns, int64_t n) {
    if (c.int8) return 0;
    int64_t sum = c.taps * c.group_channels - 64 * c.row_units;
    for (int64_t y = 0; y < c.kernel[0]; ++y) {
        for (int64_t x = 0; x < c.kernel[1]; ++x) {
            if (!rows[static_cast<size_t>(y)] && !columns[static_cast<size_t>(x)]) continue;
            const int64_t ones = c.ones[static_cast<size_t>((y * c.kernel[1] + x) * c.columns + n)];
            sum += (1 + c.pad_value) * (2 * ones - c.group_channels);
        }
    }
    return sum;
}

void plan_stage(const Conv& c, const int64_t* sizes, Stage& s) {
    for (int axis = 0; axis < 2; ++axis) s.in[axis] = sizes[axis], s.conv[axis] = sizes[2 + axis], s.out[axis] = sizes[4 + axis];
    const auto rows = border_classes(c, 0, s.in[0], s.conv[0], s.classes[0]);
    const auto columns = border_classes(c, 1, s.in[1], s.conv[1], s.classes[1]);
    s.column_classes = static_cast<int64_t>(columns.size());
    s.table.reserve(rows.size() * columns.size() * static_cast<size_t>(c.columns));
    for (const auto& row : rows) {
        for (const auto& column : columns) {
            bool adds = false;
            for (int64_t n = 0; n < c.columns; ++n) {
                const int64_t add = correction(c, row, column, n);
                adds |= add != 0;
                const int64_t value = c.hidden ? c.limit[static_cast<size_t>(n)] - add : add;
                s.table.push_back(static_cast<int32_t>(
                    std::min<int64_t>(std::max<int64_t>(value, INT32_MIN), INT32_MAX)));
            }
            s.adds.push_back(adds);
        }
    }
}

}  // namespace
}  // namespace pennyweight

using namespace pennyweight;

PW_API void* pw_images_create(int index) {
    Network* network = new (std::nothrow) Network();
    if (network != nullptr) network->kernels = path(index);
    return network;
}

PW_API void pw_images_free(void* handle) { delete static_cast<Network*>(handle); }

// Weight rows (columns, taps, words of a group's channels). `limit` null: the last layer, whose sums are the result.
// `flip` marks the columns whose pooled bit is the windows' conjunction. Everything is copied.
PW_API void pw_images_add(void* handle, const int64_t* shape, const uint64_t* w, const int32_t* limit,
                          const uint64_t* invert, const uint64_t* flip) {
    Network& network = *static_cast<Network*>(handle);
    const Kernels* p = network.kernels;
    Shape numbers;
    memcpy(&numbers, shape, sizeof numbers);
    auto layer = std::make_unique<Conv>(numbers);
    Conv& c = *layer;
    c.taps = c.kernel[0] * c.kernel[1];
    c.group_channels = c.channels / c.groups, c.group_columns = c.columns / c.groups;
    c.units = c.int8 ? c.channels : ceil_div(c.channels, 64);
    c.group_units = c.int8 ? c.group_channels : ceil_div(c.group_channels, 64);
    c.row_units = c.taps * c.group_units;
    const int64_t words = c.int8 ? ceil_div(c.row_units, 64) : c.row_units;  // of a row of weights
    const int64_t per_panel = c.int8 ? p->int8_panel_columns : p->panel_columns;
    const int64_t bytes = c.int8 ? p->int8_panel_bytes(c.row_units) : p->panel_bytes(words);
    c.panel_stride = ceil_div(ceil_div(c.group_columns, per_panel) * bytes, kPanelAlignment) * kPanelAlignment;
    uint8_t* panels = c.panels.reserve(c.groups * c.panel_stride);
    for (int64_t group = 0; group < c.groups; ++group) {
        for (int64_t start = 0; start < c.group_columns; start += per_panel) {
            const int64_t count = std::min(per_panel, c.group_columns - start);
            const uint64_t* rows = w + (group * c.group_columns + start) * words;
            uint8_t* panel = panels + group * c.panel_stride + start / per_panel * bytes;
            if (c.int8) {
                p->pack_int8_panel(rows, count, c.row_units, panel);
            } else {
                p->pack_panel(rows, count, words, panel);
            }
        }
    }
    if (!c.int8) {
        c.ones.resize(static_cast<size_t>(c.taps * c.columns));
        for (int64_t n = 0; n < c.columns; ++n) {
            for (int64_t unit = 0; unit < c.row_units; ++unit) {
                c.ones[static_cast<size_t>(unit / c.group_units * c.columns + n)] +=
                    __builtin_popcountll(w[n * words + unit]);
            }
        }
    }
    if (limit != nullptr) {
        c.hidden = true;
        c.limit.assign(limit, limit + c.columns);
        c.invert.assign(invert, invert + c.out_words());
        c.flip.assign(flip, flip + c.out_words());
    }
    network.layers.push_back(std::move(layer));
}

// For images of one size; six numbers a layer: size in, size of the convolution's output, size after pooling.
// It belongs to the network, and is as good from any thread.
PW_API const void* pw_images_plan(void* handle, const int64_t* sizes) {
    Network& network = *static_cast<Network*>(handle);
    auto plan = std::make_unique<Plan>();
    plan->network = &network;
    plan->stages.resize(network.layers.size());
    for (size_t i = 0; i < network.layers.size(); ++i) plan_stage(*network.layers[i], sizes + 6 * i, plan->stages[i]);
    std::lock_guard<std::mutex> lock(network.mutex);
    network.plans.push_back(std::move(plan));
    return network.plans.back().get();
}

// Float images (batch, channels, height, width) to sums (batch, columns, height, width), or packed bits of the last
// layer, pixel by pixel without gaps. Returns the first NaN's index, or -1.
PW_API int64_t pw_images_run(const void* handle, const float* x, float scale, int64_t batch, int output, void* out,
                             int threads) {
    if (batch <= 0) return -1;
    const Plan& plan = *static_cast<const Plan*>(handle);
    const Conv& first = *plan.network->layers.front();
    const Conv& last = *plan.network->layers.back();
    const Stage &entry = plan.stages.front(), &exit = plan.stages.back();
    const int64_t values = first.channels * entry.in[0] * entry.in[1];
    const int64_t pixels = exit.out[0] * exit.out[1];
    const int64_t out_bytes = last.hidden ? ceil_div(pixels * last.columns, 64) * 8 : pixels * last.columns * 4;
    const Output kind = static_cast<Output>(output);
    if (threads < 1) threads = 1;
    if (batch < threads) {
        thread_local Scratch scratch;
        return run_samples(plan, x, scale, batch, kind, static_cast<uint8_t*>(out), threads, scratch);
    }
    const int64_t step = std::min(kSampleBlock, ceil_div(batch, threads));
    std::atomic<int64_t> bad{INT64_MAX};
    parallel_for(ceil_div(batch, step), threads, [&](int64_t task) {
        thread_local Scratch scratch;
        const int64_t sample = task * step, count = std::min(step, batch - sample);
        const int64_t at = run_samples(plan, x + sample * values, scale, count, kind,
                                       static_cast<uint8_t*>(out) + sample * out_bytes, 1, scratch);
        if (at < 0) return;
        int64_t known = bad.load();
        while (sample * values + at < known && !bad.compare_exchange_weak(known, sample * values + at)) {
        }
    });
    return bad.load() == INT64_MAX ? -1 : bad.load();
}
