// Philox4x32-10 counter-based random bits, the same as numerics.random computes with torch: element i is word i % 4 of
// the block with counter (low half of i / 4, high half of i / 4, 0, 0).
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#include <stdint.h>

#include "pool.h"

namespace {

struct Block {
    uint32_t word[4];
};

Block philox(uint64_t counter, uint32_t key0, uint32_t key1) {
    uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
        const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
        const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
        c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0), c0 = n0, c2 = n2;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace

// Writes elements 0..count-1 as int64 in [0, 2^32).
extern "C" __attribute__((visibility("default"))) void pw_philox(uint32_t key0, uint32_t key1, int64_t count,
                                                                 int64_t* out, int threads) {
    constexpr int64_t kTaskBlocks = 16384;
    const int64_t blocks = (count + 3) / 4;
    pennyweight::parallel_for((blocks + kTaskBlocks - 1) / kTaskBlocks, threads, [&](int64_t task) {
        const int64_t stop = (task + 1) * kTaskBlocks < blocks ? (task + 1) * kTaskBlocks : blocks;
        for (int64_t b = task * kTaskBlocks; b < stop; ++b) {
            const Block block = philox(static_cast<uint64_t>(b), key0, key1);
            for (int64_t i = 0; i < 4 && 4 * b + i < count; ++i) out[4 * b + i] = block.word[i];
        }
    });
}
