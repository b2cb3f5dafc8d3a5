// A small persistent pool of threads, and nothing about what they compute.
#pragma once

#include <stdint.h>

namespace pennyweight {

// Calls task(context, i) for every i in [0, count) on at most `threads` threads, the caller among them. A call made
// while another one holds the pool runs on its own thread; results never depend on who runs which task.
void parallel_for(int64_t count, int threads, void (*task)(void* context, int64_t index), void* context);

template <class Task>
void parallel_for(int64_t count, int threads, Task&& task) {
    parallel_for(
        count, threads, [](void* context, int64_t index) { (*static_cast<Task*>(context))(index); }, &task);
}

}  // namespace pennyweight
