// The AVX-512BW path, for machines without a vector popcount: the look-up product of 64 columns at a time. The helpers
// that only read and write memory once are AVX2's.
#include "accumulate.h"
#include "kernels.h"
#include "lookup_product.h"
#include "planes.h"
#include "vector512.h"

#include "lookup_int8.h"
#include "transposable.h"

namespace pennyweight {
namespace {

using Product = LookupProduct<Vector512>;
using Int8 = LookupInt8<Vector512>;

Kernels make() {
    Kernels kernels = *avx2_kernels();
    kernels.name = "avx512bw";
    kernels.panel_columns = Product::kColumns;
    kernels.row_block = kLookupRowBlock;
    kernels.panel_bytes = Product::panel_bytes;
    kernels.pack_panel = Product::pack_panel;
    kernels.scratch_bytes = Product::scratch_bytes;
    kernels.product = Product::product;
    kernels.int8_panel_columns = Int8::kColumns;
    kernels.int8_panel_bytes = Int8::panel_bytes;
    kernels.pack_int8_panel = Int8::pack_panel;
    kernels.int8_scratch_bytes = Int8::scratch_bytes;
    kernels.int8_product = Int8::product;
    kernels.pack_planes = Planes<64>::pack;
    kernels.write_planes = Planes<64>::write;
    kernels.accumulate = Accumulate<64>::product;
    kernels.transposable_scratch_bytes = TransposableMasks<64>::scratch_bytes;
    kernels.transposable = TransposableMasks<64>::solve;
    return kernels;
}

}  // namespace

const Kernels* avx512bw_kernels() {
    static const Kernels kernels = make();
    return &kernels;
}

}  // namespace pennyweight
