// The self-test of a path: every function against the portable one, on odd shapes and on the edges of its number ranges.
#include <string.h>

#include <cfenv>
#include <cmath>
#include <limits>
#include <vector>

#include "registry.h"

namespace pennyweight {
namespace {

class Source {  // splitmix64
   public:
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    std::vector<uint64_t> words(int64_t rows, int64_t k, bool ones) {
        const int64_t words = (k + 63) / 64;
        std::vector<uint64_t> result(static_cast<size_t>(rows * words));
        for (auto& word : result) word = ones ? ~uint64_t{0} : next();
        if (k % 64) {
            for (int64_t r = 0; r < rows; ++r) {
                result[static_cast<size_t>(r * words + words - 1)] &= (uint64_t{1} << (k % 64)) - 1;
            }
        }
        return result;
    }

   private:
    uint64_t state_ = 20160209;
};

using Bytes = std::vector<uint8_t>;

uint8_t* aligned(Bytes& buffer, int64_t size) {
    buffer.assign(static_cast<size_t>(size + kPanelAlignment), 0);
    const auto address = reinterpret_cast<uintptr_t>(buffer.data());
    return buffer.data() + (kPanelAlignment - address % kPanelAlignment) % kPanelAlignment;
}

std::vector<int32_t> product(const Kernels* p, const uint64_t* a, int64_t m, const uint64_t* b, int64_t n, int64_t k) {
    const int64_t words = (k + 63) / 64, panels = (n + p->panel_columns - 1) / p->panel_columns;
    Bytes panel_buffer, scratch_buffer;
    uint8_t* packed = aligned(panel_buffer, panels * p->panel_bytes(words));
    for (int64_t i = 0; i < panels; ++i) {
        const int64_t start = i * p->panel_columns;
        p->pack_panel(b + start * words, n - start < p->panel_columns ? n - start : p->panel_columns, words,
                      packed + i * p->panel_bytes(words));
    }
    std::vector<int32_t> z(static_cast<size_t>(m * n), -1);
    p->product(a, m, words, packed, n, k, z.data(), n, aligned(scratch_buffer, p->scratch_bytes(m, n, words)));
    return z;
}

std::vector<int32_t> int8_product(const Kernels* p, const int8_t* x, int64_t m, const uint64_t* w, int64_t n,
                                  int64_t k) {
    const int64_t words = (k + 63) / 64, panels = (n + p->int8_panel_columns - 1) / p->int8_panel_columns;
    Bytes panel_buffer, scratch_buffer;
    uint8_t* packed = aligned(panel_buffer, panels * p->int8_panel_bytes(k));
    for (int64_t i = 0; i < panels; ++i) {
        const int64_t start = i * p->int8_panel_columns;
        p->pack_int8_panel(w + start * words, n - start < p->int8_panel_columns ? n - start : p->int8_panel_columns, k,
                           packed + i * p->int8_panel_bytes(k));
    }
    std::vector<int32_t> z(static_cast<size_t>(m * n), -1);
    p->int8_product(x, m, packed, n, k, z.data(), n, aligned(scratch_buffer, p->int8_scratch_bytes(m, n, k)));
    return z;
}

bool products_agree(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    constexpr int64_t shapes[][3] = {{1, 1, 1},    {1, 70, 300},  {2, 33, 64},   {3, 65, 513}, {9, 17, 100},
                                     {33, 66, 777}, {5, 3, 66000}, {1, 2, 66000}, {1, 40, 240}, {7, 64, 248}};
    for (const auto& shape : shapes) {
        const int64_t m = shape[0], n = shape[1], k = shape[2], words = (k + 63) / 64;
        for (const bool extreme : {false, true}) {  // extreme: every bit differs, the largest counts there are
            const auto a = source.words(m, k, extreme);
            auto b = source.words(n, k, false);
            if (extreme) memset(b.data(), 0, b.size() * 8);
            const auto expected = product(q, a.data(), m, b.data(), n, k);
            if (product(p, a.data(), m, b.data(), n, k) != expected) return false;
            std::vector<int32_t> direct(expected.size());
            p->product_rows(a.data(), m, b.data(), n, words, k, direct.data(), n);
            if (direct != expected) return false;
        }
    }
    return true;
}

bool int8_products_agree(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    constexpr int64_t shapes[][3] = {{1, 1, 1}, {1, 70, 300}, {2, 33, 64}, {9, 65, 1030}, {13, 130, 97}};
    for (const auto& shape : shapes) {
        const int64_t m = shape[0], n = shape[1], k = shape[2];
        for (const bool extreme : {false, true}) {
            std::vector<int8_t> x(static_cast<size_t>(m * k));
            for (auto& code : x) code = extreme ? int8_t{-128} : static_cast<int8_t>(source.next());
            const auto w = source.words(n, k, extreme);
            if (int8_product(p, x.data(), m, w.data(), n, k) != int8_product(q, x.data(), m, w.data(), n, k)) {
                return false;
            }
        }
    }
    return true;
}

std::vector<float> awkward_floats(Source& source, int64_t count) {
    std::vector<float> x(static_cast<size_t>(count));
    for (auto& value : x) {
        value = static_cast<float>(static_cast<int64_t>(source.next() % 1024) - 512) * 0.25f;
        if (source.next() % 16 == 0) value = -0.0f;
        if (source.next() % 16 == 0) value = std::numeric_limits<float>::denorm_min() * (source.next() % 2 ? 1 : -1);
        if (source.next() % 64 == 0) value = std::numeric_limits<float>::infinity() * (source.next() % 2 ? 1 : -1);
    }
    return x;
}

bool packing_agrees(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    for (const int64_t count : {1, 63, 64, 65, 200, 640}) {
        auto x = awkward_floats(source, count);
        const size_t words = static_cast<size_t>((count + 63) / 64);
        for (const int64_t nan : {int64_t{-1}, int64_t{0}, count / 2, count - 1}) {
            auto y = x;
            if (nan >= 0) y[static_cast<size_t>(nan)] = std::numeric_limits<float>::quiet_NaN();
            std::vector<uint64_t> mine(words), theirs(words);
            if (p->pack_signs(y.data(), count, mine.data()) != nan) return false;
            if (q->pack_signs(y.data(), count, theirs.data()) != nan || (nan < 0 && mine != theirs)) return false;
            std::vector<int8_t> codes(y.size()), other(y.size());
            if (p->quantize(y.data(), count, 0.5f, codes.data()) != nan) return false;
            q->quantize(y.data(), count, 0.5f, other.data());
            if (nan < 0 && codes != other) return false;
        }
    }
    return true;
}

bool planes_agree(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    constexpr int64_t shapes[][2] = {{1, 1}, {3, 65}, {32, 16}, {64, 100}, {65, 7}, {130, 257}, {5, 1100}};
    for (const auto& shape : shapes) {
        const int64_t channels = shape[0], pixels = shape[1], plane = pixels + 3, words = (channels + 63) / 64;
        auto x = awkward_floats(source, channels * plane);
        for (const bool nan : {false, true}) {
            if (nan) x[static_cast<size_t>((channels - 1) * plane + pixels / 2)] = std::nanf("");
            std::vector<uint64_t> mine(static_cast<size_t>(pixels * words)), theirs(mine.size());
            if (p->pack_planes(x.data(), channels, plane, pixels, mine.data()) != nan) return false;
            if (q->pack_planes(x.data(), channels, plane, pixels, theirs.data()) != nan || mine != theirs) return false;
        }
        std::vector<int32_t> z(static_cast<size_t>(pixels * (channels + 2)));
        for (auto& value : z) value = static_cast<int32_t>(source.next()) >> 8;
        for (const bool as_float : {false, true}) {
            std::vector<int32_t> mine(static_cast<size_t>(channels * plane)), theirs(mine.size());
            p->write_planes(z.data(), pixels, channels, channels + 2, as_float, mine.data(), plane);
            q->write_planes(z.data(), pixels, channels, channels + 2, as_float, theirs.data(), plane);
            if (mine != theirs) return false;
        }
    }
    return true;
}

bool thresholds_agree(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    for (const int64_t count : {1, 31, 64, 65, 200}) {
        const size_t words = static_cast<size_t>((count + 63) / 64);
        std::vector<int32_t> z(static_cast<size_t>(count)), limit(z.size());
        for (size_t i = 0; i < z.size(); ++i) {
            z[i] = static_cast<int32_t>(source.next() % 9) - 4;
            limit[i] = static_cast<int32_t>(source.next() % 9) - 4;
            if (source.next() % 8 == 0) limit[i] = std::numeric_limits<int32_t>::max();
            if (source.next() % 8 == 0) limit[i] = std::numeric_limits<int32_t>::min();
        }
        std::vector<uint64_t> invert(words), mine(words), theirs(words);
        for (auto& word : invert) word = source.next();
        p->threshold(z.data(), limit.data(), invert.data(), count, mine.data());
        q->threshold(z.data(), limit.data(), invert.data(), count, theirs.data());
        if (mine != theirs) return false;
    }
    return true;
}

std::vector<float> accumulated(const Kernels* p, const std::vector<float>& x, const std::vector<float>& w, int64_t m,
                               int64_t k, int64_t n, const Accumulator& format) {
    std::vector<float> z(static_cast<size_t>(m * n), -1.0f);
    const int before = fegetround();
    fesetround(FE_TOWARDZERO);
    p->accumulate(x.data(), m, k, w.data(), (n + 15) / 16 * 16, format, z.data(), n, n);
    fesetround(before);
    return z;
}

bool accumulators_agree(const Kernels* p, Source& source) {
    const auto bits = [](float value) {
        int32_t found;
        memcpy(&found, &value, sizeof found);
        return found;
    };
    constexpr int64_t shapes[][3] = {{1, 1, 1}, {5, 37, 20}, {3, 64, 33}, {9, 100, 70}};
    for (const auto& shape : shapes) {
        const int64_t m = shape[0], k = shape[1], n = shape[2];
        std::vector<float> x(static_cast<size_t>(m * k)), w(static_cast<size_t>(k * ((n + 15) / 16 * 16)));
        const auto draw = [&source](float& v) { v = static_cast<float>(static_cast<int32_t>(source.next())) * 0x1p-30f; };
        for (auto& v : x) draw(v);
        for (auto& v : w) draw(v);
        // M7E4 with biases 12 and 10, then one that saturates and loses at every turn.
        const Accumulator formats[] = {{0x7fff0000, bits(0x1p-12f), bits(15.9375f), bits(0x1p-10f), bits(63.75f), 16},
                                       {0x7ff00000, bits(0x1p-2f), bits(1.875f), bits(0x1p-1f), bits(1.875f), 3}};
        for (const Accumulator& format : formats) {
            if (accumulated(p, x, w, m, k, n, format) != accumulated(portable_kernels(), x, w, m, k, n, format)) {
                return false;
            }
        }
    }
    return true;
}

bool transposables_agree(const Kernels* p, Source& source) {
    const Kernels* q = portable_kernels();
    constexpr int patterns[][2] = {{2, 4}, {1, 4}, {2, 5}, {4, 8}, {7, 16}, {3, 33}};
    constexpr TransposableSolver solvers[] = {kExact, kGreedySwap, kGreedyKeep, kGreedyPrune};
    for (const auto& pattern : patterns) {
        const int n = pattern[0], m = pattern[1], rows = m - 1;
        const int64_t columns = 9 * m - 2;
        for (const uint64_t values : {uint64_t{3}, uint64_t{1} << 24}) {  // many ties, then hardly any
            std::vector<float> scores(static_cast<size_t>(rows * columns));
            for (auto& score : scores) score = static_cast<float>(source.next() % values);
            for (const TransposableSolver solver : solvers) {
                const TransposableTask task = {n, m, solver, columns};
                Bytes mine(scores.size()), theirs(scores.size()), scratch;
                p->transposable(task, scores.data(), rows, columns, mine.data(),
                                aligned(scratch, p->transposable_scratch_bytes(m)));
                q->transposable(task, scores.data(), rows, columns, theirs.data(),
                                aligned(scratch, q->transposable_scratch_bytes(m)));
                if (mine != theirs) return false;
            }
        }
    }
    return true;
}

}  // namespace

const char* self_test(const Kernels* kernels) {
    Source source;
    if (!packing_agrees(kernels, source)) return "packing or quantizing differs from the portable path";
    if (!planes_agree(kernels, source)) return "packing images or writing planes differs from the portable path";
    if (!thresholds_agree(kernels, source)) return "thresholding differs from the portable path";
    if (!products_agree(kernels, source)) return "the binary product differs from the portable path";
    if (!int8_products_agree(kernels, source)) return "the int8 product differs from the portable path";
    if (!accumulators_agree(kernels, source)) return "the product in few bits differs from the portable path";
    if (!transposables_agree(kernels, source)) return "transposable masks differ from the portable path";
    return nullptr;
}

}  // namespace pennyweight
