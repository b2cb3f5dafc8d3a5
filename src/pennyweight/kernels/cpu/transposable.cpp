// Transposable masks of whole matrices: tiles shared out among threads. transposable.h solves them.
#include <stdint.h>

#include "kernels.h"
#include "registry.h"
#include "tiles.h"

using namespace pennyweight;

// scores and kept: [count, rows, columns]; finite scores of at least 0.
extern "C" __attribute__((visibility("default"))) void pw_transposable(int index, const float* scores, int64_t count,
                                                                       int64_t rows, int64_t columns, int n, int m,
                                                                       int solver, uint8_t* kept, int threads) {
    const Kernels* p = path(index);
    const TransposableTask task = {n, m, static_cast<TransposableSolver>(solver), columns};
    const int64_t chunk = 64 * m;  // whole batches of every path
    const int64_t strips = ceil_div(rows, m), chunks = ceil_div(columns, chunk);
    if (count * rows * columns < 4096) threads = 1;
    parallel_for(count * strips * chunks, threads, [&](int64_t at) {
        thread_local Buffer scratch;
        const int64_t column = at % chunks * chunk, row = at / chunks % strips * m;
        const int64_t offset = (at / chunks / strips * rows + row) * columns + column;
        p->transposable(task, scores + offset, static_cast<int>(rows - row < m ? rows - row : m),
                        columns - column < chunk ? columns - column : chunk, kept + offset,
                        scratch.reserve(p->transposable_scratch_bytes(m)));
    });
}
