// The functions Python calls: plain C over raw pointers. Callers have validated shapes, types and word counts.
#include <stdint.h>

#include <atomic>
#include <cfenv>

#include "kernels.h"
#include "registry.h"
#include "tiles.h"

#define PW_API extern "C" __attribute__((visibility("default")))

using namespace pennyweight;

namespace {

// Too few rows to pay for packing the other operand into panels.
constexpr int64_t kRowsWorthPacking = 8;

void pack_panels(const Kernels* p, const uint64_t* b, int64_t n, int64_t words, uint8_t* panels, int threads) {
    const int64_t count = ceil_div(n, p->panel_columns), bytes = p->panel_bytes(words);
    parallel_for(count, n * words < 65536 ? 1 : threads, [&](int64_t i) {
        const int64_t start = i * p->panel_columns;
        p->pack_panel(b + start * words, n - start < p->panel_columns ? n - start : p->panel_columns, words,
                      panels + i * bytes);
    });
}

}  // namespace

PW_API const char* pw_path_name(int index) {
    const Kernels* kernels = path(index);
    return kernels == nullptr ? nullptr : kernels->name;
}

PW_API int pw_path_supported(int index) { return path_supported(index); }

PW_API const char* pw_path_self_test(int index) { return self_test(path(index)); }

PW_API int pw_uses_team() { return uses_team(); }

PW_API int64_t pw_pack_signs(int index, const float* x, int64_t rows, int64_t k, uint64_t* out, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64);
    std::atomic<int64_t> bad{INT64_MAX};
    constexpr int64_t kRows = 16;
    parallel_for(ceil_div(rows, kRows), rows * k < 262144 ? 1 : threads, [&](int64_t task) {
        const int64_t stop = (task + 1) * kRows < rows ? (task + 1) * kRows : rows;
        for (int64_t r = task * kRows; r < stop; ++r) {
            const int64_t at = p->pack_signs(x + r * k, k, out + r * words);
            if (at < 0) continue;
            int64_t known = bad.load();
            while (r * k + at < known && !bad.compare_exchange_weak(known, r * k + at)) {
            }
            return;
        }
    });
    return bad.load() == INT64_MAX ? -1 : bad.load();
}

// First row whose bits beyond k are not zero, or -1.
PW_API int64_t pw_find_padding(const uint64_t* words, int64_t rows, int64_t k) {
    if (k % 64 == 0) return -1;
    const int64_t count = ceil_div(k, 64);
    for (int64_t r = 0; r < rows; ++r) {
        if (words[r * count + count - 1] >> (k % 64)) return r;
    }
    return -1;
}

PW_API int64_t pw_panels_bytes(int index, int64_t n, int64_t words) {
    return ceil_div(n, path(index)->panel_columns) * path(index)->panel_bytes(words);
}

PW_API void pw_pack_panels(int index, const uint64_t* b, int64_t n, int64_t words, uint8_t* panels, int threads) {
    pack_panels(path(index), b, n, words, panels, threads);
}

PW_API void pw_product(int index, const uint64_t* a, int64_t m, int64_t k, const uint8_t* panels, int64_t n,
                       int32_t* z, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64);
    const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    for_tiles(m, n, work, p->row_block, threads, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        thread_local Buffer buffer;
        p->product(a + row * words, rows, words, panels + column / p->panel_columns * p->panel_bytes(words), columns, k,
                   z + row * n + column, n, buffer.reserve(p->scratch_bytes(rows, columns, words)));
    });
}

PW_API void pw_product_words(int index, const uint64_t* a, int64_t m, int64_t k, const uint64_t* b, int64_t n,
                             int32_t* z, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64);
    if (m >= kRowsWorthPacking) {
        Buffer panels;
        uint8_t* packed = panels.reserve(pw_panels_bytes(index, n, words));
        pack_panels(p, b, n, words, packed, threads);
        pw_product(index, a, m, k, packed, n, z, threads);
        return;
    }
    const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    for_tiles(m, n, 2 * work, m, threads, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        p->product_rows(a + row * words, rows, b + column * words, columns, words, k, z + row * n + column, n);
    });
}

PW_API void pw_product_threshold(int index, const uint64_t* a, int64_t m, int64_t k, const uint8_t* panels, int64_t n,
                                 const int32_t* limit, const uint64_t* invert, uint64_t* out, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64), out_words = ceil_div(n, 64);
    const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    for_tiles(m, n, work, p->row_block, threads, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        thread_local Buffer scratch, sums;
        int32_t* z = reinterpret_cast<int32_t*>(sums.reserve(rows * columns * 4));
        p->product(a + row * words, rows, words, panels + column / p->panel_columns * p->panel_bytes(words), columns, k,
                   z, columns, scratch.reserve(p->scratch_bytes(rows, columns, words)));
        for (int64_t r = 0; r < rows; ++r) {
            p->threshold(z + r * columns, limit + column, invert + column / 64, columns,
                         out + (row + r) * out_words + column / 64);
        }
    });
}

PW_API int64_t pw_int8_panels_bytes(int index, int64_t n, int64_t k) {
    return ceil_div(n, path(index)->int8_panel_columns) * path(index)->int8_panel_bytes(k);
}

PW_API void pw_pack_int8_panels(int index, const uint64_t* w, int64_t n, int64_t k, uint8_t* panels, int threads) {
    const Kernels* p = path(index);
    const int64_t words = ceil_div(k, 64), bytes = p->int8_panel_bytes(k);
    parallel_for(ceil_div(n, p->int8_panel_columns), n * k < 1048576 ? 1 : threads, [&](int64_t i) {
        const int64_t start = i * p->int8_panel_columns;
        p->pack_int8_panel(w + start * words,
                           n - start < p->int8_panel_columns ? n - start : p->int8_panel_columns, k, panels + i * bytes);
    });
}

PW_API void pw_accumulate(int index, const float* x, int64_t m, int64_t k, const float* w, int64_t stride, int64_t n,
                          const int32_t* bits, int64_t chunk, float* z, int threads) {
    const Kernels* p = path(index);
    const Accumulator format = {bits[0], bits[1], bits[2], bits[3], bits[4], chunk};
    const double work = 64.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    for_tiles(m, n, work, 32, threads, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        const int before = fegetround();
        fesetround(FE_TOWARDZERO);
        p->accumulate(x + row * k, rows, k, w + column, stride, format, z + row * n + column, n, columns);
        fesetround(before);
    });
}

PW_API void pw_int8_product(int index, const int8_t* x, int64_t m, int64_t k, const uint8_t* panels, int64_t n,
                            int32_t* z, int threads) {
    const Kernels* p = path(index);
    const double work = 8.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    for_tiles(m, n, work, p->row_block, threads, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
        thread_local Buffer buffer;
        p->int8_product(x + row * k, rows, panels + column / p->int8_panel_columns * p->int8_panel_bytes(k), columns, k,
                        z + row * n + column, n, buffer.reserve(p->int8_scratch_bytes(rows, columns, k)));
    });
}
