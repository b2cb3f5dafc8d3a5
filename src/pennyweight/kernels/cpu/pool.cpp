// Who runs tasks in parallel: the OpenMP team that is already in the process, or a pool of our own.
//
// torch's OpenMP workers keep their cores busy waiting for some milliseconds after each of its operators. Threads of our
// own would have to share the cores with them, so the team is borrowed where one is loaded. OpenMP does not survive
// fork(), which is why a child of fork uses the pool.
#include "pool.h"

#include <pthread.h>
#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#endif

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace pennyweight {
namespace {

struct Work {
    void (*task)(void*, int64_t);
    void* context;
    int64_t count;
    std::atomic<int64_t> next{0};

    void drain() {
        for (;;) {
            const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
            if (index >= count) return;
            task(context, index);
        }
    }
};

// The entry point of GNU OpenMP's parallel regions, which LLVM's and Intel's runtimes provide too.
using Team = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

#if defined(__linux__)
int visit_library(dl_phdr_info* info, size_t, void* found) {
    const char* name = info->dlpi_name == nullptr ? nullptr : strrchr(info->dlpi_name, '/');
    if (name == nullptr) return 0;
    if (strncmp(name, "/libgomp", 8) != 0 && strncmp(name, "/libomp", 7) != 0 && strncmp(name, "/libiomp", 8) != 0) {
        return 0;
    }
    void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return 0;
    *static_cast<Team*>(found) = reinterpret_cast<Team>(dlsym(library, "GOMP_parallel"));
    return *static_cast<Team*>(found) != nullptr;
}
#endif

Team find_team() {
    Team team = nullptr;
#if defined(__linux__)
    dl_iterate_phdr(visit_library, &team);
#endif
    return team;
}

// Workers sleep on a condition variable between calls and live as long as the process.
class Pool {
   public:
    void run(Work& work, int helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start_workers(helpers);
            if (helpers > workers_) helpers = workers_;
            work_ = &work, wanted_ = helpers, running_ = helpers;
            ++generation_;
        }
        wake_.notify_all();
        work.drain();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

   private:
    // Where the system refuses a thread, fewer share the work.
    void start_workers(int helpers) {
        try {
            for (; workers_ < helpers; ++workers_) std::thread(&Pool::serve, this, workers_, generation_).detach();
        } catch (const std::system_error&) {
        }
    }

    void serve(int number, uint64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (number >= wanted_) continue;
            Work* work = work_;
            lock.unlock();
            work->drain();
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Work* work_ = nullptr;
    int workers_ = 0, wanted_ = 0, running_ = 0;
    uint64_t generation_ = 0;
};

struct Process {
    std::mutex busy;  // held by the caller whose tasks the others run
    Team team;
    Pool pool;
};

std::atomic<Process*> g_process{nullptr};
std::atomic<bool> g_forked{false};

// A child of fork() has none of the threads and may have inherited locked mutexes: it starts anew.
void after_fork() {
    g_process.store(nullptr);
    g_forked.store(true);
}

// Registered when the library loads: the first parallel call may come after the fork.
const int g_registered = pthread_atfork(nullptr, nullptr, after_fork);

// Never destroyed: idle workers may still wait on it when the process ends.
Process& process() {
    Process* current = g_process.load();
    if (current != nullptr) return *current;
    Process* fresh = new Process();
    fresh->team = g_forked.load() ? nullptr : find_team();
    if (g_process.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
    return *current;
}

}  // namespace

void parallel_for(int64_t count, int threads, void (*task)(void*, int64_t), void* context) {
    if (threads > count) threads = static_cast<int>(count);
    if (threads > 1) {
        Process& shared = process();
        std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
        if (lock.owns_lock()) {
            Work work{task, context, count};
            if (shared.team != nullptr) {
                shared.team([](void* data) { static_cast<Work*>(data)->drain(); }, &work,
                            static_cast<unsigned>(threads), 0);
            } else {
                shared.pool.run(work, threads - 1);
            }
            return;
        }
    }
    for (int64_t i = 0; i < count; ++i) task(context, i);
}

bool uses_team() { return process().team != nullptr; }

}  // namespace pennyweight
