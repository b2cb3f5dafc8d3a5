"""How far the internal statistics of some data are from those stored in training: the BN-statistics measure.

A low value is no proof of good data: images optimised for the measure go below what real images reach. Compare at equal
numbers of samples only, for small sets are far by chance.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Data, batches_of
from pennyweight.methods.data_free.stored_statistics import (
    LayerStatistics,
    StoredStatistics,
    channel_rows,
    check_fit,
    first_input,
    statistics_of,
)
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.reconstruction.samples import PASS
from pennyweight.nn.calling import call, num_samples, take_samples
from pennyweight.nn.modes import in_mode
from pennyweight.numerics.random import Key, normal, permutation, randint

QUANTILE = 0.99
"""Of the divergences of real sets, above which a set is called wrong."""

ALLOWANCE = 0.1
"""Nats that right data may be off by however many they are: running averages of augmented, still changing nets.

Measured on the public CIFAR-10 ResNet-20, -32, -44 and -56, with 512 of their own training images: 0.02, 0.03, 0.04 and
0.04. Images of MNIST gave 0.20 to 0.26, a wrong normalization 0.33 and more.
"""


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


Seen = dict[str, list[Tensor]]
"""Inputs of layers in one forward, one a call."""


@contextmanager
def watching(model: nn.Module, statistics: StoredStatistics, seen: Seen) -> Iterator[None]:
    """While entered, a forward of the model notes the inputs of layers in `seen`, gradients included."""

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def before(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if (x := first_input(args, named)) is not None:
                seen.setdefault(name, []).append(x)

        return model.get_submodule(name).register_forward_pre_hook(before, with_kwargs=True)

    handles = [watch(name) for name in statistics]
    # A forward begins with nothing seen.
    handles.append(model.register_forward_pre_hook(lambda _model, _args: seen.clear(), prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rows_of(model: nn.Module, name: str, seen: Seen, samples: int) -> Tensor:
    """All that a layer received, (samples, positions, channels); positions of several calls side by side.

    Raises:
        MethodError: the layer was not called, or what it received cannot be told apart by samples.
    """
    if name not in seen:
        raise MethodError(
            f"layer {name!r} is never called by the model's forward: leave it out, statistics={{name: s for name, s in "
            f"statistics_of(model).items() if name != {name!r}}}"
        )
    parts = []
    for x in seen[name]:
        rows = channel_rows(model.get_submodule(name), x)
        if len(rows) % samples:
            raise MethodError(
                f"layer {name!r} receives {len(rows)} rows for {samples} samples: they cannot be told apart"
            )
        parts.append(rows.reshape(samples, -1, rows.shape[-1]))
    return torch.cat(parts, 1)


def batch_divergence(model: nn.Module, statistics: StoredStatistics, seen: Seen) -> Tensor:
    """The measure of one batch as a differentiable scalar: the mean over layers of the mean over channels.

    Args:
        seen: what `watching` noted.

    Raises:
        MethodError: one of the layers was not called.
    """
    losses = []
    for name, stored in statistics.items():
        rows = rows_of(model, name, seen, 1).flatten(0, 1)
        var, mean = torch.var_mean(rows, 0, correction=0)
        losses.append(gaussian_kl(stored, mean, var).mean())
    return torch.stack(losses).mean()


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The measure of a data set.

    Args:
        value: mean over layers and channels, in nats; 0 only where all statistics agree.
        low: lower end of the 95 % bootstrap interval, which is meant to hold what endlessly many such samples would
            give; a small set's value exceeds that by chance, so the interval reaches farther down than up. On 128
            images of CIFAR-10 it held it 39 times out of 40.
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
    data: Data,
    *,
    statistics: StoredStatistics | None = None,
    n: int | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> Divergence:
    """How far data are from what the model was trained with, by its batch norms.

    Args:
        data: a batch of model inputs, several, or a data set; labels are not used.
        statistics: to compare with; by default those of the model's batch norms.
        n: samples to use, the first ones; None takes all. Compare data sets at equal n only.
        bootstrap: resamplings behind the interval.
        seed: of the resampling.

    Raises:
        MethodError: no batch norm and no statistics, fewer samples than n, or fewer than two; n or bootstrap are no
            counts.

    Example:
        >>> import torch, pennyweight as pw
        >>> model = pw.create_model("vgg-small", width=4, input_shape=(3, 16, 16))
        >>> pw.bns_divergence(model, torch.randn(8, 3, 16, 16)).n
        8
    """
    _require_count("bootstrap", bootstrap, 0)
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
        threshold: the 99th percentile of what sets of as many samples give, and the allowance.
        source: where the threshold comes from: "real subsets", or "simulated" from the stored statistics, to which an
            allowance was added.
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
    data: Data,
    *,
    real: Data | None = None,
    statistics: StoredStatistics | None = None,
    n: int | None = None,
    allowance: float = ALLOWANCE,
    draws: int = 200,
    seed: int = 0,
) -> Preflight:
    """Check a calibration set before it is used: wrong preprocessing or another domain shows as a large divergence.

    Args:
        data: the set in question.
        real: other data known to be right, at least twice as many samples, of which subsets of equal size give the
            threshold. Without any, sets are simulated that share nothing but the stored statistics and have one
            independent value a sample and channel, and the allowance is added: this finds gross errors alone.
        n: samples of both; None takes all of `data`.
        allowance: nats added to the simulated threshold, for running averages are not exactly those of the training
            images. See `ALLOWANCE`; nothing is added where `real` is given.
        draws: subsets or simulated sets, at least 20: the threshold is a percentile of them.

    Raises:
        MethodError: no statistics; fewer than two samples; or `real` holds fewer than twice as many as are compared.

    Example:
        >>> import pennyweight as pw
        >>> data = pw.load_dataset("digits")
        >>> model = pw.create_model("mlp", hidden=(32,))
        >>> regime = pw.Regime.cosine(steps=200, lr=3e-3, batch_size=64, optimizer="adam")
        >>> images = data.normalize(data.images[:128])
        >>> trained = pw.train(model, data, regime, progress=False)
        >>> pw.preflight(model, images).passed, pw.preflight(model, images * 3).passed
        (True, False)
    """
    _require_count("draws", draws, 20)
    if not 0 <= allowance < float("inf"):
        raise MethodError(f"allowance={allowance}: nats, at least 0 and finite")
    found = bns_divergence(model, data, statistics=statistics, n=n, seed=seed)
    if real is None:
        known = statistics_of(model) if statistics is None else statistics
        values, source = _simulated(known, found.n, draws, seed) + allowance, "simulated"
    else:
        moments = _moments(model, real, statistics, None)
        if moments.n < 2 * found.n:
            raise MethodError(
                f"real holds {moments.n} samples, fewer than twice the {found.n} it is compared with, so that subsets "
                f"would be one and the same: give more, or n={moments.n // 2}"
            )
        chosen = torch.zeros(draws, moments.n, dtype=torch.float64)
        for draw in range(draws):
            chosen[draw, permutation(moments.n, Key(seed).fold("subset", draw))[: found.n]] = 1
        values, source = moments.divergences(chosen), "real subsets"
    threshold = float(torch.quantile(values, QUANTILE))
    passed = found.value <= threshold
    verdict = "fits" if passed else "diverges from"
    origin = "equally large real sets" if real is not None else f"simulated sets, {allowance:g} allowed for training,"
    message = (
        f"the calibration data {verdict} the statistics the model was trained with: divergence {found.value:.3g} at "
        f"n = {found.n}, and the 99th percentile of {origin} is {threshold:.3g}"
    )
    if not passed:
        message += ": wrong normalization or another domain? Use the evaluation transform of the training"
    return Preflight(divergence=found, threshold=threshold, source=source, passed=passed, message=message)


def _require_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise MethodError(f"{name}={value!r}: a whole number of at least {least}")


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
def _moments(model: nn.Module, data: Data, statistics: StoredStatistics | None, n: int | None) -> _Moments:
    if n is not None:
        _require_count("n", n, 2)
    known = statistics_of(model) if statistics is None else statistics
    check_fit(model, known)
    inputs = gathered(batches_of(data), (1 << 62) if n is None else n)
    count = num_samples(inputs)
    if n is not None and count < n:
        raise MethodError(f"n={n}, but the data hold {count} samples")
    if count < 2:
        raise MethodError(f"{count} sample has no variance to compare: give at least 2, better some hundreds")
    first: dict[str, list[Tensor]] = {name: [] for name in known}
    second: dict[str, list[Tensor]] = {name: [] for name in known}
    seen: Seen = {}
    with in_mode(model, training=False), watching(model, known, seen):
        for start in range(0, count, PASS):
            part = take_samples(inputs, slice(start, start + PASS))
            call(model, part)
            for name in known:
                rows = rows_of(model, name, seen, num_samples(part)).double()
                first[name].append(rows.mean(1).cpu())
                second[name].append(rows.square().mean(1).cpu())
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
        stored = LayerStatistics(stored.mean.double().cpu(), stored.var.double().cpu(), stored.eps)
        std = stored.var.sqrt()
        mean = stored.mean + std / n**0.5 * normal((draws, channels), key.fold("mean")).double()
        # Wilson and Hilferty's cube root makes chi-square normal, well enough for a threshold.
        df = max(n - 1, 1)
        root = 1 - 2 / (9 * df) + normal((draws, channels), key.fold("var")).double() * (2 / (9 * df)) ** 0.5
        var = stored.var * df / n * root.clamp_min(0) ** 3
        total += gaussian_kl(stored, mean, var).mean(1)
    return total / len(statistics)
