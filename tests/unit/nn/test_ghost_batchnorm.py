"""Ghost batch norm against separate batch norms, closed forms and autograd."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.normalization import (
    GHOST_OF,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    ghost_batch_norm,
)


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 + 0.5


def random_norm(channels: int, seed: int = 1) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


@pytest.mark.parametrize("ghost", [12, 13, 100])
def test_one_group_is_batch_norm(ghost: int) -> None:
    plain = random_norm(3)
    ours = GhostBatchNorm2d.from_module(copy.deepcopy(plain), ghost, "average")
    x = sample(12, 3, 4, 5)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [plain(inputs[0]), ours(inputs[1])]
    for y in outputs:
        (y * sample(*y.shape, seed=9)).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for (name, a), b in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, msg=name)
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)


@pytest.mark.parametrize(("batch", "ghost", "sizes"), [
    (12, 4, [4, 4, 4]), (13, 4, [4, 4, 5]), (15, 4, [4, 4, 7]), (7, 4, [7]), (3, 4, [3]), (9, 1, [1] * 9),
])  # fmt: skip
@pytest.mark.parametrize("statistics", ["average", "sequential"])
def test_groups_are_separate_batch_norms(batch: int, ghost: int, sizes: list[int], statistics: str) -> None:
    plain = random_norm(3)
    ours = GhostBatchNorm2d.from_module(copy.deepcopy(plain), ghost, statistics)  # type: ignore[arg-type]
    x = sample(batch, 3, 4, 5)
    expected, means, variances = [], [], []
    for part in x.split(sizes):
        fresh = copy.deepcopy(plain)
        fresh.momentum = 1.0
        expected.append(fresh(part))
        means.append(fresh.running_mean)
        variances.append(fresh.running_var)
    assert torch.equal(ours(x), torch.cat(expected))
    for buffer, parts, start in [(ours.running_mean, means, 0.0), (ours.running_var, variances, 1.0)]:
        running = torch.full((3,), start)
        if statistics == "sequential":  # one update a group, the oldest first
            for part in parts:
                running = 0.9 * running + 0.1 * part
        else:
            running = 0.9 * running + 0.1 * torch.stack(parts).mean(0)
        torch.testing.assert_close(buffer, running, rtol=1e-5, atol=1e-6)


def test_permutations() -> None:
    norm = GhostBatchNorm1d(5, 4)
    x = sample(12, 5)
    y = norm(x)
    inside = torch.tensor([3, 1, 0, 2, 4, 5, 6, 7, 11, 10, 9, 8])
    torch.testing.assert_close(norm(x[inside]), y[inside])
    blocks = torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    torch.testing.assert_close(norm(x[blocks]), y[blocks])
    across = torch.tensor([4, 1, 2, 3, 0, *range(5, 12)])
    assert not torch.allclose(norm(x[across]), y[across])


def test_each_group_is_normalised() -> None:
    y = GhostBatchNorm2d(3, 8)(sample(32, 3, 6, 6))
    for group in y.split(8):
        torch.testing.assert_close(group.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(group.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [6, 7])
def test_gradcheck(batch: int) -> None:
    x = sample(batch, 2, 3, dtype=torch.float64).requires_grad_()
    weight = sample(2, seed=3, dtype=torch.float64).requires_grad_()
    bias = sample(2, seed=4, dtype=torch.float64).requires_grad_()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ghost_batch_norm(x, None, None, weight, bias, ghost_batch_size=3)

    assert torch.autograd.gradcheck(function, (x, weight, bias))


def test_evaluation_is_batch_norms_and_state_travels_both_ways() -> None:
    ghost, plain = GhostBatchNorm2d(3, 4), nn.BatchNorm2d(3)
    for seed in range(3):
        ghost(sample(16, 3, 4, 4, seed=seed))
    plain.load_state_dict(ghost.state_dict())
    x = sample(16, 3, 4, 4, seed=7)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))
    back = GhostBatchNorm2d(3, 4)
    back.load_state_dict(plain.state_dict())
    assert torch.equal(back.eval()(x), plain(x))
    assert int(ghost.num_batches_tracked) == 3


def test_cumulative_average_and_no_running_statistics() -> None:
    cumulative = GhostBatchNorm1d(4, 2, momentum=None)
    xs = [sample(8, 4, seed=seed) for seed in range(3)]
    for x in xs:
        cumulative(x)
    expected = torch.stack([x.view(4, 2, 4).mean(1).mean(0) for x in xs]).mean(0)
    torch.testing.assert_close(cumulative.running_mean, expected)

    free = GhostBatchNorm1d(4, 2, track_running_stats=False)
    assert torch.equal(free.eval()(xs[0]), free.train()(xs[0]))  # groups in evaluation too: there is nothing else


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_statistics_in_float32(dtype: torch.dtype) -> None:
    norm = GhostBatchNorm2d(3, 4)
    x = sample(8, 3, 4, 4)
    y = norm(x.to(dtype))
    assert y.dtype == dtype
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    twin = GhostBatchNorm2d(3, 4)
    torch.testing.assert_close(y.float(), twin(x), atol=0.05, rtol=0.05)
    torch.testing.assert_close(norm.running_mean, twin.running_mean, atol=0.01, rtol=0.01)


def test_non_contiguous_and_channels_last() -> None:
    norm = GhostBatchNorm2d(3, 4)
    x = sample(8, 3, 4, 4)
    expected = norm(x)
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(norm(x.transpose(2, 3)).transpose(2, 3), expected)


def test_bad_sizes() -> None:
    with pytest.raises(MethodError, match="ghost_batch_size=0"):
        ghost_batch_norm(sample(4, 2), None, None, ghost_batch_size=0)
    with pytest.raises(ValueError, match="more than 1 value"):
        GhostBatchNorm1d(2, 1)(sample(4, 2))  # a group of one sample without spatial extent has no variance
    assert set(GHOST_OF) == {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}
