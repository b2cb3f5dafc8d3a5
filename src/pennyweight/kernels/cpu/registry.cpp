// Which paths were compiled (the build defines PW_HAVE_*) and which of them this processor and system support.
#include "registry.h"

namespace pennyweight {
namespace {

struct Entry {
    const Kernels* (*kernels)();
    bool (*supported)();
};

#if defined(PW_HAVE_AVX2)
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
}
#endif
#if defined(PW_HAVE_AVX512BW)
bool has_avx512bw() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif
#if defined(PW_HAVE_AVX512VPOPCNT)
bool has_avx512vpopcnt() {
    return has_avx512bw() && __builtin_cpu_supports("avx512vpopcntdq");
}
#endif
bool always() { return true; }

constexpr Entry kEntries[] = {
#if defined(PW_HAVE_AVX512VPOPCNT)
    {avx512vpopcnt_kernels, has_avx512vpopcnt},
#endif
#if defined(PW_HAVE_AVX512BW)
    {avx512bw_kernels, has_avx512bw},
#endif
#if defined(PW_HAVE_AVX2)
    {avx2_kernels, has_avx2},
#endif
#if defined(PW_HAVE_NEON)
    {neon_kernels, always},
#endif
    {portable_kernels, always},
};
constexpr int kCount = sizeof(kEntries) / sizeof(kEntries[0]);

}  // namespace

const Kernels* path(int index) { return index >= 0 && index < kCount ? kEntries[index].kernels() : nullptr; }

bool path_supported(int index) { return index >= 0 && index < kCount && kEntries[index].supported(); }

}  // namespace pennyweight
