"""A word LSTM with weights and activations of few bits against its float twin, on Penn Treebank (arXiv 1609.07061).

One layer of 128 units, token vectors of 128, on the 2,000 most frequent words: all others are <unk>, so perplexities
compare with nothing outside this table (the full vocabulary has 10,000 words). 700 steps of 20 windows of 35 tokens,
half an epoch; Adam, cosine from 0.01, gradients clipped to norm 1. Every product (both of the gates, and the decoder)
multiplies integer codes: weights between each row's extremes, inputs and hidden states between the batch's. The
embedding table, the gates' sums and functions, and all of the backward pass stay float. The arithmetic is simulated:
this is about perplexity, never about speed.

Chosen on the last 50,000 tokens of the training text, seed 100, 300 steps: the learning rate, for the float arm (0.003
gave 145, 0.01 gave 111). Nothing was tuned for the arms with few bits.

Fixed before the runs: seed by seed, the log perplexity on the whole test text (windows of 70 tokens, one every 35)
minus that of the float twin of the same seed; n = 3 seeds, 95 % t interval; given as the change of perplexity in
percent.

- W4A4 is near float: at most 5 % above. `holds` where the whole interval lies below +5 %, `partly` where only the mean
  does, `not` otherwise.
- W3A3 and W2A2: reported without a margin.

    python benchmarks/ptb_lstm.py [--quick] [--save] [--seeds 3]

Resumable: finished cells lie in runs/cells/ptb_lstm.jsonl; BUDGET_HOURS limits a call. About 11 minutes of one core.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import pennyweight as pw
from cells import BudgetSpentError, Cells, whole
from pennyweight.numerics.measure import interval_mean
from pennyweight.numerics.random import Key
from pennyweight.training.language import next_token_loss, text_source
from pennyweight.training.perplexity import perplexity
from reporting import headline, save_rows

WORDS, UNITS, CONTEXT, BATCH, STEPS, LR = 2000, 128, 35, 20, 700, 0.01
MARGIN_PERCENT = 5.0
ARMS = {"float": None, "W4A4": 4, "W3A3": 3, "W2A2": 2}


def measure(bits: int | None, seed: int, steps: int, quick: bool) -> dict[str, Any]:
    """Train one arm and read the test text."""
    model = pw.create_model("lstm", vocab_size=WORDS, width=UNITS, hidden_size=UNITS, num_layers=1, seed=seed)
    if bits is not None:
        method = pw.Int8Training(
            weights=f"int{bits}",
            activations=f"uint{bits}",
            gradients=None,
            norm="keep",
            input_range="batch",
            seed=seed,
        )
        pw.apply_(model, method)
    train = pw.load_dataset("ptb", "train", vocabulary_size=WORDS)
    test = pw.load_dataset("ptb", "test", vocabulary_size=WORDS)
    regime = pw.Regime.cosine(steps=steps, lr=LR, batch_size=BATCH, optimizer="adam", clip_norm=1.0)
    order = Key(seed).fold("order").words[0]
    source = text_source(train, CONTEXT)
    result = whole(pw.train(model, source, regime, seed=order, objective=next_token_loss, progress=False))
    found = perplexity(model, test.tokens[:3000] if quick else test, 2 * CONTEXT, CONTEXT)
    return {"perplexity": found.value, "log": found.loss, "n": found.n, "train_loss": result.final_loss}


def compared(found: Mapping[str, Sequence[float]], arm: str) -> dict[str, Any]:
    """Change of an arm's perplexity against float, seed by seed, in percent."""
    count = min(len(found[arm]), len(found["float"]))
    differences = [a - b for a, b in zip(found[arm][:count], found["float"][:count], strict=True)]
    interval = interval_mean(differences) if count > 1 else None
    mean = sum(differences) / count
    low, high = (interval.low, interval.high) if interval else (-math.inf, math.inf)
    percent = [100 * math.expm1(min(value, 700.0)) for value in (mean, low, high)]
    each = " ".join(f"{math.exp(value):.2f}" for value in found[arm])
    average = math.exp(sum(found[arm]) / len(found[arm]))
    return (
        {"arm": arm, "perplexities": each, "perplexity": average}
        | dict(zip(("change_percent", "low", "high"), percent, strict=True))
        | {"seeds": count}
    )


def verdict(row: Mapping[str, Any]) -> str:
    """Of the arm with a margin."""
    if row["high"] < MARGIN_PERCENT:
        return "holds"
    return "partly" if row["change_percent"] < MARGIN_PERCENT else "not"


def main() -> None:
    """Measure what is missing, then print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds of 10 steps, two arms, 3,000 tokens")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = {name: ARMS[name] for name in ("float", "W4A4")} if options.quick else ARMS
    seeds, steps = (2, 10) if options.quick else (options.seeds, STEPS)
    cells, found = Cells("ptb_lstm", options.quick), {name: [] for name in arms}  # type: dict[str, list[float]]
    try:
        for seed in range(seeds):
            for name, bits in arms.items():
                cell = cells.get(
                    {"arm": name, "seed": seed, "steps": steps},
                    lambda bits=bits, seed=seed: measure(bits, seed, steps, options.quick),
                )
                found[name].append(cell["log"])
    except BudgetSpentError:
        print("BUDGET_HOURS is spent; run again to go on")
    rows = [compared(found, name) for name, values in found.items() if values]
    for row in rows:
        print(
            f"{row['arm']:>6}  perplexity {row['perplexity']:7.2f} ({row['perplexities']})  "
            f"{row['change_percent']:+.2f} % [{row['low']:+.2f}, {row['high']:+.2f}], {row['seeds']} seeds"
        )
    for row in rows:
        if row["arm"] == "W4A4":
            values = torch.tensor(found["W4A4"], dtype=torch.float64).exp()
            low, median, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
            spread = (high - low) / median
            print(f"CLAIM a 4-bit LSTM is within {MARGIN_PERCENT:g} % of float's perplexity: {verdict(row)}")
            print(
                headline(
                    "lstm_w4a4_perplexity_change", row["change_percent"], "percent", row["seeds"], spread, "float32"
                )
            )
    if options.save:
        print(save_rows("ptb_lstm", rows))


if __name__ == "__main__":
    main()
