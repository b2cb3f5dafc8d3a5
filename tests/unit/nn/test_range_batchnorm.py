"""Range batch norm against scalar Python, autograd, batch norm, and its own identities."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oracles import range_norm as oracle
from pennyweight.errors import MethodError, NumericsError
from pennyweight.nn.range_batchnorm import (
    GhostRangeBatchNorm1d,
    GhostRangeBatchNorm2d,
    RangeBatchNorm1d,
    RangeBatchNorm2d,
)
from pennyweight.nn.range_normalize import range_batch_norm, range_deviation
from pennyweight.numerics.order_statistics import expected_range, range_constant


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained_norm(channels: int, seed: int = 1) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).train()
    with torch.no_grad():
        norm.weight.copy_(sample(channels, seed=seed))
        norm.bias.copy_(sample(channels, seed=seed + 1))
        for step in range(3):
            norm(sample(8, channels, 4, 4, seed=step, dtype=torch.float32) * 3 + 1)
    return norm


@pytest.mark.parametrize(("n", "d2", "paper", "repo"), [
    (16, 3.532, 1.500, .810), (64, 4.688, 1.625, .878), (256, 5.654, 1.698, .917),
    (1024, 6.497, 1.745, .943), (4096, 7.252, 1.778, .960), (65536, 8.582, 1.822, .984),
])  # fmt: skip
def test_the_constants_table(n: int, d2: float, paper: float, repo: float) -> None:
    assert expected_range(n) == pytest.approx(d2, abs=6e-4)
    assert range_constant(n) * expected_range(n) == pytest.approx(1.0, abs=1e-12)
    assert range_constant(n, "paper") * expected_range(n) == pytest.approx(paper, abs=6e-4)
    assert range_constant(n, "repo") * expected_range(n) == pytest.approx(repo, abs=6e-4)


@pytest.mark.parametrize("n", [2, 3, 5, 17, 1000])
def test_the_quadrature_is_simpsons(n: int) -> None:
    assert expected_range(n) == pytest.approx(oracle.expected_range(n), abs=1e-8)


def test_known_expectations_and_refusals() -> None:
    assert expected_range(1) == pytest.approx(0.0, abs=1e-15)
    assert expected_range(2) == pytest.approx(2 / torch.pi**0.5, abs=1e-12)
    with pytest.raises(NumericsError, match="n=0"):
        expected_range(0)
    with pytest.raises(NumericsError, match="n=1"):
        range_constant(1)


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40),
    chunks=st.integers(1, 20),
    scale=st.sampled_from(["exact", "repo", "paper"]),
)
@settings(max_examples=60, deadline=None)
def test_forward_is_the_scalar_oracle(values: list[float], chunks: int, scale: str) -> None:
    """Ragged chunks, chunks of two, ties and constant rows included."""
    x = torch.tensor(values, dtype=torch.float64)[:, None]
    constants = {n: range_constant(n, scale) for n in range(2, 41)}  # type: ignore[arg-type]
    expected, deviation = oracle.normalize(values, chunks, constants, 1e-3)
    y = range_batch_norm(x, None, None, num_chunks=chunks, scale=scale, eps=1e-3)  # type: ignore[arg-type]
    torch.testing.assert_close(y[:, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-9)
    found = range_deviation(x.t(), chunks, scale)[0]  # type: ignore[arg-type]
    assert float(found[0]) == pytest.approx(deviation, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 3), (7, 2, 5), (4, 3, 3, 5), (1, 2, 4, 4)])
@pytest.mark.parametrize("chunks", [1, 4, 16])
@pytest.mark.parametrize("ghost", [None, 3])
def test_the_gradient_is_autograds(shape: tuple[int, ...], chunks: int, ghost: int | None) -> None:
    x = sample(*shape).requires_grad_()
    weight, bias = sample(shape[1], seed=1).requires_grad_(), sample(shape[1], seed=2).requires_grad_()
    gain = sample(shape[1], seed=3).abs() + 0.5

    def normalize(*inputs: Tensor) -> Tensor:
        return range_batch_norm(
            inputs[0], None, None, inputs[1], inputs[2], num_chunks=chunks, ghost_batch_size=ghost, gain=gain
        )

    assert torch.autograd.gradcheck(normalize, (x, weight, bias))


@pytest.mark.parametrize("chunks", [1, 3, 16])
def test_gradients_are_orthogonal_to_shift_and_scale(chunks: int) -> None:
    x = sample(8, 3, 5, 4).requires_grad_()
    y = range_batch_norm(x, None, None, num_chunks=chunks, eps=0.0)
    y.backward(sample(8, 3, 5, 4, seed=1))
    assert x.grad is not None
    centred = x.detach() - x.detach().mean((0, 2, 3), keepdim=True)
    assert x.grad.sum((0, 2, 3)).abs().max() < 1e-12
    assert (x.grad * centred).sum((0, 2, 3)).abs().max() < 1e-12


def test_the_closed_form_of_one_chunk() -> None:
    x = sample(50, 1).requires_grad_()
    g = sample(50, 1, seed=1)
    range_batch_norm(x, None, None, num_chunks=1, eps=0.0).backward(g)
    values, grad = x.detach()[:, 0], g[:, 0]
    spread = values.max() - values.min()
    constant = range_constant(50)
    y = (values - values.mean()) / (constant * spread)
    extremes = torch.zeros(50, dtype=torch.float64)
    extremes[values.argmax()], extremes[values.argmin()] = 1.0, -1.0
    expected = (grad - grad.mean()) / (constant * spread) - (grad * y).sum() * extremes / spread
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("factor", [2.5, -0.3])
def test_affine_invariance(factor: float) -> None:
    x = sample(8, 3, 4, 4)
    y = range_batch_norm(x, None, None, eps=0.0)
    moved = range_batch_norm(factor * x + 7.0, None, None, eps=0.0)
    torch.testing.assert_close(moved, y if factor > 0 else -y)


def test_ties_go_to_the_first_value() -> None:
    """Quantized values tie all the time; the gradient of an extreme is not spread over its ties."""
    x = torch.tensor([0.0, 3.0, 3.0, -1.0, -1.0, 1.0], dtype=torch.float64)[:, None].requires_grad_()
    _, where, _ = range_deviation(x.detach().t(), 1)
    assert where.tolist() == [[1, 3]]
    g = sample(6, 1)
    range_batch_norm(x, None, None, num_chunks=1, eps=0.0).backward(g)
    assert x.grad is not None
    plain = (g - g.mean()) / (range_constant(6) * 4.0)
    assert (x.grad - plain).abs().gt(1e-12)[:, 0].tolist() == [False, True, False, True, False, False]


def test_gaussian_outputs_have_unit_deviation_only_with_the_exact_constant() -> None:
    x = sample(64, 50, 8, 8)
    deviation = {
        scale: float(range_batch_norm(x, None, None, scale=scale).std((0, 2, 3)).mean())  # type: ignore[arg-type]
        for scale in ("exact", "repo", "paper")
    }
    assert deviation["exact"] == pytest.approx(1.0, abs=0.01)
    assert deviation["repo"] == pytest.approx(1 / 0.917, abs=0.01)
    assert deviation["paper"] == pytest.approx(1 / 1.698, abs=0.01)


def test_running_statistics_are_means_in_torchs_meaning() -> None:
    norm = RangeBatchNorm2d(3, momentum=0.25).train()
    mean, deviation = torch.zeros(3), torch.ones(3)
    for step in range(4):
        x = sample(4, 3, 5, 5, seed=step, dtype=torch.float32) * (step + 1)
        norm(x)
        rows = x.transpose(0, 1).reshape(3, -1)
        mean = 0.75 * mean + 0.25 * rows.mean(1)
        deviation = 0.75 * deviation + 0.25 * range_deviation(rows, 16)[0]
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, deviation.square())
    assert int(norm.num_batches_tracked) == 4  # type: ignore[arg-type]


def test_cumulative_average_with_momentum_none() -> None:
    norm = RangeBatchNorm1d(2, momentum=None).train()
    batches = [sample(32, 2, seed=step, dtype=torch.float32) for step in range(3)]
    for x in batches:
        norm(x)
    torch.testing.assert_close(norm.running_mean, torch.stack(batches).mean((0, 1)))


def test_a_batch_norm_checkpoint_loads_and_evaluates_alike() -> None:
    plain = trained_norm(4).eval()
    ours = RangeBatchNorm2d(4)
    ours.load_state_dict(plain.state_dict())
    x = sample(5, 4, 3, 3, dtype=torch.float32)
    assert torch.equal(ours.eval()(x), plain(x))
    assert torch.equal(RangeBatchNorm2d.from_module(copy.deepcopy(plain))(x), plain(x))
    plain.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_settings_of_torchs_layer(affine: bool, track: bool) -> None:
    norm = RangeBatchNorm2d(3, affine=affine, track_running_stats=track)
    x = sample(5, 3, 3, 3, dtype=torch.float32)  # 45 values: not divisible by 16 chunks
    y = norm.train()(x)
    assert torch.isfinite(y).all()
    again = norm.eval()(x)
    assert torch.equal(again, y) is not track  # without running statistics evaluation takes the batch's


@pytest.mark.parametrize(("batch", "sizes"), [(8, [4, 4]), (11, [4, 7]), (3, [3])])
def test_ghosts_are_separate_norms(batch: int, sizes: list[int]) -> None:
    ghost = GhostRangeBatchNorm2d(3, 4, momentum=1.0).train()
    x = sample(batch, 3, 4, 4, dtype=torch.float32)
    parts = [(RangeBatchNorm2d(3, momentum=1.0).train(), part) for part in x.split(sizes)]
    torch.testing.assert_close(ghost(x), torch.cat([norm(part) for norm, part in parts]))
    stds = torch.stack([norm.running_var.sqrt() for norm, _ in parts])  # type: ignore[union-attr]
    expected = stds.mean(0).square()
    torch.testing.assert_close(ghost.running_var, expected)
    assert GhostRangeBatchNorm1d(2).ghost_batch_size == 32


def test_calibration_fits_uniform_values() -> None:
    """Uniform values have range sqrt(12) sigma; the Gaussian constant would be 0.6 of what they need."""
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    norm = RangeBatchNorm2d(3, 4).train()
    assert float(norm(x).detach().std()) > 1.5
    norm.calibrate_(x)
    assert float(norm(x).detach().std((0, 2, 3)).sub(1).abs().max()) < 1e-3
    twin = RangeBatchNorm2d(3, 4)
    twin.load_state_dict(norm.state_dict())
    assert torch.equal(twin.train()(x), norm.train()(x))
    twin.load_state_dict(nn.BatchNorm2d(3).state_dict())
    assert twin.gain is None
    with pytest.raises(NumericsError, match="not finite"):
        norm.calibrate_(torch.full((2, 3, 2, 2), torch.nan))


def test_degenerate_inputs_are_defined() -> None:
    norm = RangeBatchNorm2d(2).train()
    assert norm.bias is not None
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.5, -2.0]))
    x = torch.full((4, 2, 3, 3), 7.0, requires_grad=True)
    y = norm(x)
    assert torch.equal(y, norm.bias.detach()[:, None, None].expand(4, 2, 3, 3))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    constant = range_batch_norm(torch.full((4, 2), 7.0), None, None, eps=0.0)
    assert torch.equal(constant, torch.zeros(4, 2))
    zeros = torch.tensor([0.0, -0.0, 1.0, -0.0])[:, None]
    assert torch.equal(range_batch_norm(zeros, None, None), range_batch_norm(zeros.abs(), None, None))
    spoilt = sample(4, 2, 3, 3, dtype=torch.float32)
    spoilt[1, 0, 2, 2] = torch.nan
    y = range_batch_norm(spoilt, None, None)
    assert y[:, 0].isnan().all()  # loud in its channel, as batch norm is
    assert torch.isfinite(y[:, 1]).all()


def test_too_few_values_and_wrong_settings_are_refused() -> None:
    with pytest.raises(MethodError, match=r"1 value\(s\) a channel .*evaluation mode"):
        RangeBatchNorm1d(3).train()(torch.zeros(1, 3))
    assert RangeBatchNorm2d(3).train()(sample(1, 3, 2, 2, dtype=torch.float32)).shape == (1, 3, 2, 2)
    with pytest.raises(MethodError, match="num_chunks=0"):
        RangeBatchNorm2d(3, 0)
    with pytest.raises(MethodError, match="ghost_batch_size=0"):
        range_batch_norm(sample(4, 2), None, None, ghost_batch_size=0)


def test_half_precision_is_computed_in_float32() -> None:
    x = sample(8, 2, 4, 4, dtype=torch.float32).half()
    y = range_batch_norm(x, None, None)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, range_batch_norm(x.float(), None, None).half())


def test_a_second_derivative_is_refused() -> None:
    x = sample(8, 3, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(range_batch_norm(x, None, None).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_neither_threads_nor_the_memory_format_change_a_bit() -> None:
    x, g = (sample(32, 16, 12, 12, seed=seed, dtype=torch.float32) for seed in (0, 1))
    found = []
    threads = torch.get_num_threads()
    try:
        for count, memory_format in (
            (1, torch.contiguous_format),
            (2, torch.contiguous_format),
            (1, torch.channels_last),
        ):
            torch.set_num_threads(count)
            norm = RangeBatchNorm2d(16).train()
            values = x.contiguous(memory_format=memory_format).requires_grad_()
            y = norm(values)
            (grad,) = torch.autograd.grad(y, values, g)
            found.append((y.detach(), grad, norm.running_mean, norm.running_var))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (4, 3, 0, 2)])
def test_no_values_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(MethodError, match=r"0 value\(s\) a channel"):
        range_batch_norm(torch.zeros(shape), None, None)
