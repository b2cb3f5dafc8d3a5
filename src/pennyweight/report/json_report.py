"""RunReport as strict JSON and back: equal reports give equal bytes, and reading gives an equal record.

NaN and infinity, which JSON lacks, travel as the strings "NaN", "Infinity", "-Infinity" in fields that hold numbers.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pennyweight.errors import BenchmarkError, did_you_mean
from pennyweight.report.record import RunReport

SCHEMA = 1
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def report_to_json(report: RunReport) -> str:
    """The report as indented JSON text with a schema number; fields in their declared order."""
    body = {"schema": SCHEMA, **_encode(report, "report")}
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_from_json(text: str) -> RunReport:
    """The report written by `report_to_json`.

    Raises:
        BenchmarkError: not JSON, another schema, an unknown or missing key, or a value of the wrong type; the message
            names the place.
    """
    try:
        body = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BenchmarkError(f"this report is not JSON ({error}): write it again with `pennyweight report`") from error
    if not isinstance(body, dict):
        raise BenchmarkError(f"a report is a JSON object, not {type(body).__name__}")
    schema = body.pop("schema", None)
    if schema != SCHEMA:
        raise BenchmarkError(f"report schema {schema!r} is not {SCHEMA}, which this version of pennyweight reads")
    decoded = _decode(body, RunReport, "report")
    assert isinstance(decoded, RunReport)
    return decoded


def read_report(path: Path) -> RunReport:
    """The report in a file, or in the run folder's report.json.

    Raises:
        BenchmarkError: no such file, or not a report.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"cannot read report {str(file)!r}: {error}") from error
    return report_from_json(text)


def _encode(value: object, place: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if dataclasses.is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name), f"{place}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _encode(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise BenchmarkError(f"{place} is a {type(value).__name__} ({value!r}): a report holds plain JSON values only")


def _decode(value: Any, hint: Any, place: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _decode_record(value, hint, place)
    if origin in (Union, types.UnionType):
        # Numbers before strings, so that "NaN" is a number where the field may hold one.
        for option in sorted(arguments, key=lambda option: option is str):
            try:
                return _decode(value, option, place)
            except BenchmarkError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_decode(item, arguments[0], f"{place}[{i}]") for i, item in enumerate(value))
        if len(value) == len(arguments):
            return tuple(_decode(item, arguments[i], f"{place}[{i}]") for i, item in enumerate(value))
    elif origin is Mapping and isinstance(value, dict):
        return {key: _decode(item, arguments[1], f"{place}.{key}") for key, item in value.items()}
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    name = getattr(hint, "__name__", "") if origin is None else str(hint)
    raise BenchmarkError(f"{place} is {value!r}, expected {name or hint}")


def _decode_record(value: Any, record: type, place: str) -> Any:
    if not isinstance(value, dict):
        raise BenchmarkError(f"{place} is {value!r}, expected an object with the fields of {record.__name__}")
    hints = get_type_hints(record)
    known = {f.name for f in dataclasses.fields(record)}
    for key in value:
        if key not in known:
            raise BenchmarkError(f"{place} has an unknown key {key!r}: {did_you_mean(key, known)}")
    decoded = {key: _decode(item, hints[key], f"{place}.{key}") for key, item in value.items()}
    try:
        return record(**decoded)
    except TypeError as error:
        raise BenchmarkError(f"{place} lacks a field of {record.__name__}: {error}") from error
