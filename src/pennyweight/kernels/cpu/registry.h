// The compiled instruction-set paths of this library, which of them this processor runs, and their self-tests.
#pragma once

#include "kernels.h"

namespace pennyweight {

// Paths from the most to the least preferred; null beyond the last.
const Kernels* path(int index);
bool path_supported(int index);

// Compares a path with the portable one on random operands: null when every result agrees, else what differed.
const char* self_test(const Kernels* kernels);

}  // namespace pennyweight
