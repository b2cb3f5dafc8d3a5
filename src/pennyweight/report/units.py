"""How numbers become words: bytes, times, rates, percent, ratios. What is missing or not a number is said in words."""

import math

from pennyweight.report.record import Number

NOT_MEASURED = "not measured"
NOT_A_NUMBER = "not a number"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


def words_for_missing(value: Number | None) -> str | None:
    """The words shown in place of a value that is None, NaN or infinite; None when the value can be shown."""
    if value is None:
        return NOT_MEASURED
    if math.isnan(value):
        return NOT_A_NUMBER
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return None


def significant(value: Number, digits: int = 3) -> str:
    """A finite number to so many significant digits, without exponent, thousands set apart by commas.

    Example:
        >>> significant(12345.6), significant(0.98765), significant(24.649)
        ('12,300', '0.988', '24.6')
    """
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", MINUS)


def bytes_text(size: Number | None) -> str:
    """A size in decimal units (1 kB = 1000 bytes).

    Example:
        >>> bytes_text(11234), bytes_text(999), bytes_text(None)
        ('11.2 kB', '999 B', 'not measured')
    """
    missing = words_for_missing(size)
    if missing or size is None:
        return missing or NOT_MEASURED
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{significant(size)} {unit}"
        size /= 1000
    return f"{significant(size)} TB"


def time_text(nanoseconds: Number | None) -> str:
    """A short time in the unit that reads best.

    Example:
        >>> time_text(41_234), time_text(2.5e9), time_text(float("nan"))
        ('41.2 µs', '2.50 s', 'not a number')
    """
    missing = words_for_missing(nanoseconds)
    if missing or nanoseconds is None:
        return missing or NOT_MEASURED
    for unit, scale in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if abs(nanoseconds) < 999.5 * scale:
            return f"{significant(nanoseconds / scale)} {unit}"
    return f"{significant(nanoseconds / 1e9)} s"


def seconds_text(seconds: Number | None) -> str:
    """A duration of work: seconds, minutes or hours.

    Example:
        >>> seconds_text(41.3), seconds_text(200), seconds_text(7300)
        ('41 s', '3 min 20 s', '2 h 1 min')
    """
    missing = words_for_missing(seconds)
    if missing or seconds is None:
        return missing or NOT_MEASURED
    if seconds < 10:
        return f"{significant(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def value_text(value: Number | None, unit: str) -> str:
    """A figure with its unit; times choose their own."""
    missing = words_for_missing(value)
    if missing or value is None:
        return missing or NOT_MEASURED
    if unit in _NS:
        return time_text(value * _NS[unit])
    return f"{significant(value)} {unit}".rstrip()


def count_text(count: int | None) -> str:
    """A count with thousands set apart."""
    return NOT_MEASURED if count is None else f"{count:,}"


def percent_text(fraction: Number | None, n: int = 0) -> str:
    """A fraction in percent; two decimals where the sample is large enough to mean them."""
    missing = words_for_missing(fraction)
    if missing or fraction is None:
        return missing or NOT_MEASURED
    return f"{100 * fraction:.{_decimals(n)}f} %"


def interval_text(low: Number | None, high: Number | None, n: int = 0) -> str:
    """An interval of fractions in percent, or an empty string when there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    decimals = _decimals(n)
    return f"[{100 * low:.{decimals}f}, {100 * high:.{decimals}f}]"


def points_text(difference: Number | None, n: int = 0) -> str:
    """A signed difference of fractions in percentage points, without the word."""
    missing = words_for_missing(difference)
    if missing or difference is None:
        return missing or NOT_MEASURED
    text = f"{100 * difference:+.{_decimals(n)}f}"
    if not text.strip("+-0."):
        return text[1:]  # a zero has no sign
    return text.replace("-", MINUS)


def points_interval_text(low: Number | None, high: Number | None, n: int = 0) -> str:
    """An interval of differences in percentage points, or an empty string when there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{points_text(low, n)}, {points_text(high, n)}]"


def ratio_text(ratio: Number | None) -> str:
    """A ratio such as 24.6 with its sign."""
    missing = words_for_missing(ratio)
    if missing or ratio is None:
        return missing or NOT_MEASURED
    return f"{significant(ratio)}{TIMES}"


def _decimals(n: int) -> int:
    return 2 if n >= 2000 else 1
