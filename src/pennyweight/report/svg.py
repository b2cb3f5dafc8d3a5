"""The look of the pictures, and matplotlib figures as inline SVG: same bytes for the same data, text as text, colours
as CSS variables (so that the page decides on light or dark), no ids that collide, an alternative text for those who
cannot see them. What is drawn is in plots.py.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from pennyweight.errors import MissingDependencyError

INK, MUTED, GRID, PAPER = "#1c2430", "#5a6575", "#dde2e8", "#fffffe"
# Okabe and Ito's colours, told apart in the common colour blindnesses; yellow is left out (invisible on paper).
BASELINE_COLOR = "#3f4a5a"
ARM_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
# A second mark besides colour, for print and for those who see none.
MARKERS = ("o", "s", "^", "D", "v", "p", "h", "<")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BASELINE_COLOR: "arm-0"} | {
    color: f"arm-{index}" for index, color in enumerate(ARM_COLORS, 1)
}
# Typed loosely: newer matplotlibs type the keys as literals, older ones as strings.
_RC: Any = {
    "svg.hashsalt": "pennyweight",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # an arm may be called "$x$"
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def arm_color(index: int) -> str:
    """Colour of an arm by its place in the palette: 0 is the baseline, the rest go round."""
    return BASELINE_COLOR if index == 0 else ARM_COLORS[(index - 1) % len(ARM_COLORS)]


def color_variable(index: int) -> str:
    """Name of the CSS variable of that colour."""
    return _VARIABLES[arm_color(index)]


def plain_text(text: str, limit: int = 40) -> str:
    """A user's text fit for a picture: no control characters, one line, not endless."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's settings for one picture, restored afterwards.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "viz", "draw the pictures of a report") from error
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # The reader's browser has the glyphs that matplotlib's measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def to_svg(figure: Any, *, name: str, title: str, description: str) -> str:
    """A figure as an inline `<svg>` element.

    Args:
        figure: a matplotlib Figure drawn under `house_style`.
        name: prefix of all ids, unique in the page.
        title: what a screen reader calls the picture.
        description: what it shows, in a sentence or two with the figures.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # no XML prologue, no document type: this goes inside HTML
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = _in_tags(svg, lambda tag: _restyle(tag, name))
    label = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    opening = re.match(r"<svg[^>]*>", svg)
    assert opening is not None
    size = re.search(r'viewBox="[^"]*"', opening.group())
    assert size is not None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size.group()} '
        f'role="img" aria-labelledby="{name}-title {name}-desc">'
    )
    return head + label + svg[opening.end() :].strip()


def standalone(svg: str) -> str:
    """A picture as a file of its own, with the font and the paper that a page would have given it."""
    return svg.replace("<svg ", f'<svg style="font-family: sans-serif; background: {PAPER}" ', 1)


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Apply a change inside tags only, never in the text between them, which is the user's."""
    return re.sub(r"<[^>]*>", lambda match: change(match.group()), svg)


def _restyle(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(href="|url\()#', rf"\1#{name}-", tag)
    # The page chooses the font; older matplotlibs write one shorthand, newer ones its parts.
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: ([^;\"]*?)([\d.]+px)[^;\"]*", _font_without_family, tag)
    for color, variable in _VARIABLES.items():
        tag = tag.replace(f": {color}", f": var(--{variable}, {color})")
    return tag


def _font_without_family(shorthand: re.Match[str]) -> str:
    weight = "; font-weight: 700" if re.search(r"bold|[6-9]00", shorthand.group(1)) else ""
    return f"font-size: {shorthand.group(2)}{weight}"
