"""Drawings as SVG that belongs to the page: its text, its colors, light or dark or on paper.

Matplotlib draws; the colors of `SERIES`, `INK` and `GRID` then become variables of the page's style
sheet, and text stays text. `SERIES` are those of Okabe and Ito (2008), told apart by people of all
kinds of color vision; a marker and a dash go with each, for print without color.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import StringIO
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from mbrec.errors import DeviceError
from mbrec.report.blocks import Figure

WIDTH, HEIGHT = 4.5, 2.9  # inches of 72 units: at their own size on a phone
DRAWN = 8  # series in one drawing; more cannot be told apart
INK, GRID = "#010203", "#040506"  # stand for the page's own colors
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
_MARKERS = "osD^vPX*"
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_VARIABLES = {INK: "currentColor", GRID: "var(--grid)"} | {
    color: f"var(--c{place})" for place, color in enumerate(SERIES[:-1])
}
# Untyped: Matplotlib names all its settings in a type, which grows from release to release.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mbrec",  # or ids would differ from page to page
    "text.parse_math": False,  # names come from logs
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass
class Drawing:
    """A drawing that is being made."""

    figure: Any
    axes: Any  # matplotlib.axes.Axes
    made: list[Markup] = field(default_factory=list)

    def legend(self) -> None:
        """Name the series above the axes, in as many columns as there is room for."""
        handles, labels = self.axes.get_legend_handles_labels()
        if not labels:
            return
        # About 7 units per letter and 50 for the line before it.
        columns = max(1, int(WIDTH * 72 / (max(map(len, labels)) * 6 + 45)))
        self.figure.legend(
            handles, labels, loc="outside upper left", ncols=min(columns, len(labels))
        )

    def named(self, title: str, note: str = "") -> Figure:
        """The finished drawing as a block; to be called when its context is left."""
        svg = re.sub(
            "<svg ", Markup('<svg role="img" aria-label="{}" ').format(title), self.made[0]
        )
        return Figure(title, Markup(svg), note)


@contextmanager
def drawing(*, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Drawing]:
    """Draw within this context; the result is `named` after it.

    Args:
        width: In inches of 72 units of the page.
        height: Likewise.

    Raises:
        DeviceError: Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise DeviceError(
            f"Matplotlib cannot be loaded ({error}).", "Install it: pip install 'mbrec[report]'."
        ) from error
    with rc_context(_STYLE), warnings.catch_warnings():
        # Fonts are the reader's; that one here lacks the letters of a name says nothing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=(width, height), layout="constrained")
        drawn = Drawing(canvas, canvas.add_subplot())
        yield drawn
        text = StringIO()
        canvas.savefig(text, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    drawn.made.append(_inline(text.getvalue()))


def logarithmic(axes: Any, *names: str) -> None:
    """Make the axes of these names, "x" or "y", logarithmic, with plain figures along them.

    To be called when all is drawn: how many figures there are follows from the limits.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        low, high = getattr(axes, f"get_{name}lim")()
        axis = getattr(axes, f"{name}axis")
        steps = (1.0,) if high > 60 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=steps, numticks=7))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))


def series(place: int) -> dict[str, Any]:
    """Color, marker and dash of the series at `place`."""
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _DASHES[place % len(_DASHES)],
    }


def _inline(text: str) -> Markup:
    """An SVG document as an element of a page: no namespaces, links or ids that others have."""
    root = ElementTree.fromstring(text)
    prefix = f"d{sha256(text.encode()).hexdigest()[:8]}-"
    for parent in root.iter():
        for child in list(parent):
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    for element in root.iter():
        element.tag = _plain(element.tag)
        values = {_plain(name): value for name, value in element.attrib.items()}
        if "id" in values and values["id"] not in used:
            del values["id"]
        element.attrib.clear()
        element.attrib.update({n: _value(n, v, prefix) for n, v in values.items()})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain(name: Any) -> str:
    return str(name).rpartition("}")[2]


def _value(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    value = value.replace("url(#", f"url(#{prefix}")
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"\bfont: ([\d.]+px)[^;]*", r"font-size: \1", value)
        value = re.sub(r"#[0-9a-f]{6}", lambda hit: _VARIABLES.get(hit[0], hit[0]), value)
    return value
