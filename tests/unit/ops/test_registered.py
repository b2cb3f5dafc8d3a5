"""The operators as torch.library sees them: opcheck, and tracing by torch.compile with equal results."""

import pytest
import torch

from pennyweight import ops

K = 70


def words(rows: int, seed: int) -> torch.Tensor:
    return ops.pack_signs(torch.randn(rows, K, generator=torch.Generator().manual_seed(seed)))


def cases() -> list[tuple[str, tuple[object, ...]]]:
    a, b = words(3, 0), words(5, 1)
    codes = torch.randint(-128, 128, (3, K), dtype=torch.int8)
    t, g = torch.zeros(5, dtype=torch.int32), torch.tensor([True, False, True, True, False])
    binary, int8 = ops.prepack(b, K), ops.prepack(b, K, role="int8")
    assert binary.path is not None
    index = binary.path.index
    return [
        ("pack_signs", (torch.randn(3, K),)),
        ("binary_matmul", (a, b, K)),
        ("binary_matmul_packed", (a, binary.panels, 5, K, index)),
        ("int8_binary_matmul", (codes, b, K)),
        ("int8_binary_matmul_packed", (codes, int8.panels, 5, K, index)),
        ("binary_linear_threshold", (a, b, K, t, g)),
        ("binary_linear_threshold_packed", (a, binary.panels, 5, K, t, g, index)),
        ("binary_conv2d", (torch.randn(2, 6, 5, 7), torch.randn(4, 3, 3, 2), [1, 2], [1, 0], [2, 1], 2, 0)),
    ]


@pytest.mark.parametrize("name", [name for name, _ in cases()])
def test_opcheck(name: str) -> None:
    arguments = dict(cases())[name]
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(getattr(torch.ops.pennyweight, name).default, arguments, test_utils=checks)


@pytest.mark.parametrize("prepacked", [False, True])
def test_compile_traces_a_layer_whole(prepacked: bool) -> None:
    b = words(5, 1)
    weight = ops.prepack(b, K) if prepacked else b
    first = ops.prepack(b, K, role="int8") if prepacked else b
    t, g = torch.zeros(5, dtype=torch.int32), torch.tensor([True, False, True, True, False])

    def layer(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bits = ops.binary_linear_threshold(x, weight, K, t, g)
        codes = x.round().to(torch.int8)
        return bits, ops.binary_matmul(ops.pack_signs(x), weight, K) + 1, ops.int8_binary_matmul(codes, first, K)

    x = torch.randn(4, K)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(compiled(x), layer(x), strict=True):
        assert torch.equal(mine, theirs)


def test_compile_traces_a_convolution_whole() -> None:
    x, w = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return ops.binary_conv2d(x, w, padding=1, stride=(1, 2)) + 1

    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
