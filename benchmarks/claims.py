"""The papers' claims at a size this machine can train, each a recipe of the library, with margins fixed beforehand.

A claim compares two arms of its recipe. Several seeds: the mean over seeds of the paired difference in accuracy, with
its 95 % t interval. One seed, where nothing is trained: the difference over the same test samples, with the 95 %
interval of paired proportions. With a margin of m points the verdict is

    holds    the whole interval lies above -m
    partly   the difference lies above -m, but its interval reaches beyond
    not      the difference lies beyond -m

and without a margin (a net far from the paper's) the figures are reported and nothing is judged. Accuracies are those
of the exported artifact on the whole test split. Stages already done are found by their hash under runs/claims, and an
interrupted training goes on from its checkpoint: run the script again to go on.

    python benchmarks/claims.py [CLAIM ...] [--save]        BUDGET_HOURS=0.5 stops in time
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pennyweight.errors import PennyweightError
from pennyweight.numerics import measure
from pennyweight.recipes.catalogue import find_recipe
from pennyweight.recipes.folder import RunFolder
from pennyweight.recipes.journal import duration
from pennyweight.recipes.plan import distinct, make_plan
from pennyweight.recipes.resolve import resolve
from pennyweight.recipes.run import run
from pennyweight.report import ArmReport, RunReport, judge
from reporting import save_rows

RUNS = Path(__file__).parents[1] / "runs" / "claims"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One comparison, and what was decided about it before it was made.

    Args:
        name: on the command line.
        paper: title and arXiv id.
        claim: in our words.
        proxy: net and data the verdict is about.
        setting: our scaled setting.
        chosen: how the hyper-parameters were, and on which data.
        recipe: in the library.
        candidate: the arm that is held against the recipe's baseline.
        margin: points of accuracy the candidate may lose; None judges nothing.
        minutes: from nothing to the verdict, on two slow cores; for the estimate of the time left.
        needs_gpu: whether it is not even tried without one.
    """

    name: str
    paper: str
    claim: str
    proxy: str
    setting: str
    chosen: str
    recipe: str
    candidate: str
    margin: float | None
    minutes: float
    needs_gpu: bool = False

    @property
    def command(self) -> str:
        """That repeats it."""
        return f"python benchmarks/claims.py {self.name}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a claim.

    Args:
        verdict: "holds", "partly", "not", "reported" or "not run".
        reason: why it was not run.
        report: of the recipe's run, with the two arms compared.
        change: candidate minus reference in points, then the ends of its interval.
    """

    claim: Claim
    verdict: str
    reason: str = ""
    report: RunReport | None = None
    reference: ArmReport | None = None
    candidate: ArmReport | None = None
    change: tuple[float, ...] = ()


BNN_PAPER = "Binarized Neural Networks, arXiv 1602.02830"
CLAIMS = (
    Claim(
        name="bnn_digits",
        paper=BNN_PAPER,
        claim="weights and activations of +1 and -1 train to nearly the accuracy of a float net",
        proxy="MLP 64-256-256-10, embedded 8x8 digits",
        setting="both arms 1500 steps of 64 images, Adam",
        chosen="the quickstart's; batch norm on the logits because it won on MNIST's held-out images",
        recipe="bnn-digits",
        candidate="binary",
        margin=2.0,
        minutes=1,
    ),
    Claim(
        name="bnn_mnist",
        paper=BNN_PAPER,
        claim="nearly state of the art on MNIST (held against the same net in float)",
        proxy="MLP 784-3x512-10, MNIST",
        setting="20 epochs an arm, Adam; the paper's nets have 3x2048 and 3x4096 units and 1000 epochs",
        chosen="binary arm: best of four, 1600 steps, seed 100, on the last 10,000 training images; float not tuned",
        recipe="bnn-mnist",
        candidate="binary",
        margin=1.0,
        minutes=12,
    ),
    Claim(
        name="bnn_cifar10_small",
        paper=BNN_PAPER,
        claim="nearly state of the art on CIFAR-10",
        proxy="VGG-small of width 16, CIFAR-10",
        setting="2 epochs an arm, Adam, flips; the paper's net has width 128 and 500 epochs",
        chosen="each arm's learning rate of two, by 450 steps, seed 100, on the last 5,000 training images",
        recipe="bnn-cifar10-small",
        candidate="binary",
        margin=None,
        minutes=14,
    ),
    Claim(
        name="bnn_mnist_adam",
        paper=BNN_PAPER,
        claim="nearly state of the art on MNIST with Adam, batch norm and deterministic neurons",
        proxy="MLP 784-3x256-10, MNIST",
        setting="6 epochs an arm, squared hinge; the paper's net has 3x4096 units and 1000 epochs",
        chosen="the paper's, but for where the decay ends; not tuned",
        recipe="bnn-mnist-small",
        candidate="adam",
        margin=1.0,
        minutes=14,
    ),
    Claim(
        name="bnn_mnist_shift",
        paper=BNN_PAPER,
        claim="nearly state of the art on MNIST with shift-based AdaMax and batch norm and stochastic neurons",
        proxy="MLP 784-3x256-10, MNIST",
        setting="6 epochs an arm, squared hinge, float by Adam; the paper's net has 3x2048 units",
        chosen="the paper's, halved every epoch instead of every twentieth; not tuned",
        recipe="bnn-mnist-small",
        candidate="shift",
        margin=2.0,
        minutes=14,
    ),
    Claim(
        name="bnn_cifar10_adam",
        paper=BNN_PAPER,
        claim="nearly state of the art on CIFAR-10 with Adam, batch norm and deterministic neurons",
        proxy="VGG-small of width 8, CIFAR-10",
        setting="600 steps of 100 images an arm, squared hinge; the paper's net has width 128 and 500 epochs",
        chosen="the paper's, but for where the decay ends; not tuned",
        recipe="bnn-cifar10-presets",
        candidate="adam",
        margin=None,
        minutes=12,
    ),
    Claim(
        name="bnn_cifar10_shift",
        paper=BNN_PAPER,
        claim="nearly state of the art on CIFAR-10 with shift-based AdaMax and batch norm and stochastic neurons",
        proxy="VGG-small of width 8, CIFAR-10",
        setting="600 steps of 100 images an arm, squared hinge, float by Adam; the paper's net has width 128",
        chosen="the paper's, halved every 100 steps instead of every 50 epochs; not tuned",
        recipe="bnn-cifar10-presets",
        candidate="shift",
        margin=None,
        minutes=12,
    ),
    Claim(
        name="bnn_cifar10",
        paper=BNN_PAPER,
        claim="nearly state of the art on CIFAR-10",
        proxy="VGG-small of width 128, CIFAR-10",
        setting="500 epochs an arm, Adam",
        chosen="as the paper's code has them; not tuned",
        recipe="bnn-cifar10",
        candidate="binary",
        margin=3.0,
        minutes=240,
        needs_gpu=True,
    ),
    Claim(
        name="bnn_svhn",
        paper=BNN_PAPER,
        claim="nearly state of the art on SVHN",
        proxy="VGG-small of width 64, SVHN's cropped digits",
        setting="200 epochs an arm of the 73,257 training images, Adam; the extra images are left out",
        chosen="as for CIFAR-10; not tuned",
        recipe="bnn-svhn",
        candidate="binary",
        margin=2.0,
        minutes=120,
        needs_gpu=True,
    ),
    Claim(
        name="w8a8_resnet20",
        paper="Quantization and Training of Neural Networks, arXiv 1712.05877",
        claim="8-bit weights and activations cost hardly any accuracy (here by rounding alone, without training)",
        proxy="the public ResNet-20, CIFAR-10",
        setting="batch norm folded, 512 training images to calibrate, all 10,000 test images",
        chosen="the method's defaults; not tuned",
        recipe="resnet20-w8a8",
        candidate="w8a8",
        margin=0.3,
        minutes=2,
    ),
)


class Budget:
    """The time this call may take; when it is over, the run is stopped as by Ctrl-C: after writing its checkpoint."""

    def __init__(self, hours: float) -> None:
        self.spent = False
        self._running = False
        if math.isfinite(hours):
            signal.signal(signal.SIGALRM, self._stop)
            signal.setitimer(signal.ITIMER_REAL, max(3600 * hours, 0.001))

    @contextmanager
    def limits(self) -> Iterator[None]:
        """What runs herein is interrupted when the budget is over."""
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def _stop(self, number: int, frame: object) -> None:
        self.spent = True
        if self._running:
            signal.raise_signal(signal.SIGINT)


def seconds_left(claim: Claim) -> float:
    """What is left of the claim's estimate: by its share of stages not done."""
    if refusal(claim):
        return 0.0
    steps = list(distinct(make_plan(resolve(find_recipe(claim.recipe)))))
    folder = RunFolder(RUNS / claim.recipe)
    todo = sum(folder.done(step) is None for step in steps)
    return 60 * claim.minutes * todo / len(steps)


def refusal(claim: Claim) -> str:
    """Why the claim cannot be tried here; empty when it can."""
    try:
        resolve(find_recipe(claim.recipe)).data.test  # noqa: B018  reading is the check
    except PennyweightError as error:
        print(str(error).splitlines()[0], file=sys.stderr)  # names folders of this machine, which results do not
        return "data absent"
    if claim.needs_gpu and not torch.cuda.is_available():
        return "it needs a GPU, and torch sees none here"
    return ""


def settle(claim: Claim, budget: Budget) -> Outcome:
    """Run what is left of the claim's recipe, and hold the outcome against the margin."""
    reason = refusal(claim) or ("BUDGET_HOURS was over before it" if budget.spent else "")
    if reason:
        return Outcome(claim=claim, verdict="not run", reason=reason)
    try:
        with budget.limits():
            result = run(claim.recipe, folder=RUNS / claim.recipe)
    except PennyweightError as error:
        return Outcome(claim=claim, verdict="not run", reason=str(error))
    except KeyboardInterrupt:
        if not budget.spent:
            raise
        return Outcome(claim=claim, verdict="not run", reason="BUDGET_HOURS was over within it; run again to go on")
    needed = {claim.candidate, result.report.baseline}
    failed = "; ".join(f"arm {arm} failed: {why}" for arm, why in result.failures.items() if arm in needed)
    if failed:
        return Outcome(claim=claim, verdict="not run", reason=failed)
    return judged(claim, result.report)


def judged(claim: Claim, report: RunReport) -> Outcome:
    """The verdict on two finished arms."""
    reference, candidate = arm_of(report, report.baseline), arm_of(report, claim.candidate)
    assert candidate.comparison is not None
    points = [100 * value for value in candidate.comparison.change() if value is not None]
    change, low, _ = points
    return Outcome(
        claim=claim,
        verdict="reported" if claim.margin is None else judge(change, low, claim.margin),
        report=report,
        reference=reference,
        candidate=candidate,
        change=tuple(points),
    )


def arm_of(report: RunReport, name: str) -> ArmReport:
    """The arm of that name."""
    return next(arm for arm in report.arms if arm.name == name)


def as_row(outcome: Outcome) -> dict[str, Any]:
    """One line of the CSV; what was not run leaves its figures empty."""
    claim, report = outcome.claim, outcome.report
    row: dict[str, Any] = {
        "claim": claim.name,
        "paper": claim.paper,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "margin_points": "" if claim.margin is None else claim.margin,
        "setting": f"{claim.proxy}: {claim.setting}",
        "recipe": claim.recipe,
        "seeds": "" if report is None else " ".join(map(str, report.seeds)),
    }
    for role, arm in (("reference", outcome.reference), ("candidate", outcome.candidate)):
        found = None if arm is None else arm.accuracy
        row[f"{role}_arm"] = "" if arm is None else arm.name
        row[f"{role}_per_seed"] = "" if found is None else " ".join(f"{value:.4f}" for value in found.per_seed)
        row[f"{role}_mean"] = "" if found is None else f"{found.value:.5f}"
        row[f"{role}_low"] = "" if found is None or found.low is None else f"{found.low:.5f}"
        row[f"{role}_high"] = "" if found is None or found.high is None else f"{found.high:.5f}"
        row[f"{role}_bytes"] = "" if arm is None else arm.size_bytes
        row["n_test"] = "" if found is None else found.n
    names = ("difference_points", "difference_low", "difference_high")
    row |= dict.fromkeys(names, "") | dict(zip(names, (f"{value:.3f}" for value in outcome.change), strict=False))
    row["seconds"] = "" if report is None else round(report.seconds or 0.0)
    row["command"] = claim.command
    return row


def as_text(outcome: Outcome) -> list[str]:
    """The claim as a few lines of Markdown."""
    claim = outcome.claim
    rule = "none: reported only" if claim.margin is None else f"at most {claim.margin:g} points lost, fixed beforehand"
    lines = [
        f"## {claim.name}: {outcome.verdict} ({claim.proxy})",
        "",
        f"- Claim ({claim.paper}): {claim.claim}.",
        f"- Our setting: {claim.setting}.",
        f"- Hyper-parameters: {claim.chosen}.",
        f"- Margin: {rule}.",
    ]
    if outcome.report is None or outcome.reference is None or outcome.candidate is None:
        return [*lines, f"- Not run: {outcome.reason}.", f"- Command: `{claim.command}`", ""]
    seeds = outcome.report.seeds
    for arm in (outcome.reference, outcome.candidate):
        assert arm.accuracy is not None
        assert arm.size_bytes is not None
        n = arm.accuracy.n
        each = ", ".join(f"{100 * value:.2f}" for value in arm.accuracy.per_seed)
        mean = f"{100 * arm.accuracy.value:.2f} %"
        if arm.accuracy.low is not None and arm.accuracy.high is not None:
            mean += f" [{100 * arm.accuracy.low:.2f}, {100 * arm.accuracy.high:.2f}], {arm.accuracy.interval}"
        lines.append(
            f"- {arm.name}: {each if len(seeds) > 1 else ''}{'; mean ' if len(seeds) > 1 else ''}{mean}; "
            f"{arm.size_bytes:,} bytes on disk."
        )
    change, low, high = outcome.change
    kind = "95 % t interval over paired seeds" if len(seeds) > 1 else "95 % interval of paired proportions, one net"
    lines += [
        f"- Difference: {change:+.2f} points [{low:+.2f}, {high:+.2f}], {kind}.",
        f"- n: seeds {', '.join(map(str, seeds))}; {n:,} test images each; "
        f"{duration(outcome.report.seconds or 0.0)} of computation.",
        f"- Command: `{claim.command}`",
        "",
    ]
    return lines


def page(outcomes: list[Outcome]) -> str:
    """All claims, readable."""
    machine = measure.machine()
    versions = ", ".join(f"{name} {version}" for name, version in measure.versions().items())
    lines = [
        "# Claims",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, one thread, accelerator {machine['accelerator']}; {versions}. "
        "Accuracies are those of the exported artifacts on the whole test split. "
        "Verdicts: holds, when the whole interval of the difference lies within the margin; partly, when only the "
        "difference does; not, when neither does.",
        "",
    ]
    return "\n".join([*lines, *(line for outcome in outcomes for line in as_text(outcome))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(c.name for c in CLAIMS)}; default all"
    )
    parser.add_argument("--save", action="store_true", help="write rows and a page under results/")
    parser.add_argument("--quick", action="store_true", help="only the claim that takes under a minute")
    options = parser.parse_args()
    names = options.claims or [claim.name for claim in CLAIMS if not options.quick or claim.name == "bnn_digits"]
    unknown = set(names) - {claim.name for claim in CLAIMS}
    if unknown:
        parser.error(f"unknown claims {sorted(unknown)}; known: {', '.join(claim.name for claim in CLAIMS)}")
    # Sums taken in another order give other nets: with one thread, machines of one kind give the same figures. Several
    # cores are used by naming claims in several calls.
    torch.set_num_threads(1)
    chosen = [claim for claim in CLAIMS if claim.name in names]
    budget = Budget(float(os.environ.get("BUDGET_HOURS", "inf")))
    outcomes: list[Outcome] = []
    for index, claim in enumerate(chosen):
        left = math.fsum(seconds_left(later) for later in chosen[index:])
        print(f"== {claim.name} ({index + 1} of {len(chosen)}; about {duration(left)} left in all)", file=sys.stderr)
        outcomes.append(settle(claim, budget))
        print("\n".join(as_text(outcomes[-1])), flush=True)
    if options.save:
        saved = save_rows("claims", [as_row(outcome) for outcome in outcomes])
        saved.with_suffix(".md").write_text(page(outcomes), encoding="utf-8")
        print(f"saved {saved.name} and {saved.with_suffix('.md').name}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as interrupt:
        sys.exit(f"stopped {interrupt}; what is done is kept, run again to go on")
