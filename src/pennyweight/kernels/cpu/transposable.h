// Transposable masks of m x m tiles, m up to 64: the optimum, and what greedy orders give. masks/transposable_*.py say
// what each computes; this file returns the same masks.
//
// Scores of a tile are multiples of one unit (masks/transposable.py, on_grid), so that double adds them exactly: gains
// compare exactly, every cycle that is cancelled gains at least a unit, and all instruction sets agree to the bit.
//
// Included by one file per instruction set, inside an anonymous namespace; vectors are the compiler's own. Tiles are
// sorted side by side, one in a lane; within a tile, a vector holds rows.
#pragma once

#include <math.h>
#include <string.h>

#include "kernels.h"

namespace pennyweight {
namespace {

template <int kBytes>
class TransposableMasks {
    typedef double Doubles __attribute__((vector_size(kBytes)));
    typedef int64_t Longs __attribute__((vector_size(kBytes)));
    static constexpr int kLanes = kBytes / 8;
    static constexpr int kMost = 64;

    static constexpr uint64_t kExponent = 0x7ff0000000000000u;
    static constexpr double kShift = 384.0;  // 1.5 * 2^(52 - 44)

    int n_, m_, width_;  // width_: m rounded up to whole vectors
    double* scores_;     // [column][row], on the grid
    double* give_;       // the same where kept, infinity elsewhere
    double* best_;       // [from][to]: what the best path from row to row gains
    int64_t* step_;      // [from][to]: the row after `from` on it
    int64_t* keys_;      // [place][lane]
    uint64_t rows_[kMost];
    uint8_t row_count_[kMost], column_count_[kMost];

    static int power_of_two(int count) {
        int power = 1;
        while (power < count) power *= 2;
        return power;
    }

    static Doubles load(const double* at) {
        Doubles value;
        memcpy(&value, at, kBytes);
        return value;
    }
    static void store(double* at, const Doubles& value) { memcpy(at, &value, kBytes); }

    double& score(int row, int column) { return scores_[column * width_ + row]; }

    // ---- scores and their order

    void put_on_grid(const float* tile, int64_t stride, int rows, int columns) {
        float largest = 0.0f;
        for (int j = 0; j < m_; ++j)
            for (int i = 0; i < width_; ++i) scores_[j * width_ + i] = 0.0;
        for (int i = 0; i < rows; ++i) {
            for (int j = 0; j < columns; ++j) {
                const float value = tile[i * stride + j];
                largest = largest < value ? value : largest;
                score(i, j) = static_cast<double>(value);
            }
        }
        const double wide = largest;
        uint64_t bits;
        memcpy(&bits, &wide, 8);
        bits &= kExponent;
        double shift;
        memcpy(&shift, &bits, 8);
        shift *= kShift;
        for (int at = 0; at < m_ * width_; at += kLanes) {
            store(scores_ + at, (load(scores_ + at) + shift) - shift);
        }
    }

    // Keys order like the scores, of equal ones the earlier entry is larger; they are positive normal doubles.
    static int64_t key(float value, int entry) {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        return static_cast<int64_t>(uint64_t{1} << 60 | static_cast<uint64_t>(bits & 0x7fffffffu) << 12 |
                                    static_cast<uint64_t>(4095 - entry));
    }

    // Batcher's odd-even merge sort, largest first, of all lanes at once.
    void sort_keys(int count) {
        double* keys = reinterpret_cast<double*>(keys_);
        for (int p = 1; p < count; p *= 2) {
            for (int k = p; k >= 1; k /= 2) {
                for (int j = k % p; j + k < count; j += 2 * k) {
                    for (int i = 0; i < k && i + j + k < count; ++i) {
                        if ((i + j) / (2 * p) != (i + j + k) / (2 * p)) continue;
                        const Doubles a = load(keys + (i + j) * kLanes), b = load(keys + (i + j + k) * kLanes);
                        store(keys + (i + j) * kLanes, a > b ? a : b);
                        store(keys + (i + j + k) * kLanes, a > b ? b : a);
                    }
                }
            }
        }
    }

    void order(const float* tiles, int64_t stride, int rows, int64_t columns) {
        const int count = power_of_two(m_ * m_);
        for (int at = m_ * m_ * kLanes; at < count * kLanes; ++at) keys_[at] = int64_t{1} << 59;
        for (int i = 0; i < m_; ++i) {
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t start = static_cast<int64_t>(lane) * m_;
                for (int j = 0; j < m_; ++j) {
                    const float value = i < rows && start + j < columns ? tiles[i * stride + start + j] : 0.0f;
                    keys_[(i * m_ + j) * kLanes + lane] = key(value, i * m_ + j);
                }
            }
        }
        sort_keys(count);
    }

    int entry(int place, int lane) const { return 4095 - static_cast<int>(keys_[place * kLanes + lane] & 4095); }

    // ---- greedy masks

    void keep(int lane) {
        memset(rows_, 0, sizeof rows_);
        memset(row_count_, 0, sizeof row_count_);
        memset(column_count_, 0, sizeof column_count_);
        int missing = n_ * m_;
        for (int place = 0; place < m_ * m_ && missing > 0; ++place) {
            const int at = entry(place, lane), i = at / m_, j = at - i * m_;
            const int taken = (row_count_[i] < n_) & (column_count_[j] < n_);
            row_count_[i] = static_cast<uint8_t>(row_count_[i] + taken);
            column_count_[j] = static_cast<uint8_t>(column_count_[j] + taken);
            rows_[i] |= static_cast<uint64_t>(taken) << j;
            missing -= taken;
        }
    }

    void prune(int lane) {
        memset(row_count_, 0, sizeof row_count_);
        memset(column_count_, 0, sizeof column_count_);
        for (int i = 0; i < m_; ++i) rows_[i] = m_ == 64 ? ~uint64_t{0} : (uint64_t{1} << m_) - 1;
        for (int place = m_ * m_ - 1; place >= 0; --place) {
            const int at = entry(place, lane), i = at / m_, j = at - i * m_;
            const int pruned = (row_count_[i] < m_ - n_) | (column_count_[j] < m_ - n_);
            row_count_[i] = static_cast<uint8_t>(row_count_[i] + pruned);
            column_count_[j] = static_cast<uint8_t>(column_count_[j] + pruned);
            rows_[i] &= ~(static_cast<uint64_t>(pruned) << j);
        }
    }

    // Until row i and column j have n: of the kept (a, b) the one that two others may best replace.
    void swap() {
        int i = 0, j = 0;
        for (;;) {
            while (i < m_ && row_count_[i] == n_) ++i;
            while (j < m_ && column_count_[j] == n_) ++j;
            if (i == m_) return;
            double most = -INFINITY;
            int best_a = -1, best_b = -1;
            for (int a = 0; a < m_; ++a) {
                if (rows_[a] >> j & 1) continue;
                for (uint64_t left = rows_[a] & ~rows_[i]; left != 0; left &= left - 1) {
                    const int b = __builtin_ctzll(left);
                    const double gain = score(i, b) + score(a, j) - score(a, b);
                    if (gain > most) most = gain, best_a = a, best_b = b;
                }
            }
            rows_[best_a] ^= uint64_t{1} << best_b | uint64_t{1} << j;
            rows_[i] |= uint64_t{1} << best_b;
            ++row_count_[i];
            ++column_count_[j];
        }
    }

    // ---- the optimum

    void connect() {
        for (int i = 0; i < m_; ++i) {
            const uint64_t others = ~rows_[i] & (m_ == 64 ? ~uint64_t{0} : (uint64_t{1} << m_) - 1);
            for (int v = 0; v < width_; v += kLanes) {
                Doubles most = Doubles{} - static_cast<double>(INFINITY);
                for (uint64_t left = others; left != 0; left &= left - 1) {
                    const int j = __builtin_ctzll(left);
                    const Doubles gain = score(i, j) - load(give_ + j * width_ + v);
                    most = gain > most ? gain : most;
                }
                store(best_ + i * width_ + v, most);
            }
            for (int to = 0; to < width_; ++to) step_[i * width_ + to] = to;
        }
    }

    // Floyd and Warshall, until a cycle gains: applies it and returns true. Otherwise says whether one neither gains nor
    // loses, which means that there are several optimal masks.
    bool cancel_cycle(bool* tied) {
        connect();
        *tied = false;
        for (int k = 0; k < m_; ++k) {
            const double* row_k = best_ + k * width_;
            double most = -INFINITY;
            int start = 0;
            for (int i = 0; i < m_; ++i) {
                const double gain = best_[i * width_ + k] + row_k[i];
                if (i != k && gain > most) most = gain, start = i;
            }
            if (most > 0) {
                take_over(start, k);
                return true;
            }
            *tied |= most == 0;
            for (int i = 0; i < m_; ++i) {
                if (i == k) continue;
                double* row_i = best_ + i * width_;
                const double first = row_i[k];
                if (first == -INFINITY) continue;
                int64_t* step_i = step_ + i * width_;
                const Longs next = Longs{} + step_i[k];
                for (int v = 0; v < width_; v += kLanes) {
                    const Doubles old = load(row_i + v), through = first + load(row_k + v);
                    Longs step;
                    memcpy(&step, step_i + v, kBytes);
                    store(row_i + v, through > old ? through : old);
                    step = through > old ? next : step;
                    memcpy(step_i + v, &step, kBytes);
                }
            }
        }
        return false;
    }

    // Along start -> ... -> k -> ... -> start. Where the way back meets the way out the cycle closes there: what is left
    // out does not pass k and therefore gains nothing.
    void take_over(int start, int k) {
        int after[kMost];
        uint64_t seen = 0;
        int row = start;
        for (; row != k; row = after[row]) {
            seen |= uint64_t{1} << row;
            after[row] = static_cast<int>(step_[row * width_ + k]);
        }
        do {
            seen |= uint64_t{1} << row;
            after[row] = static_cast<int>(step_[row * width_ + start]);
            row = after[row];
        } while (!(seen >> row & 1));
        const int first = row;
        uint64_t columns[kMost];
        do {  // columns are chosen before any entry changes
            double most = -INFINITY;
            int best = 0;
            for (int j = 0; j < m_; ++j) {
                if (rows_[row] >> j & 1) continue;
                const double gain = score(row, j) - give_[j * width_ + after[row]];
                if (gain > most) most = gain, best = j;
            }
            columns[row] = static_cast<uint64_t>(best);
            row = after[row];
        } while (row != first);
        do {
            const int j = static_cast<int>(columns[row]), other = after[row];
            rows_[row] |= uint64_t{1} << j;
            rows_[other] &= ~(uint64_t{1} << j);
            give_[j * width_ + row] = score(row, j);
            give_[j * width_ + other] = INFINITY;
            row = other;
        } while (row != first);
    }

    // Of the optimal masks the one that keeps the earliest entries. With the rows' potentials each column keeps its
    // largest score + potential, and only entries equal to both the lowest kept and the highest other are free.
    void take_earliest() {
        double potential[kMost];
        for (int i = 0; i < m_; ++i) {
            potential[i] = 0;
            for (int from = 0; from < m_; ++from) {
                const double gain = best_[from * width_ + i];
                potential[i] = potential[i] < gain ? gain : potential[i];
            }
        }
        uint64_t kept[kMost] = {}, other[kMost] = {}, kept_by[kMost] = {};  // free entries; the last by column
        for (int j = 0; j < m_; ++j) {
            double lowest = INFINITY, highest = -INFINITY;
            for (int i = 0; i < m_; ++i) {
                const double value = score(i, j) + potential[i];
                if (rows_[i] >> j & 1) lowest = value < lowest ? value : lowest;
                else highest = highest < value ? value : highest;
            }
            if (lowest != highest) continue;
            for (int i = 0; i < m_; ++i) {
                if (score(i, j) + potential[i] != lowest) continue;
                if (rows_[i] >> j & 1) kept[i] |= uint64_t{1} << j, kept_by[j] |= uint64_t{1} << i;
                else other[i] |= uint64_t{1} << j;
            }
        }
        for (int i = 0; i < m_; ++i) {
            for (int j = 0; j < m_; ++j) {
                const uint64_t bit = uint64_t{1} << j;
                if (other[i] & bit) bring_in(i, j, kept, other, kept_by);
                kept[i] &= ~bit, other[i] &= ~bit, kept_by[j] &= ~(uint64_t{1} << i);
            }
        }
    }

    // Keeps (i, j) by the shortest cycle of free entries through it, if there is one.
    void bring_in(int i, int j, uint64_t* kept, uint64_t* other, uint64_t* kept_by) {
        int before[kMost], column[kMost], queue[kMost];  // of a row: the row it is reached from, and the column handed over
        int head = 0, tail = 0;
        uint64_t reached = 0, columns = 0;
        queue[tail++] = i;
        while (head < tail && !(reached >> i & 1)) {
            const int row = queue[head++];
            uint64_t from = row == i && head == 1 ? uint64_t{1} << j : other[row] & ~columns;
            columns |= from;
            for (; from != 0; from &= from - 1) {
                const int c = __builtin_ctzll(from);
                for (uint64_t next = kept_by[c] & ~reached; next != 0; next &= next - 1) {
                    const int to = __builtin_ctzll(next);
                    before[to] = row, column[to] = c;
                    reached |= uint64_t{1} << to;
                    if (to != i) queue[tail++] = to;
                }
            }
        }
        if (!(reached >> i & 1)) return;
        int row = i;
        do {
            const int from = before[row];
            const uint64_t bit = uint64_t{1} << column[row];
            rows_[row] &= ~bit, kept[row] &= ~bit, other[row] |= bit;
            rows_[from] |= bit, other[from] &= ~bit, kept[from] |= bit;
            kept_by[column[row]] = (kept_by[column[row]] & ~(uint64_t{1} << row)) | uint64_t{1} << from;
            row = from;
        } while (row != i);
    }

    void optimise() {
        for (int j = 0; j < m_; ++j)
            for (int i = 0; i < width_; ++i) {
                give_[j * width_ + i] = i < m_ && (rows_[i] >> j & 1) ? score(i, j) : INFINITY;
            }
        bool tied;
        while (cancel_cycle(&tied)) {
        }
        if (tied) take_earliest();
    }

    void write(uint8_t* kept, int64_t stride, int rows, int64_t columns) const {
        for (int i = 0; i < rows; ++i) {
            for (int start = 0; start < columns && start < m_; start += 8) {
                // Byte b of the product is the eight bits; the mask leaves bit b of it.
                const uint64_t eight = rows_[i] >> start & 255;
                const uint64_t spread = eight * 0x0101010101010101u & 0x8040201008040201u;
                const uint64_t ones = (spread + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
                int64_t count = (columns < m_ ? columns : m_) - start;
                if (count >= 8) {
                    memcpy(kept + i * stride + start, &ones, 8);
                } else {
                    for (int64_t b = 0; b < count; ++b) kept[i * stride + start + b] = ones >> (8 * b) & 1;
                }
            }
        }
    }

    // ---- 2:4: all 90 masks, in lanes

    struct Masks90 {
        uint8_t top[90], bottom[90];  // pairs of lines as 6 * first + second
        uint32_t bytes[6];            // a line as four bytes
    };

    static constexpr Masks90 masks90() {
        Masks90 table{};
        const int lines[6] = {0x3, 0x5, 0x9, 0x6, 0xa, 0xc};  // bit j is column j; those that keep earlier come first
        int count = 0;
        for (int code = 0; code < 1296; ++code) {
            const int line[4] = {code / 216, code / 36 % 6, code / 6 % 6, code % 6};
            bool fits = true;
            for (int j = 0; j < 4; ++j) {
                int sum = 0;
                for (int i = 0; i < 4; ++i) sum += lines[line[i]] >> j & 1;
                fits = fits && sum == 2;
            }
            if (!fits) continue;
            table.top[count] = static_cast<uint8_t>(code / 36);
            table.bottom[count++] = static_cast<uint8_t>(code % 36);
        }
        for (int l = 0; l < 6; ++l)
            for (int j = 0; j < 4; ++j) table.bytes[l] |= static_cast<uint32_t>(lines[l] >> j & 1) << (8 * j);
        return table;
    }

    static void exact_2of4(const float* tiles, int64_t stride, int rows, int64_t columns, uint8_t* kept) {
        static constexpr Masks90 kMasks = masks90();
        double values[16 * kLanes];
        for (int e = 0; e < 16; ++e) {
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t at = 4 * lane + e % 4;
                values[e * kLanes + lane] =
                    e / 4 < rows && at < columns ? static_cast<double>(tiles[e / 4 * stride + at]) : 0.0;
            }
        }
        Doubles score[16], largest = load(values);
        for (int e = 0; e < 16; ++e) {
            score[e] = load(values + e * kLanes);
            largest = score[e] > largest ? score[e] : largest;
        }
        const Doubles shift = reinterpret_cast<Doubles>(reinterpret_cast<Longs>(largest) &
                                                        static_cast<int64_t>(kExponent)) * kShift;
        Doubles line[4][6];
        for (int i = 0; i < 4; ++i) {
            Doubles* s = score + 4 * i;
            for (int j = 0; j < 4; ++j) s[j] = (s[j] + shift) - shift;
            line[i][0] = s[0] + s[1], line[i][1] = s[0] + s[2], line[i][2] = s[0] + s[3];
            line[i][3] = s[1] + s[2], line[i][4] = s[1] + s[3], line[i][5] = s[2] + s[3];
        }
        Doubles top[36], bottom[36];
        for (int a = 0; a < 6; ++a) {
            for (int b = 0; b < 6; ++b) {
                top[6 * a + b] = line[0][a] + line[1][b];
                bottom[6 * a + b] = line[2][a] + line[3][b];
            }
        }
        Doubles most = Doubles{} - 1.0;
        Longs best = {};
        for (int at = 0; at < 90; ++at) {
            const Doubles sum = top[kMasks.top[at]] + bottom[kMasks.bottom[at]];
            best = sum > most ? Longs{} + int64_t{at} : best;
            most = sum > most ? sum : most;
        }
        int64_t chosen[kLanes];
        memcpy(chosen, &best, kBytes);
        for (int lane = 0; lane < kLanes && 4 * lane < columns; ++lane) {
            const int64_t at = chosen[lane];
            const int lines[4] = {kMasks.top[at] / 6, kMasks.top[at] % 6, kMasks.bottom[at] / 6, kMasks.bottom[at] % 6};
            const int64_t left = columns - 4 * lane;
            for (int i = 0; i < rows; ++i) {
                memcpy(kept + i * stride + 4 * lane, &kMasks.bytes[lines[i]], left < 4 ? static_cast<size_t>(left) : 4);
            }
        }
    }

   public:
    static int64_t scratch_bytes(int m) {
        const int64_t width = (m + kLanes - 1) / kLanes * kLanes;
        return 4 * m * width * 8 + static_cast<int64_t>(power_of_two(m * m)) * kBytes;
    }

    // One row of tiles: `rows` of at most m lines, zeros standing for what lies outside.
    static void solve(const TransposableTask& task, const float* scores, int rows, int64_t columns, uint8_t* kept,
                      uint8_t* scratch) {
        const int m = task.m;
        const int64_t batch = static_cast<int64_t>(kLanes) * m;
        if (task.solver == kExact && task.n == 2 && m == 4) {
            for (int64_t c = 0; c < columns; c += batch) {
                exact_2of4(scores + c, task.stride, rows, columns - c, kept + c);
            }
            return;
        }
        TransposableMasks self;
        self.n_ = task.n, self.m_ = m, self.width_ = (m + kLanes - 1) / kLanes * kLanes;
        double* memory = reinterpret_cast<double*>(scratch);
        const int64_t square = static_cast<int64_t>(m) * self.width_;
        self.scores_ = memory, self.give_ = memory + square, self.best_ = memory + 2 * square;
        self.step_ = reinterpret_cast<int64_t*>(memory + 3 * square);
        self.keys_ = reinterpret_cast<int64_t*>(memory + 4 * square);
        for (int64_t c = 0; c < columns; c += batch) {
            self.order(scores + c, task.stride, rows, columns - c);
            for (int lane = 0; lane < kLanes && c + lane * m < columns; ++lane) {
                const int64_t start = c + lane * m, left = columns - start;
                if (task.solver == kGreedyPrune) {
                    self.prune(lane);
                } else {
                    self.keep(lane);
                }
                if (task.solver == kExact || task.solver == kGreedySwap) {
                    self.put_on_grid(scores + start, task.stride, rows, static_cast<int>(left < m ? left : m));
                    self.swap();
                }
                if (task.solver == kExact) self.optimise();
                self.write(kept + start, task.stride, rows, left);
            }
        }
    }
};

}  // namespace
}  // namespace pennyweight
