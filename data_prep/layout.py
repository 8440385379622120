"""What one input file looks like: the only thing a source has to say about its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mbrec.columns import Split
from mbrec.data_prep.clock import Clock

Column = int | str  # 0-based position in a line of text, or a column's name in Parquet


@dataclass(frozen=True)
class Layout:
    """Where the fields of one file stand, and how they are read.

    A line of text is split at `separator`; a Parquet file gives its columns by name.
    """

    path: Path
    user: Column
    item: Column
    behavior: Column | None = None
    """Where the behavior's code stands; None: every row is of behavior `fixed_behavior`."""
    time: Column | None = None
    split: Column | None = None
    clock: Clock | None = None
    """How the time is written; None exactly if `time` is."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """The log's code → name of the behavior; an empty name marks a code that is known, not used."""
    fixed_behavior: str = ""
    fixed_split: Split | None = None
    width: int = 0
    """Fields per line; any other number is malformed."""
    separator: str = ","
    blanks: bool = False
    """Split at any run of blanks, tabs and commas instead of at `separator`."""
    header: bool = False
    quoted: bool = False
    """Fields may stand in double quotes."""
    ids: Literal["integer", "text"] = "text"
    """integer: anything but a whole number is malformed (a trailing ``.0`` is forgiven)."""
    encoding: str = "utf-8"
    fallback: str | None = None
    """Encoding to try for a line that is not UTF-8; None: such a line is malformed."""
    complete: Callable[[str], bool] | None = None
    """Whether a last line without a line end is whole; None: any is."""
    parquet: bool = False


@dataclass(frozen=True)
class Log:
    """All files of one source, described."""

    layouts: tuple[Layout, ...]
    behaviors: tuple[str, ...]
    """The cascade that is used unless the caller names one, target last."""
    zone: str
    """Time zone in which `--start` and `--end` are read."""
    known: tuple[str, ...] = ()
    """Every behavior that this format can hold; empty if that is open."""

    @property
    def has_time(self) -> bool:
        """Whether every file says when a row happened."""
        return all(layout.time is not None for layout in self.layouts)

    @property
    def has_split(self) -> bool:
        """Whether every file says which split a row belongs to."""
        return all(
            layout.split is not None or layout.fixed_split is not None for layout in self.layouts
        )
