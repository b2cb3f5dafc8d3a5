"""Reading what LoadGen writes: the detail log's records and the accuracy log's answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight.errors import BenchmarkError
from pennyweight.mlperf.protocol import Array

_PREFIX = ":::MLLOG"


def read_detail(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The detail log's values by key, and the texts of its error records.

    The order of the file counts, not the time stamps: the first error of a run may carry a wrapped one.

    Raises:
        BenchmarkError: the file is missing or holds no record.
    """
    path = folder / "mlperf_log_detail.txt"
    values: dict[str, Any] = {}
    errors: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise BenchmarkError(f"LoadGen left no log at {path} ({error}): the run did not finish") from error
    for line in lines:
        if not line.startswith(_PREFIX):
            continue
        try:
            record = json.loads(line[len(_PREFIX) :])
        except json.JSONDecodeError:
            continue  # a line cut short by a crash; what is missing is noticed by its reader
        values[record["key"]] = record["value"]
        if record.get("metadata", {}).get("is_error"):
            errors.append(f"{record['key']}: {record['value']}")
    if not values:
        raise BenchmarkError(f"{path} holds no LoadGen record: the run did not finish")
    return values, errors


def read_answers(folder: Path, total: int, dtype: Any = np.int32) -> Array:
    """Answers by LoadGen's sample index.

    Args:
        total: samples in the library; each must be answered exactly once.

    Raises:
        BenchmarkError: an answer is missing, doubled, empty or of the wrong size.
    """
    path = folder / "mlperf_log_accuracy.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BenchmarkError(f"LoadGen's accuracy log {path} cannot be read ({error})") from error
    answers = np.zeros(total, dtype=dtype)
    seen = np.zeros(total, dtype=bool)
    for record in records:
        index, data = int(record["qsl_idx"]), bytes.fromhex(record["data"])
        if not 0 <= index < total or seen[index]:
            raise BenchmarkError(f"sample {index} was answered twice or does not exist (library of {total})")
        if len(data) != answers.itemsize:
            raise BenchmarkError(f"the answer to sample {index} has {len(data)} bytes, expected {answers.itemsize}")
        answers[index] = np.frombuffer(data, dtype=dtype)[0]
        seen[index] = True
    if not seen.all():
        raise BenchmarkError(
            f"{int((~seen).sum())} of {total} samples were never answered, the first {int(np.argmin(seen))}"
        )
    return answers
