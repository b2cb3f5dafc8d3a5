// The pool: workers sleep on a condition variable between calls and take task numbers from one counter.
#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace pennyweight {
namespace {

class Pool {
   public:
    std::mutex busy;  // held by the caller whose tasks the workers run

    void run(int64_t count, int helpers, void (*task)(void*, int64_t), void* context) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (workers_ < helpers) start_workers(helpers);
            if (helpers > workers_) helpers = workers_;
            task_ = task, context_ = context, count_ = count, wanted_ = helpers, running_ = helpers;
            next_.store(0, std::memory_order_relaxed);
            ++generation_;
        }
        wake_.notify_all();
        drain(task, context, count);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

   private:
    // Workers live as long as the process; where the system refuses a thread, fewer share the work.
    void start_workers(int helpers) {
        try {
            for (; workers_ < helpers; ++workers_) std::thread(&Pool::work, this, workers_).detach();
        } catch (const std::system_error&) {
        }
    }

    void drain(void (*task)(void*, int64_t), void* context, int64_t count) {
        for (;;) {
            const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
            if (index >= count) return;
            task(context, index);
        }
    }

    void work(int number) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (number >= wanted_) continue;
            const auto task = task_;
            const auto context = context_;
            const auto count = count_;
            lock.unlock();
            drain(task, context, count);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<int64_t> next_{0};
    void (*task_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    int workers_ = 0, wanted_ = 0, running_ = 0;
    uint64_t generation_ = 0;
};

// Never destroyed: detached workers may still wait on it when the process ends.
std::atomic<Pool*> g_pool{nullptr};

// A child made by fork() has no workers and may have inherited locked mutexes: it starts with a new pool.
void forget_pool() { g_pool.store(nullptr); }

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
    Pool* current = g_pool.load();
    if (current == nullptr) {
        Pool* fresh = new Pool();
        if (g_pool.compare_exchange_strong(current, fresh)) return *fresh;
        delete fresh;
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t count, int threads, void (*task)(void*, int64_t), void* context) {
    if (threads > count) threads = static_cast<int>(count);
    if (threads > 1) {
        Pool& shared = pool();
        std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
        if (lock.owns_lock()) {
            shared.run(count, threads - 1, task, context);
            return;
        }
    }
    for (int64_t i = 0; i < count; ++i) task(context, i);
}

}  // namespace pennyweight
