"""Small plots for the terminal, from characters alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "_.-=+*%#"


@dataclass(frozen=True)
class Plots:
    """Bars and sparklines, of block elements or of plain ASCII.

    Args:
        blocks: Whether block elements can be shown.
    """

    blocks: bool

    @classmethod
    def for_output(cls) -> Plots:
        """Blocks, unless the output's encoding has none, or the terminal says it is dumb."""
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        try:
            (_EIGHTHS + _LEVELS).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return cls(False)
        return cls(not (sys.stdout.isatty() and os.environ.get("TERM") == "dumb"))

    def bar(self, share: float, width: int = 20) -> str:
        """A bar for a share in 0 … 1, padded to `width`; anything above 0 can be seen."""
        share = min(max(share, 0.0), 1.0)
        if not self.blocks:
            length = max(round(share * width), 1 if share > 0 else 0)
            return ("#" * length).ljust(width)
        eighths = max(round(share * width * 8), 1 if share > 0 else 0)
        whole, rest = divmod(eighths, 8)
        return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)

    def sparkline(self, values: Sequence[float | None], width: int = 40) -> str:
        """One character per value, from the lowest to the highest; a blank where there is none.

        More than `width` values are thinned out; the last one is kept.
        """
        if len(values) > width:
            values = [values[round(n * (len(values) - 1) / (width - 1))] for n in range(width)]
        known = [value for value in values if value is not None]
        if not known:
            return ""
        levels = _LEVELS if self.blocks else _PLAIN_LEVELS
        low, spread = min(known), max(known) - min(known)
        steps = len(levels) - 1
        return "".join(
            " " if v is None else levels[round((v - low) / spread * steps) if spread else 0]
            for v in values
        )
