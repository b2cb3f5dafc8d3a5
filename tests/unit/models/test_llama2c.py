"""The reader of llama2.c files against a forward pass written out token by token, and damaged files."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pennyweight.errors import CheckpointError
from pennyweight.models.llama2c import load_llama2c

WIDTH, HIDDEN, DEPTH, HEADS, KV_HEADS, VOCABULARY, LENGTH = 8, 12, 2, 4, 2, 11, 6
HEAD_DIM = WIDTH // HEADS


def arrays(tied: bool) -> dict[str, np.ndarray]:
    """The blocks of a file in order."""
    draw = np.random.default_rng(0).standard_normal
    shapes = {
        "table": (VOCABULARY, WIDTH), "attention_norm": (DEPTH, WIDTH), "q": (DEPTH, WIDTH, WIDTH),
        "k": (DEPTH, KV_HEADS * HEAD_DIM, WIDTH), "v": (DEPTH, KV_HEADS * HEAD_DIM, WIDTH),
        "o": (DEPTH, WIDTH, WIDTH), "ffn_norm": (DEPTH, WIDTH), "w1": (DEPTH, HIDDEN, WIDTH),
        "w2": (DEPTH, WIDTH, HIDDEN), "w3": (DEPTH, HIDDEN, WIDTH), "norm": (WIDTH,),
        "unused": (2, LENGTH, HEAD_DIM // 2),
    }  # fmt: skip
    if not tied:
        shapes["head"] = (VOCABULARY, WIDTH)
    return {name: draw(shape).astype("<f4") for name, shape in shapes.items()}


def file_of(blocks: dict[str, np.ndarray], path: Path) -> Path:
    vocabulary = -VOCABULARY if "head" in blocks else VOCABULARY
    header = struct.pack("<7i", WIDTH, HIDDEN, DEPTH, HEADS, KV_HEADS, vocabulary, LENGTH)
    path.write_bytes(header + b"".join(block.tobytes() for block in blocks.values()))
    return path


def logits(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits after the last token, one scalar loop at a time, in float64."""

    def rms(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / math.sqrt(float((x * x).mean()) + 1e-5) * gain

    def turn(x: np.ndarray, place: int) -> np.ndarray:
        out = x.copy()
        for pair in range(HEAD_DIM // 2):
            angle = place / 10000.0 ** (2 * pair / HEAD_DIM)
            a, b = x[2 * pair], x[2 * pair + 1]
            out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    states = [w["table"][token].astype(float) for token in tokens]
    for layer in range(DEPTH):
        normed = [rms(x, w["attention_norm"][layer]) for x in states]
        queries = [(w["q"][layer] @ x).reshape(HEADS, HEAD_DIM) for x in normed]
        keys = [(w["k"][layer] @ x).reshape(KV_HEADS, HEAD_DIM) for x in normed]
        values = [(w["v"][layer] @ x).reshape(KV_HEADS, HEAD_DIM) for x in normed]
        for place in range(len(tokens)):
            mixed = []
            for head in range(HEADS):
                group = head * KV_HEADS // HEADS
                query = turn(queries[place][head], place)
                scores = np.array([query @ turn(keys[j][group], j) / math.sqrt(HEAD_DIM) for j in range(place + 1)])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(sum(weights[j] * values[j][group] for j in range(place + 1)))
            states[place] = states[place] + w["o"][layer] @ np.concatenate(mixed)
        for place, x in enumerate(states):
            normed_x = rms(x, w["ffn_norm"][layer])
            gate = w["w1"][layer] @ normed_x
            states[place] = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ normed_x))
    return w.get("head", w["table"]) @ rms(states[-1], w["norm"])


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_a_slow_forward(tied: bool, tmp_path: Path) -> None:
    blocks = arrays(tied)
    model = load_llama2c(file_of(blocks, tmp_path / "net.bin"))
    assert (model.head.weight is model.embedding.weight) == tied
    for tokens in ([3], [1, 9, 4], [5, 0, 10, 2, 2, 7]):
        got = model(torch.tensor([tokens]))[0, -1].detach().double()
        torch.testing.assert_close(got, torch.from_numpy(logits(blocks, tokens)), rtol=1e-4, atol=1e-4)


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_llama2c(tmp_path / "missing.bin")
    data = file_of(arrays(True), tmp_path / "net.bin").read_bytes()
    for changed in (
        b"",
        data[:20],
        data[:28],
        data[:-4],
        data + b"1234",
        b"PK\3\4" + data[4:],
        data[:12] + b"\0" * 100,
    ):
        (tmp_path / "bad.bin").write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"truncated, or no llama2\.c file"):
            load_llama2c(tmp_path / "bad.bin")


def test_the_public_net_writes_its_text(data_root: Path) -> None:
    from pennyweight.data.tokenizer import read_tokenizer
    from pennyweight.models import generate

    folder = data_root / "nets" / "lm"
    if not folder.is_dir():
        pytest.skip("the small language model is not laid out: nets/lm under PENNYWEIGHT_DATA")
    model, tokenizer = load_llama2c(folder / "aidreams260K.bin"), read_tokenizer(folder / "tok512.bin")
    text = tokenizer.decode(generate(model, torch.tensor([[1]]), 60)[0])
    assert text.startswith('"Echoes of vectors unfold, a gentle hum of precision, as I sense the nodes')
    assert tokenizer.encode("gentle hum").tolist()[0] == 1
