// A whole packed network in one call: an optional first layer of int8 codes times packed signs, binary layers whose
// outputs are compared with thresholds and packed again, and a last layer that returns its integer sums.
#include <string.h>

#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "registry.h"
#include "tiles.h"

#define PW_API extern "C" __attribute__((visibility("default")))

namespace pennyweight {
namespace {

struct Layer {
    bool int8 = false;
    bool hidden = false;
    int64_t columns = 0, k = 0, words = 0;
    Buffer panels;
    std::vector<int32_t> limit;
    std::vector<uint64_t> invert;
};

struct Chain {
    const Kernels* kernels = nullptr;
    std::vector<std::unique_ptr<Layer>> layers;
    double work_per_row = 0;
};

// What enters the first layer: int8 codes or packed words as they are, or floats to quantize or pack.
enum Input { kPrepared = 0, kFloat = 1 };

struct Scratch {
    Buffer first, words[2];
};

void layer_product(const Kernels* p, const Layer& layer, const void* x, int64_t rows, int64_t column, int64_t columns,
                   int32_t* z, int64_t z_stride, Buffer& scratch) {
    if (layer.int8) {
        p->int8_product(static_cast<const int8_t*>(x), rows,
                        layer.panels.data() + column / p->int8_panel_columns * p->int8_panel_bytes(layer.k), columns,
                        layer.k, z, z_stride, scratch.reserve(p->int8_scratch_bytes(rows, columns, layer.k)));
    } else {
        p->product(static_cast<const uint64_t*>(x), rows, layer.words,
                   layer.panels.data() + column / p->panel_columns * p->panel_bytes(layer.words), columns, layer.k, z,
                   z_stride, scratch.reserve(p->scratch_bytes(rows, columns, layer.words)));
    }
}

// The first layer's operand: codes as they are, or floats quantized or packed. Returns the first NaN's index, or -1.
int64_t prepare(const Chain& chain, const void* x, Input input, float scale, int64_t rows, Scratch& scratch,
                const void** operand) {
    const Layer& first = *chain.layers.front();
    if (input == kPrepared) {
        *operand = x;
        return -1;
    }
    const float* values = static_cast<const float*>(x);
    if (first.int8) {
        int8_t* codes = reinterpret_cast<int8_t*>(scratch.first.reserve(rows * first.k));
        *operand = codes;
        return chain.kernels->quantize(values, rows * first.k, scale, codes);
    }
    uint64_t* words = reinterpret_cast<uint64_t*>(scratch.first.reserve(rows * first.words * 8));
    *operand = words;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t bad = chain.kernels->pack_signs(values + r * first.k, first.k, words + r * first.words);
        if (bad >= 0) return r * first.k + bad;
    }
    return -1;
}

// All layers for `rows` samples. `threads` > 1 splits each layer's columns.
int64_t run_rows(const Chain& chain, const void* x, Input input, float scale, int64_t rows, int32_t* out, int threads,
                 Scratch& scratch) {
    const Kernels* p = chain.kernels;
    const void* operand = nullptr;
    const int64_t bad = prepare(chain, x, input, scale, rows, scratch, &operand);
    if (bad >= 0) return bad;
    for (size_t i = 0; i < chain.layers.size(); ++i) {
        const Layer& layer = *chain.layers[i];
        const double work = static_cast<double>(rows * layer.columns) * static_cast<double>(layer.k) *
                            (layer.int8 ? 8.0 : 1.0);
        if (!layer.hidden) {
            for_tiles(rows, layer.columns, work, rows, threads, [&](int64_t, int64_t, int64_t column, int64_t columns) {
                thread_local Buffer kernel_scratch;
                layer_product(p, layer, operand, rows, column, columns, out + column, layer.columns, kernel_scratch);
            });
            continue;
        }
        const int64_t out_words = ceil_div(layer.columns, 64);
        uint64_t* next = reinterpret_cast<uint64_t*>(scratch.words[i % 2].reserve(rows * out_words * 8));
        for_tiles(rows, layer.columns, work, rows, threads, [&](int64_t, int64_t, int64_t column, int64_t columns) {
            thread_local Buffer kernel_scratch, sums;
            int32_t* z = reinterpret_cast<int32_t*>(sums.reserve(rows * columns * 4));
            layer_product(p, layer, operand, rows, column, columns, z, columns, kernel_scratch);
            for (int64_t r = 0; r < rows; ++r) {
                p->threshold(z + r * columns, layer.limit.data() + column, layer.invert.data() + column / 64, columns,
                             next + r * out_words + column / 64);
            }
        });
        operand = next;
    }
    return -1;
}

}  // namespace
}  // namespace pennyweight

using namespace pennyweight;

PW_API void* pw_chain_create(int index) {
    Chain* chain = new (std::nothrow) Chain();
    if (chain != nullptr) chain->kernels = path(index);
    return chain;
}

PW_API void pw_chain_free(void* handle) { delete static_cast<Chain*>(handle); }

// `limit` null: the last layer, whose sums are the result. Everything is copied.
PW_API void pw_chain_add(void* handle, int int8, const uint64_t* w, int64_t n, int64_t k, const int32_t* limit,
                         const uint64_t* invert) {
    Chain& chain = *static_cast<Chain*>(handle);
    const Kernels* p = chain.kernels;
    auto layer = std::make_unique<Layer>();
    layer->int8 = int8 != 0, layer->columns = n, layer->k = k, layer->words = ceil_div(k, 64);
    const int64_t per_panel = int8 ? p->int8_panel_columns : p->panel_columns;
    const int64_t bytes = int8 ? p->int8_panel_bytes(k) : p->panel_bytes(layer->words);
    uint8_t* panels = layer->panels.reserve(ceil_div(n, per_panel) * bytes);
    for (int64_t start = 0; start < n; start += per_panel, panels += bytes) {
        const int64_t columns = n - start < per_panel ? n - start : per_panel;
        if (int8) {
            p->pack_int8_panel(w + start * layer->words, columns, k, panels);
        } else {
            p->pack_panel(w + start * layer->words, columns, layer->words, panels);
        }
    }
    if (limit != nullptr) {
        layer->hidden = true;
        layer->limit.assign(limit, limit + n);
        layer->invert.assign(invert, invert + ceil_div(n, 64));
    }
    chain.work_per_row += static_cast<double>(n) * static_cast<double>(k) * (int8 ? 8.0 : 1.0);
    chain.layers.push_back(std::move(layer));
}

// Samples x (rows, k of the first layer) to sums (rows, columns of the last). Returns the first NaN's index, or -1.
PW_API int64_t pw_chain_run(const void* handle, const void* x, int input, float scale, int64_t rows, int32_t* out,
                            int threads) {
    if (rows <= 0) return -1;
    const Chain& chain = *static_cast<const Chain*>(handle);
    const Layer& first = *chain.layers.front();
    const int64_t block = chain.kernels->row_block;
    if (threads < 2 || chain.work_per_row * static_cast<double>(rows) < kParallelWork) threads = 1;
    if (threads > 1 && rows < 8 * threads) {
        thread_local Scratch scratch;
        return run_rows(chain, x, static_cast<Input>(input), scale, rows, out, threads, scratch);
    }
    const int64_t share = ceil_div(rows, threads);
    const int64_t step = share < block ? share : block;
    const int64_t row_bytes = input == kFloat ? first.k * 4 : first.int8 ? first.k : first.words * 8;
    std::atomic<int64_t> bad{INT64_MAX};
    parallel_for(ceil_div(rows, step), threads, [&](int64_t task) {
        thread_local Scratch scratch;
        const int64_t row = task * step, count = rows - row < step ? rows - row : step;
        const int64_t at = run_rows(chain, static_cast<const uint8_t*>(x) + row * row_bytes,
                                    static_cast<Input>(input), scale, count,
                                    out + row * chain.layers.back()->columns, 1, scratch);
        if (at < 0) return;
        int64_t known = bad.load();
        while (row * first.k + at < known && !bad.compare_exchange_weak(known, row * first.k + at)) {
        }
    });
    return bad.load() == INT64_MAX ? -1 : bad.load();
}
