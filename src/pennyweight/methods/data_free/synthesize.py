"""Images made from a trained net alone, so that its batch norms see the statistics they stored."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from pennyweight.data.dataset import ImageDataset
from pennyweight.errors import MethodError, NumericsError
from pennyweight.methods.data_free.divergence import Seen, batch_divergence, watching
from pennyweight.methods.data_free.stored_statistics import (
    StoredStatistics,
    check_fit,
    statistics_digest,
    statistics_of,
)
from pennyweight.methods.settings import check_settings
from pennyweight.nn.calling import output_tensor
from pennyweight.nn.digest import model_digest
from pennyweight.nn.modes import in_mode
from pennyweight.numerics.random import Key, normal, randint

Scheme = Literal["gaussian", "inception", "bns", "bns+inception"]
SCHEMES: tuple[Scheme, ...] = ("gaussian", "inception", "bns", "bns+inception")
_SETTLED = 0.05
"""Divergence from which on "bns+inception" also asks for classes."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How images are made.

    When to use: no calibration data at hand; "bns" unless there is a reason.

    Measured here: the public CIFAR-10 ResNet-20, float 91.73, `AdaQuant` on 128 images, three seeds: W4A4 with training
    images 91.12, "bns" 90.83, "bns+inception" 90.50, "gaussian" 89.59, "inception" 89.52; W3A3 in this order 88.65,
    87.92, 84.40, 79.24, 79.48 (`results/post_training_datafree-*`). The images of "bns" took one core 2 to 5 minutes.

    Caveats: asking for classes besides makes worse calibration data, and asking for classes alone is no better than
    noise.

    Args:
        scheme: "bns" matches the batch norms' statistics; "inception" maximises class outputs under a smoothness prior;
            "bns+inception" does both; "gaussian" draws noise and asks the model nothing.
        steps: of Adam a batch, at most.
        lr: Adam's, in units of normalised images, falling along a cosine.
        batch_size: images optimised together; statistics are those of the batch, so it should be at least 64.
        class_weight: of the cross-entropy beside the divergence.
        smoothness: weight of the squared distance to the blurred image.
        jitter: pixels by which images are shifted at random in each step, and flipped.
        patience: steps after which a batch is done if what is minimised fell by less than 1 % in them; 0 never stops.
        seed: of everything random.
    """

    scheme: Scheme = "bns"
    steps: int = 500
    lr: float = 0.1
    batch_size: int = 128
    class_weight: float = 0.1
    smoothness: float = 0.05
    jitter: int = 1
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self)
        for name, least in (("steps", 1), ("batch_size", 2), ("jitter", 0), ("patience", 0)):
            if getattr(self, name) < least:
                raise MethodError(f"{name}={getattr(self, name)}: must be at least {least}")
        if not self.lr > 0 or self.class_weight < 0 or self.smoothness < 0:
            raise MethodError("lr must be positive, class_weight and smoothness at least 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Synthesized:
    """What was made.

    Args:
        dataset: the images as bytes, labelled by the model itself.
        divergence: of the last batch after rounding to bytes; None for a model without statistics.
        history: divergence in each step of each batch; the loss where there are no statistics.
    """

    dataset: ImageDataset
    divergence: float | None
    history: tuple[tuple[float, ...], ...]


def synthesize(
    model: nn.Module,
    n: int,
    *,
    like: ImageDataset,
    settings: Synthesis | None = None,
    statistics: StoredStatistics | None = None,
    folder: Path | str | None = None,
    progress: bool = False,
) -> Synthesized:
    """Make n images without looking at any.

    The model is left as it was, to the bit. Images are clipped to bytes, so they are a data set like any other.

    Args:
        n: images.
        like: gives shape, normalization and number of classes; its images are not read.
        settings: by default those of `Synthesis`.
        statistics: in the place of the batch norms'.
        folder: where finished batches are kept, so that a killed run goes on to the same images.
        progress: show the divergence on the way, on standard error.

    Source: arXiv 1912.01274, section 3.
    Deviations: stops early where the divergence no longer falls; shifts and flips by a pixel.

    Raises:
        MethodError: the model has no batch-norm statistics and the scheme needs them, with the way out.
        NumericsError: the images became no numbers.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise MethodError(f"n={n!r}: a whole number of at least 1")
    settings = settings or Synthesis()
    known: StoredStatistics = {}
    if "bns" in settings.scheme:
        known = statistics_of(model) if statistics is None else statistics
        check_fit(model, known)
    work = _Work(model=model, statistics=known, like=like, settings=settings, total=n, progress=progress)
    store = None if folder is None else _Batches(Path(folder), work.owner())
    images, history = [], []
    for index, start in enumerate(range(0, n, settings.batch_size)):
        # Every batch is full while it is optimised: a small last one would have other statistics.
        found = store.load(index) if store else None
        if found is None:
            found = work.batch(index)
            if store:
                store.save(index, *found)
        images.append(found[0][: min(settings.batch_size, n - start)])
        history.append(tuple(found[1]))
    made = torch.cat(images)
    labels, divergence = work.look(made)
    dataset = dataclasses.replace(
        like, images=made, labels=labels, name=f"{like.name}, synthesized ({settings.scheme})", split="train"
    )
    return Synthesized(dataset=dataset, divergence=divergence, history=tuple(history))


@dataclass(frozen=True, kw_only=True)
class _Work:
    model: nn.Module
    statistics: StoredStatistics
    like: ImageDataset
    settings: Synthesis
    total: int
    progress: bool

    def owner(self) -> dict[str, str]:
        """What finished batches belong to."""
        return {
            "model": model_digest(self.model),
            "statistics": statistics_digest(self.statistics),
            "settings": json.dumps(dataclasses.asdict(self.settings), sort_keys=True),
            "like": repr((self.like.shape, self.like.mean, self.like.std, self.like.num_classes)),
        }

    def batch(self, index: int) -> tuple[Tensor, list[float]]:
        """One batch as bytes, and its history."""
        key = Key(self.settings.seed).fold("synthesize", index)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        x = normal((self.settings.batch_size, *self.like.shape), key.fold("start")).to(device)
        history: list[float] = []
        if self.settings.scheme != "gaussian":
            labels = randint(0, self.like.num_classes, (len(x),), key.fold("labels")).to(device)
            x = self._descend(x.requires_grad_(), labels, key, history, index)
        return self._to_bytes(x.detach()), history

    def look(self, images: Tensor) -> tuple[Tensor, float | None]:
        """The model's own labels, and the divergence of the last full batch."""
        seen: Seen = {}
        labels, divergence = [], None
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with torch.no_grad(), in_mode(self.model, training=False), watching(self.model, self.statistics, seen):
            for start in range(0, len(images), self.settings.batch_size):
                part = images[start : start + self.settings.batch_size]
                outputs = output_tensor(self.model(self.like.normalize(part).to(device)))
                labels.append(outputs.argmax(1).cpu())
                if self.statistics and (len(part) == self.settings.batch_size or start == 0):
                    divergence = float(batch_divergence(self.model, self.statistics, seen))
        return torch.cat(labels), divergence

    def _descend(self, x: Tensor, labels: Tensor, key: Key, history: list[float], index: int) -> Tensor:
        settings = self.settings
        low, high = (bound.to(x.device) for bound in self._bounds())
        optimizer = torch.optim.Adam([x], lr=settings.lr)
        seen: Seen = {}
        with_classes = settings.scheme == "inception"
        minimised: list[float] = []
        frozen = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            with in_mode(self.model, training=False), watching(self.model, self.statistics, seen):
                for step in range(settings.steps):
                    optimizer.param_groups[0]["lr"] = (
                        settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
                    )
                    shown = _jittered(x, settings.jitter, key.fold("jitter", step))
                    outputs = output_tensor(self.model(shown))
                    loss = x.new_zeros(())
                    if self.statistics:
                        loss = batch_divergence(self.model, self.statistics, seen)
                        if settings.scheme == "bns+inception" and not with_classes and float(loss.detach()) < _SETTLED:
                            with_classes = True
                            minimised.clear()  # its values from here on have another term
                    noted = loss
                    if with_classes:
                        weight = settings.class_weight if self.statistics else 1.0
                        loss = loss + weight * F.cross_entropy(outputs, labels)
                        loss = loss + settings.smoothness * (x - _blurred(x)).square().mean()
                        noted = noted if self.statistics else loss
                    if not bool(torch.isfinite(loss)):
                        raise NumericsError(
                            f"the loss of batch {index} became {float(loss.detach())} in step {step}: lower lr="
                            f"{settings.lr}, or look for channels without variance"
                        )
                    (x.grad,) = torch.autograd.grad(loss, [x])
                    optimizer.step()
                    with torch.no_grad():
                        x.copy_(x.clamp(low, high))
                    history.append(float(noted.detach()))
                    minimised.append(float(loss.detach()))
                    self._say(index, step, history[-1])
                    if _no_longer_falls(minimised, settings.patience):
                        break
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        return x

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Values of the bytes 0 and 255, a channel."""
        channels = self.like.shape[0]
        ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, channels, 1, 1)
        low, high = self.like.normalize(ends)
        return low, high

    def _to_bytes(self, x: Tensor) -> Tensor:
        low, high = self._bounds()
        share = (x.cpu() - low) / (high - low)
        return (share * 255).round().clamp(0, 255).to(torch.uint8)

    def _say(self, index: int, step: int, value: float) -> None:
        if self.progress and (step + 1) % 50 == 0:
            batches = -(-self.total // self.settings.batch_size)
            print(
                f"  batch {index + 1}/{batches}, step {step + 1}/{self.settings.steps}: divergence {value:.4f}",
                file=sys.stderr,
                flush=True,
            )


def _jittered(x: Tensor, pixels: int, key: Key) -> Tensor:
    if pixels == 0:
        return x
    down, right = (int(v) for v in randint(-pixels, pixels + 1, (2,), key))
    shifted = torch.roll(x, (down, right), (2, 3))
    return shifted.flip(3) if int(randint(0, 2, (), key.fold("flip"))) else shifted


def _blurred(x: Tensor) -> Tensor:
    """A 3 x 3 Gaussian blur with the border repeated."""
    kernel = torch.tensor([0.25, 0.5, 0.25], device=x.device)
    square = torch.outer(kernel, kernel).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), square, groups=x.shape[1])


def _no_longer_falls(values: list[float], patience: int) -> bool:
    """Whether the best of the last steps is not 1 % below the best before them."""
    if patience == 0 or len(values) < 2 * patience:
        return False
    return min(values[-patience:]) > 0.99 * min(values[:-patience])


class _Batches:
    """Finished batches on disk."""

    def __init__(self, folder: Path, owner: Mapping[str, str]) -> None:
        self._folder, self._owner = folder, dict(owner)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MethodError(f"cannot keep finished batches in {folder}: {error}") from error

    def load(self, index: int) -> tuple[Tensor, list[float]] | None:
        path = self._path(index)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})["batch"])
                images = file.get_tensor("images")
            owner, history = facts["owner"], [float(value) for value in facts["history"]]
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise MethodError(f"{path} cannot be used ({error}): remove it to make the batch again") from error
        if owner != self._owner:
            changed = [name for name, value in self._owner.items() if owner.get(name) != value]
            raise MethodError(f"{path} belongs to another synthesis ({', '.join(changed)} differ): use another folder")
        return images, history

    def save(self, index: int, images: Tensor, history: list[float]) -> None:
        path = self._path(index)
        facts = {"owner": self._owner, "history": history}
        trial = path.with_suffix(".part")
        try:
            safetensors.torch.save_file({"images": images.contiguous()}, trial, metadata={"batch": json.dumps(facts)})
            trial.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise MethodError(f"cannot write {path}: {error}") from error

    def _path(self, index: int) -> Path:
        return self._folder / f"batch-{index:05}.safetensors"
