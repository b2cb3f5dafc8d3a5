"""Transformers after training: what 8 bits throughout and 4-bit weights cost, and how fast they decode.

    quality   an encoder of digits and a decoder of Penn Treebank's words, both trained here, and the public decoder of
              233k parameters on texts of its own: float, W8A8 with its attention products, and weights alone in 4 bits
              by groups of 128, rounded and by GPTQ; bytes are those of the packed artifact's tensors
    bert      a BERT of Hugging Face with random weights: the same code, similarity of outputs
    decode    tokens a second of a decoder 768 wide, one text, greedy with its cache: torch in float32 and bfloat16
              against packed codes of 4 and 8 bits, whose outputs are first checked against the simulated module's
    runtime   an encoder 192 wide as .onnx files in ONNX Runtime: W8A8 against float

Margins fixed beforehand: the encoder loses at most 1 point with W8A8 and 3 with W4, a decoder's perplexity grows by at
most 2 % with W8A8. Accuracy and perplexity are simulated in float32 and hold for the packed products up to bfloat16's
rounding; speeds are of executed codes, in turns with their peer on one thread, without loading and warm-up.

    python benchmarks/transformer_models.py [PART ...] [--quick] [--save]      PENNYWEIGHT_DATA names the data
"""

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pennyweight as pw
from cells import whole
from pennyweight.bench.backends import OnnxRuntimeBackend
from pennyweight.data import TextDataset
from pennyweight.models import Decoder, generate
from pennyweight.models.llama2c import load_llama2c
from pennyweight.nn.weight_only import pack_weight_only_
from pennyweight.numerics.measure import interleaved
from pennyweight.training.language import next_token_loss, text_source
from pennyweight.training.perplexity import perplexity
from reporting import headline, save_rows

Rows = list[dict[str, Any]]
CONTEXT = 64
FORMATS = ("float", "W8A8", "W4 group-128 rounded", "W4 group-128 GPTQ")


def made(model: nn.Module, formats: str, data: Tensor) -> nn.Module:
    """A copy in these formats; with groups, convolutions stay float. GPTQ rounds embeddings and heads tied to them."""
    convolutions = tuple(fqn for fqn, module in model.named_modules() if isinstance(module, nn.Conv2d))
    tables = {fqn: module for fqn, module in model.named_modules() if isinstance(module, nn.Embedding)}
    tied = tuple(
        fqn
        for fqn, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(module.weight is table.weight for table in tables.values())
    )
    grouped: dict[str, Any] = {"weights": "int4", "activations": None, "granularity": "group:128"}
    methods: dict[str, list[pw.Method]] = {
        "float": [],
        "W8A8": [pw.RoundToNearest(), pw.QuantizeAttention()],
        "W4 group-128 rounded": [pw.RoundToNearest(**grouped, exclude=convolutions)],
        "W4 group-128 GPTQ": [
            pw.GPTQ(**grouped, edge_weights=None, edge_activations=None, exclude=(*convolutions, *tied)),
            *([pw.RoundToNearest(**grouped, include=(*tables, *tied))] if tables else []),
        ],
    }
    twin = copy.deepcopy(model).eval()
    for method in methods[formats]:
        pw.apply_(twin, method, data=[data])
    return twin


def tensor_bytes(model: nn.Module, example: Tensor) -> int:
    """Bytes of a packed artifact without its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = pw.export(model, Path(folder) / "net.pw", example_input=example)
    return sum(size for role, size in artifact.size_breakdown.items() if role != "manifest")


def quality(root: Path, quick: bool) -> Rows:
    rows = encoder(quick)
    for name, model, calibration, text in (trained_decoder(root, quick), public_decoder(root, quick)):
        before = perplexity(model, text, min(CONTEXT, model.max_length - 1)).value
        for formats in FORMATS:
            twin = made(model, formats, calibration)
            found = perplexity(twin, text, min(CONTEXT, model.max_length - 1))
            rows.append(
                row(name, formats, "perplexity", found.value, found.interval, found.n)
                | {"against_float": found.value / before, "bytes": tensor_bytes(twin, calibration[:1])}
            )
    return rows


def encoder(quick: bool) -> Rows:
    """A small vision transformer on the embedded digits, three seeds."""
    train, test = pw.load_dataset("digits"), pw.load_dataset("digits", "test")
    images = train.normalize(train.images[:256])
    rows: Rows = []
    for seed in range(1 if quick else 3):
        model = pw.create_model("vit-tiny", width=48, depth=2, seed=seed)
        regime = pw.Regime.cosine(steps=20 if quick else 300, lr=5e-3, batch_size=64, optimizer="adam")
        whole(pw.train(model, train, regime, seed=seed, progress=False))
        before = 100 * pw.evaluate(model, test).accuracy
        for formats in FORMATS:
            twin = made(model, formats, images)
            found = pw.evaluate(twin, test)
            rows.append(
                row("digits encoder", formats, "accuracy", 100 * found.accuracy, found.interval, found.n, 100, seed)
                | {"against_float": 100 * found.accuracy - before, "bytes": tensor_bytes(twin, images[:1])}
            )
    return rows


def trained_decoder(root: Path, quick: bool) -> tuple[str, Decoder, Tensor, TextDataset]:
    train, valid = (pw.load_dataset("ptb", split, root) for split in ("train", "valid"))
    assert isinstance(train, TextDataset)
    assert isinstance(valid, TextDataset)
    model = Decoder(vocab_size=len(train.vocabulary), max_length=CONTEXT + 1, width=128, depth=3, heads=4, tied=True)
    regime = pw.Regime.cosine(steps=3 if quick else 500, lr=2e-3, batch_size=16, optimizer="adam", warmup_steps=1)
    whole(pw.train(model, text_source(train, CONTEXT), regime, objective=next_token_loss, progress=False))
    calibration = text_source(train, CONTEXT)(0, 64, 0, 1).inputs
    text = TextDataset(
        tokens=valid.tokens[: 1000 if quick else 16_385], vocabulary=valid.vocabulary, name="ptb", split="valid"
    )
    return "Penn Treebank decoder", model.eval(), calibration, text


def public_decoder(root: Path, quick: bool) -> tuple[str, Decoder, Tensor, Any]:
    """The public net is the true source of the texts it draws: what is added to their loss is divergence from it."""
    model = load_llama2c(root / "nets" / "lm" / "aidreams260K.bin")
    start = torch.ones((8 if quick else 128, 1), dtype=torch.int64)
    length = 15 if quick else 127
    calibration = generate(model, start[:32], length, torch.Generator().manual_seed(1))
    return "public decoder", model, calibration, generate(model, start, length, torch.Generator().manual_seed(0))


def bert(_root: Path, quick: bool) -> Rows:
    """Random weights: only what quantization changes means anything."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    model = pw.create_model("hf:bert", num_classes=3, **sizes).eval()
    tokens = torch.randint(1, 30_000, (8 if quick else 64, 64), generator=torch.Generator().manual_seed(0))
    rows: Rows = []
    with torch.no_grad():
        expected = hidden(model, tokens)
        for formats in ("W8A8", "W4 group-128 rounded", "W4 group-128 GPTQ"):
            got = hidden(made(model, formats, tokens), tokens)
            cosine = float(F.cosine_similarity(got.flatten(0, 1), expected.flatten(0, 1), dim=-1).mean())
            rows.append(row("hf:bert, random weights", formats, "cosine", cosine, None, expected.shape[0]))
    return rows


def hidden(model: Any, tokens: Tensor) -> Tensor:
    found: Tensor = model.bert(tokens).last_hidden_state
    return found


def decode(_root: Path, quick: bool) -> Rows:
    """Greedy decoding of one text through the cache."""
    width, new = (256, 8) if quick else (768, 32)
    model = Decoder(vocab_size=4096, max_length=96, width=width, depth=4, heads=12 if width == 768 else 4).eval()
    prompt = torch.arange(16)[None]
    peers = {"float32": model, "bfloat16": copy.deepcopy(model).to(torch.bfloat16)}
    packed = {}
    for bits in (4, 8):
        granularity = "group:128" if bits == 4 else "channel"
        twin = copy.deepcopy(model)
        fit = pw.RoundToNearest(weights=f"int{bits}", activations=None, granularity=granularity, exclude=("embedding",))
        pw.apply_(twin, fit)
        simulated = copy.deepcopy(twin)
        pack_weight_only_(twin)
        with torch.no_grad():
            wanted, got = simulated(prompt), twin(prompt)
        error = float((got - wanted).norm() / wanted.norm())
        assert error < 0.02, f"packed {bits}-bit outputs differ by {error:.3f} from the simulated module's"
        packed[f"W{bits} packed"] = twin
    rows: Rows = []
    for name, twin in packed.items():
        for peer, network in peers.items():
            timed = interleaved(
                lambda network=network: greedy(network, prompt, new),
                lambda twin=twin: greedy(twin, prompt, new),
                repeats=3 if quick else 11,
                warmup=1,
            )
            rows.append({
                "model": f"decoder {width} wide", "formats": name, "peer": peer, "metric": "tokens/s",
                "value": new / timed.b_seconds, "peer_value": new / timed.a_seconds, "speedup": timed.ratio,
                "spread": timed.spread, "n": timed.n,
            })  # fmt: skip
    return rows


@torch.inference_mode()
def greedy(model: Any, prompt: Tensor, new: int) -> Tensor:
    return generate(model, prompt, new)


def runtime(_root: Path, quick: bool) -> Rows:
    """A vision transformer 192 wide at 32 x 32 pixels; fresh weights, since only time is measured."""
    model = pw.create_model(
        "vit-tiny", input_shape=(3, 32, 32), width=64 if quick else 192, depth=6, patch_size=4
    ).eval()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {
            formats: pw.export_onnx(
                made(model, formats, images),
                Path(folder) / f"{index}.onnx",
                example_input=images[:2],
                samples=images,
            )
            for index, formats in enumerate(("float", "W8A8"))
        }
        backends = {formats: OnnxRuntimeBackend(file.path) for formats, file in files.items()}
        for batch in (1, 32):
            x = images[:batch].numpy()
            timed = interleaved(
                lambda x=x: backends["float"].infer(x),
                lambda x=x: backends["W8A8"].infer(x),
                repeats=3 if quick else 31,
            )
            rows.append({
                "model": f"vit-tiny {64 if quick else 192} wide, batch {batch}", "formats": "W8A8",
                "peer": "float in ONNX Runtime", "metric": "images/s", "value": batch / timed.b_seconds,
                "peer_value": batch / timed.a_seconds, "speedup": timed.ratio, "spread": timed.spread, "n": timed.n,
            })  # fmt: skip
    return rows


def row(
    model: str, formats: str, metric: str, value: float, interval: Any, n: int, times: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    low, high = (None, None) if interval is None else (times * interval.low, times * interval.high)
    return {
        "model": model, "formats": formats, "metric": metric, "value": value, "low": low, "high": high, "n": n,
        "seed": seed,
    }  # fmt: skip


PARTS: dict[str, Callable[[Path, bool], Rows]] = {
    "quality": quality,
    "bert": bert,
    "decode": decode,
    "runtime": runtime,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, to see that all parts run")
    parser.add_argument("--save", action="store_true", help="write a CSV a part under results/")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"unknown part {sorted(unknown)[0]!r}; parts are {', '.join(PARTS)}")
    root = os.environ.get("PENNYWEIGHT_DATA")
    if not root:
        sys.exit("PENNYWEIGHT_DATA does not name the data: Penn Treebank and the public decoder are needed")
    torch.set_num_threads(1)
    found = {}
    for part in options.parts or PARTS:
        found[part] = PARTS[part](Path(root), options.quick)
        print(f"# {part}")
        for one in found[part]:
            print(", ".join(f"{key}={_short(value)}" for key, value in one.items() if value is not None), flush=True)
        if options.save:
            print(f"saved {save_rows(f'transformer_models-{part}', found[part]).name}")
    conclude(found)


def conclude(found: Mapping[str, Rows]) -> None:
    """The headlines."""
    for one in found.get("quality", []):
        if one["formats"] == "W8A8" and one["metric"] == "perplexity":
            name = f"w8a8_perplexity_ratio_{one['model'].split()[0].lower()}"
            print(headline(name, one["against_float"], "x", one["n"], 0.0, "float"))
    for formats in dict.fromkeys(one["formats"] for one in found.get("decode", [])):
        same = [one for one in found["decode"] if one["formats"] == formats]
        one = min(same, key=lambda candidate: candidate["speedup"])  # against the faster peer
        name = f"decode_speedup_{formats.split()[0].lower()}"
        print(headline(name, one["speedup"], "x", one["n"], one["spread"], f"torch_{one['peer']}"))
    for one in found.get("runtime", []):
        name = f"encoder_int8_ort_speedup_b{one['model'].rsplit(' ', 1)[-1]}"
        print(headline(name, one["speedup"], "x", one["n"], one["spread"], "onnxruntime_float"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
