// Running tasks on several threads, and nothing about what they compute.
#pragma once

#include <stdint.h>

namespace pennyweight {

// Calls task(context, i) for every i in [0, count) on at most `threads` threads, the caller among them. A call made
// while another one has the threads runs on its own thread; results never depend on who runs which task.
void parallel_for(int64_t count, int threads, void (*task)(void* context, int64_t index), void* context);

// Whether the threads are those of an OpenMP runtime already loaded in the process, or our own.
bool uses_team();

template <class Task>
void parallel_for(int64_t count, int threads, Task&& task) {
    parallel_for(
        count, threads, [](void* context, int64_t index) { (*static_cast<Task*>(context))(index); }, &task);
}

}  // namespace pennyweight
