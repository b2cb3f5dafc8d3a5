"""Binary matrix product against torch's float32 product, interleaved in one run: several shapes, 1 thread and all.

The headline shape is 1024 x 1024 x 4096; `--quick` times it alone.

`packed`: both operands are packed, the weight laid out once. `packing`: the activations are binarized and packed from
float32 in the timed part. torch multiplies into a preallocated result, with the weight in whichever of the two layouts
is faster here. The AVX2 path is compared with torch limited to AVX2, in a process of its own that sees the variables
ATEN_CPU_CAPABILITY, MKL_ENABLE_INSTRUCTIONS and ONEDNN_MAX_CPU_ISA; every path is also compared with torch unlimited.

    python benchmarks/binary_matmul.py [--quick] [--save]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

AVX2_TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SHAPES = ((1, 1024, 1024), (64, 1024, 1024), (512, 512, 2048), (1024, 1024, 4096))
HEADLINE_SHAPE = SHAPES[-1]
HEADLINE_PATH = "avx2"


def faster_layout(x: Any, w: Any, out: Any) -> tuple[str, Any]:
    """The weight as torch multiplies it sooner: as it is (NT), or transposed in memory (NN)."""
    import torch

    from pennyweight.numerics.measure import interleaved

    as_is, transposed = w.T, w.T.contiguous()
    timed = interleaved(lambda: torch.mm(x, as_is, out=out), lambda: torch.mm(x, transposed, out=out), repeats=3)
    return ("NN", transposed) if timed.ratio > 1 else ("NT", as_is)


def measure_here(peer: str, repeats: int, shapes: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Rows for every shape, backend and thread count in this process."""
    return [row for shape in shapes for row in measure_shape(shape, peer, repeats)]


def measure_shape(shape: tuple[int, int, int], peer: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of one shape m x n x k."""
    import torch

    from pennyweight import ops
    from pennyweight.numerics.measure import interleaved

    m, n, k = shape
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    expected = (torch.where(x >= 0, 1.0, -1.0) @ torch.where(w >= 0, 1.0, -1.0).T).to(torch.int32)
    rows = []
    backends = [name for name in ops.available_backends() if name not in ("reference", "portable")] or ["portable"]
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        ops.set_num_threads(threads)
        z, floats = torch.empty(m, n, dtype=torch.int32), torch.empty(m, n)
        layout, weight_float = faster_layout(x, w, floats)
        for backend in backends:
            with ops.use_backend(backend):
                weight = ops.prepack(ops.pack_signs(w), k)
                words = ops.pack_signs(x)
                assert torch.equal(ops.binary_matmul(words, weight, k), expected), f"{backend} is wrong"

                def torch_product(b: Any = weight_float, out: Any = floats) -> Any:
                    return torch.mm(x, b, out=out)

                def packed(a: Any = words, b: Any = weight, out: Any = z) -> Any:
                    return ops.binary_matmul(a, b, k, out=out)

                def packing(b: Any = weight, out: Any = z) -> Any:
                    return ops.binary_matmul(ops.pack_signs(x), b, k, out=out)

                for what, call in (("packed", packed), ("packing", packing)):
                    timed = interleaved(torch_product, call, repeats=repeats)
                    rows.append(
                        {
                            "what": what,
                            "backend": backend,
                            "peer": peer,
                            "peer_layout": layout,
                            "threads": threads,
                            "shape": "x".join(map(str, shape)),
                            "torch_ms": timed.a_seconds * 1e3,
                            "ours_ms": timed.b_seconds * 1e3,
                            "ours_gbop_per_s": 2 * m * n * k / timed.b_seconds / 1e9,
                            "speedup": timed.ratio,
                            "spread": timed.spread,
                            "n": timed.n,
                        }
                    )
    return rows


def measure_in_child(peer: str, quick: bool, variables: dict[str, str]) -> list[dict[str, Any]]:
    """The same in a process of its own, which reads the variables before torch is imported."""
    command = [sys.executable, __file__, "--child", peer, *(["--quick"] if quick else [])]
    result = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the headline shape alone, fewer repeats: under a minute")
    parser.add_argument("--save", action="store_true", help="write the rows under results/")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        shapes = (HEADLINE_SHAPE,) if options.quick else SHAPES
        print(json.dumps(measure_here(options.child, 7 if options.quick else 31, shapes)))
        return

    rows = measure_in_child("torch_float32", options.quick, {})
    has_headline_path = any(row["backend"] == HEADLINE_PATH for row in rows)
    if has_headline_path:
        rows += measure_in_child("torch_float32_avx2", options.quick, AVX2_TORCH)
    titles = ("shape", "what", "backend", "peer", "threads", "torch ms", "ours ms", "times", "spread")
    print("{:15s} {:8s} {:14s} {:20s} {:>7s} {:>9s} {:>8s} {:>6s} {:>6s}".format(*titles))
    for row in rows:
        print(
            f"{row['shape']:15s} {row['what']:8s} {row['backend']:14s} {row['peer']:20s} {row['threads']:7d} "
            f"{row['torch_ms']:9.3f} {row['ours_ms']:8.3f} {row['speedup']:6.2f} {row['spread']:6.3f}"
        )
    from reporting import headline, save_rows

    if options.save:
        print(f"saved {save_rows('binary_matmul', rows).name}")
    best = rows[0]["backend"]
    main_path, main_peer = (HEADLINE_PATH, "torch_float32_avx2") if has_headline_path else (best, "torch_float32")
    everything = max(row["threads"] for row in rows)

    def emit(name: str, what: str, backend: str, peer: str, threads: int) -> None:
        key = ("x".join(map(str, HEADLINE_SHAPE)), what, backend, peer, threads)
        row = next(r for r in rows if (r["shape"], r["what"], r["backend"], r["peer"], r["threads"]) == key)
        print(headline(name, row["speedup"], "x", row["n"], row["spread"], peer))

    emit("binary_matmul_best_path_packed_speedup", "packed", best, "torch_float32", 1)
    emit("binary_matmul_best_path_packing_speedup", "packing", best, "torch_float32", 1)
    emit("binary_matmul_packed_speedup_all_threads", "packed", main_path, main_peer, everything)
    emit("binary_matmul_packing_speedup_all_threads", "packing", main_path, main_peer, everything)
    emit("binary_matmul_packed_speedup", "packed", main_path, main_peer, 1)
    emit("binary_matmul_packing_speedup", "packing", main_path, main_peer, 1)


if __name__ == "__main__":
    main()
