// How a product is cut into tasks, and the memory a task works in; what a task computes is the caller's.
#pragma once

#include <stdlib.h>

#include "kernels.h"
#include "pool.h"

namespace pennyweight {

// Products below this many single-bit multiplications finish before a second thread would have woken up.
inline constexpr double kParallelWork = 3.2e7;
inline constexpr int64_t kColumnChunk = 2048;  // columns whose sums stay in the second-level cache
inline constexpr int64_t kColumnUnit = 64;     // tasks start on whole words of packed outputs and whole panels

// Memory aligned to a cache line that grows and stays; one per thread and use.
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { free(data_); }

    uint8_t* reserve(int64_t size) {
        if (size > size_) {
            free(data_);
            const size_t rounded = (static_cast<size_t>(size) + 127) / 64 * 64;
            data_ = static_cast<uint8_t*>(aligned_alloc(64, rounded));
            if (data_ == nullptr) abort();
            size_ = size;
        }
        return data_;
    }

    const uint8_t* data() const { return data_; }

   private:
    uint8_t* data_ = nullptr;
    int64_t size_ = 0;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls task(row, rows, column, columns) for tiles that cover rows x columns.
template <class Task>
void for_tiles(int64_t rows, int64_t columns, double work, int64_t row_block, int threads, const Task& task) {
    if (rows <= 0 || columns <= 0) return;
    if (work < kParallelWork) threads = 1;
    int64_t column_chunk = kColumnChunk;
    const int64_t row_tasks = ceil_div(rows, row_block);
    if (threads > 1 && row_tasks < 2 * threads) {
        const int64_t wanted = ceil_div(2 * threads, row_tasks);
        const int64_t chunk = ceil_div(ceil_div(columns, wanted), kColumnUnit) * kColumnUnit;
        if (chunk < column_chunk) column_chunk = chunk;
    }
    const int64_t column_tasks = ceil_div(columns, column_chunk);
    parallel_for(row_tasks * column_tasks, threads, [&](int64_t index) {
        const int64_t row = index / column_tasks * row_block, column = index % column_tasks * column_chunk;
        task(row, rows - row < row_block ? rows - row : row_block, column,
             columns - column < column_chunk ? columns - column : column_chunk);
    });
}

}  // namespace pennyweight
