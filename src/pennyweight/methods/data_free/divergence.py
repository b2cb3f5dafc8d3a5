"""How far the internal statistics of some data are from those stored in training: the BN-statistics measure.

A low value is no proof of good data: images optimised for the measure go below what real images reach. Compare at equal
numbers of samples only, for small sets are far by chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.data_free.stored_statistics import (
    LayerStatistics,
    StoredStatistics,
    channel_rows,
    check_fit,
    statistics_of,
)
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.reconstruction.samples import PASS
from pennyweight.nn.calling import Batch, call, num_samples, take_samples
from pennyweight.nn.modes import in_mode
from pennyweight.numerics.random import Key, normal, permutation, randint

QUANTILE = 0.99
"""Of the divergences of real sets, above which a set is called wrong."""


def gaussian_kl(stored: LayerStatistics, mean: Tensor, var: Tensor) -> Tensor:
    """KL(N(stored) || N(measured)) a channel, eps added to both variances.

    Args:
        mean: (..., channels), measured.
        var: the same for variances.

    Source: arXiv 1912.01274, equation of the BN-statistics loss: log(s/sigma) - (1 - (sigma^2 + (mu - m)^2) / s^2) / 2.
    """
    sigma2 = stored.var.to(var) + stored.eps
    s2 = var + stored.eps
    return 0.5 * ((s2 / sigma2).log() - 1 + (sigma2 + (stored.mean.to(mean) - mean).square()) / s2)


@contextmanager
def watching(model: nn.Module, statistics: StoredStatistics, seen: dict[str, Tensor]) -> Iterator[None]:
    """While entered, a forward notes the first input of each layer in `seen`, gradients included."""

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0]

        return model.get_submodule(name).register_forward_pre_hook(before)

    handles = [watch(name) for name in statistics]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_divergence(model: nn.Module, statistics: StoredStatistics, seen: Mapping[str, Tensor]) -> Tensor:
    """The measure of one batch as a differentiable scalar: the mean over layers of the mean over channels.

    Args:
        seen: what `watching` noted.
    """
    losses = []
    for name, stored in statistics.items():
        rows = channel_rows(model.get_submodule(name), seen[name]).flatten(0, 1)
        var, mean = torch.var_mean(rows, 0, correction=0)
        losses.append(gaussian_kl(stored, mean, var).mean())
    return torch.stack(losses).mean()


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The measure of a data set.

    Args:
        value: mean over layers and channels, in nats; 0 only where all statistics agree.
        low: lower end of the 95 % bootstrap interval over samples.
        high: upper end.
        n: samples.
        layers: by layer.
    """

    value: float
    low: float
    high: float
    n: int
    layers: Mapping[str, float]


def bns_divergence(
    model: nn.Module,
    data: Batch | Sequence[Batch],
    *,
    statistics: StoredStatistics | None = None,
    n: int | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> Divergence:
    """How far data are from what the model was trained with, by its batch norms.

    Args:
        data: a batch of model inputs or several; labels are not used.
        statistics: to compare with; by default those of the model's batch norms.
        n: samples to use, the first ones; None takes all. Compare data sets at equal n only.
        bootstrap: resamplings behind the interval.
        seed: of the resampling.

    Raises:
        MethodError: no batch norm and no statistics, or fewer samples than n.

    Example:
        >>> import torch, pennyweight as pw
        >>> model = pw.create_model("vgg-small", width=4, input_shape=(3, 16, 16))
        >>> pw.bns_divergence(model, torch.randn(8, 3, 16, 16)).n
        8
    """
    moments = _moments(model, data, statistics, n)
    whole = moments.divergences(torch.ones(1, moments.n, dtype=torch.float64))
    counts = torch.zeros(bootstrap, moments.n, dtype=torch.float64)
    drawn = randint(0, moments.n, (bootstrap, moments.n), Key(seed).fold("bootstrap"))
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    value = float(whole[0])
    if bootstrap:
        # Resamples scatter about this sample's own statistics: their excess over it is mirrored, not added.
        ends = torch.quantile(moments.divergences(counts), torch.tensor([0.975, 0.025], dtype=torch.float64))
        low, high = (max(0.0, 2 * value - float(end)) for end in ends)
    else:
        low = high = value
    return Divergence(value=value, low=low, high=max(high, value), n=moments.n, layers=moments.by_layer())


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Whether a calibration set looks like what the model was trained with.

    Args:
        divergence: of the set.
        threshold: the 99th percentile of what sets of as many samples give.
        source: where the threshold comes from: "real subsets", or "simulated" from the stored statistics.
        passed: the divergence does not exceed it.
        message: in words, with what to look at where it failed.
    """

    divergence: Divergence
    threshold: float
    source: str
    passed: bool
    message: str


def preflight(
    model: nn.Module,
    data: Batch | Sequence[Batch],
    *,
    real: Batch | Sequence[Batch] | None = None,
    statistics: StoredStatistics | None = None,
    n: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Preflight:
    """Check a calibration set before it is used: wrong preprocessing or another domain shows as a large divergence.

    Args:
        data: the set in question.
        real: data known to be right, of which subsets of equal size give the threshold. Without any, sets are simulated
            that share nothing but the stored statistics and have one independent value a sample and channel; this
            threshold is generous.
        n: samples of both; None takes all of `data`.
        draws: subsets or simulated sets.

    Raises:
        MethodError: no statistics; or `real` holds fewer samples than `data`.
    """
    found = bns_divergence(model, data, statistics=statistics, n=n, seed=seed)
    if real is None:
        known = statistics_of(model) if statistics is None else statistics
        values, source = _simulated(known, found.n, draws, seed), "simulated"
    else:
        moments = _moments(model, real, statistics, None)
        if moments.n < found.n:
            raise MethodError(f"real holds {moments.n} samples, fewer than the {found.n} it is compared with")
        chosen = torch.zeros(draws, moments.n, dtype=torch.float64)
        for draw in range(draws):
            chosen[draw, permutation(moments.n, Key(seed).fold("subset", draw))[: found.n]] = 1
        values, source = moments.divergences(chosen), "real subsets"
    threshold = float(torch.quantile(values, QUANTILE))
    passed = found.value <= threshold
    verdict = "looks like the training data" if passed else "does not look like the training data"
    message = (
        f"the calibration set {verdict}: divergence {found.value:.3g} at n = {found.n}, and the 99th percentile of "
        f"{'equally large real sets' if real is not None else 'simulated sets'} is {threshold:.3g}"
    )
    if not passed:
        message += "; check its normalization, value range, channel order and domain, with the evaluation transform"
    return Preflight(divergence=found, threshold=threshold, source=source, passed=passed, message=message)


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """First and second moments of each sample at each layer: with them any subset is measured without the model."""

    statistics: StoredStatistics
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    n: int

    def divergences(self, weights: Tensor) -> Tensor:
        """The measure of several weightings of the samples, (sets, n) -> (sets,)."""
        return torch.stack([values.mean(1) for values in self._channels(weights).values()]).mean(0)

    def by_layer(self) -> dict[str, float]:
        """The measure of all samples, a layer."""
        ones = torch.ones(1, self.n, dtype=torch.float64)
        return {name: float(values.mean()) for name, values in self._channels(ones).items()}

    def _channels(self, weights: Tensor) -> dict[str, Tensor]:
        shares = weights / weights.sum(1, keepdim=True)
        found = {}
        for name, stored in self.statistics.items():
            mean, square = shares @ self.first[name], shares @ self.second[name]
            found[name] = gaussian_kl(stored, mean, (square - mean.square()).clamp_min(0))
        return found


@torch.no_grad()
def _moments(
    model: nn.Module, data: Batch | Sequence[Batch], statistics: StoredStatistics | None, n: int | None
) -> _Moments:
    known = statistics_of(model) if statistics is None else statistics
    check_fit(model, known)
    batches = [data] if isinstance(data, Tensor | Mapping) else data
    inputs = gathered(batches, (1 << 62) if n is None else n)
    count = num_samples(inputs)
    if n is not None and count < n:
        raise MethodError(f"n={n}, but the data hold {count} samples")
    first: dict[str, list[Tensor]] = {name: [] for name in known}
    second: dict[str, list[Tensor]] = {name: [] for name in known}
    seen: dict[str, Tensor] = {}
    with in_mode(model, training=False), watching(model, known, seen):
        for start in range(0, count, PASS):
            call(model, take_samples(inputs, slice(start, start + PASS)))
            for name in known:
                if name not in seen:
                    raise MethodError(f"layer {name!r} is never called by the model's forward")
                rows = channel_rows(model.get_submodule(name), seen[name]).double()
                first[name].append(rows.mean(1))
                second[name].append(rows.square().mean(1))
    return _Moments(
        statistics=known,
        first={name: torch.cat(parts) for name, parts in first.items()},
        second={name: torch.cat(parts) for name, parts in second.items()},
        n=count,
    )


def _simulated(statistics: StoredStatistics, n: int, draws: int, seed: int) -> Tensor:
    """Divergences of sets with one independent Gaussian value a sample and channel."""
    total = torch.zeros(draws, dtype=torch.float64)
    for index, stored in enumerate(statistics.values()):
        channels = len(stored.mean)
        key = Key(seed).fold("simulated", index)
        std = stored.var.double().sqrt()
        mean = stored.mean.double() + std / n**0.5 * normal((draws, channels), key.fold("mean")).double()
        # Wilson and Hilferty's cube root makes chi-square normal, well enough for a threshold.
        df = max(n - 1, 1)
        root = 1 - 2 / (9 * df) + normal((draws, channels), key.fold("var")).double() * (2 / (9 * df)) ** 0.5
        var = stored.var.double() * df / n * root.clamp_min(0) ** 3
        total += gaussian_kl(stored, mean, var).mean(1)
    return total / len(statistics)
