"""What can be asked of a preparation, with its defaults and presets."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, get_args

from mbrec.data_prep.sources import SOURCES
from mbrec.data_prep.sources.csv import Mapping
from mbrec.data_prep.split import Ratios
from mbrec.errors import UsageError

Protocol = Literal["temporal", "leave-one-out", "given"]
PROTOCOLS: Final = get_args(Protocol)
CoreOn = Literal["target", "any"]
Keep = Literal["first", "last"]
KEEP: Final[Keep] = "first"
"""What stays unless something else is asked for."""
EngineName = Literal["auto", "duckdb", "spark"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class PrepOptions:
    """Everything that a preparation can be asked. None: by preset, else the source's default."""

    source: str
    """ub, jd, csv or given."""
    inputs: tuple[str, ...]
    """Files, folders or glob patterns."""
    out: Path
    """Folder to make."""
    behaviors: tuple[str, ...] | None = None
    """Cascade order, target last."""
    split: str | None = None
    """temporal (default), leave-one-out, or given (default and only choice for that source)."""
    ratios: Ratios | None = None
    """Of the temporal split; default 8:1:1."""
    min_user: int | None = None
    """Pairs a user must have (k-core); default 0, no filter."""
    min_item: int | None = None
    """Pairs an item must have (k-core); default 0, no filter."""
    core_on: CoreOn | None = None
    """Which pairs the k-core counts: the target's (default), or any behavior's."""
    keep: Keep | None = None
    """Which of several rows of one user, item and behavior stays; default first."""
    start: str | None = None
    """First day or time, in the source's time zone; default: all."""
    end: str | None = None
    """Last day or time, inclusive."""
    preset: str | None = None
    """ub-paper or jd-paper: the published preparation; what is given beside it wins."""
    max_rejects: float = 0.01
    """Share of malformed rows above which the preparation fails."""
    memory_limit: int | None = None
    """Bytes; default 80 % of the memory that is free."""
    engine: EngineName = "auto"
    """auto: in memory, or with DuckDB what does not fit there; duckdb; spark."""
    spark_master: str | None = None
    """URL of the engine spark; None: Spark's own default, else this machine."""
    force: bool = False
    """Replace an existing folder."""
    mapping: Mapping = field(default_factory=Mapping)
    """Columns of the source csv."""


@dataclass(frozen=True)
class Settings:
    """What a preparation does: the options with every default and preset filled in."""

    behaviors: tuple[str, ...] | None
    """None: the source's own, without those that the log does not have."""
    split: str
    ratios: Ratios
    min_user: int
    min_item: int
    core_on: str
    keep: str
    start: str | None
    end: str | None


_DEFAULTS: Final = Settings(
    behaviors=None,
    split="temporal",
    ratios=Ratios(Fraction(8), Fraction(1), Fraction(1)),
    min_user=0,
    min_item=0,
    core_on="target",
    keep=KEEP,
    start=None,
    end=None,
)

# Rows outside the published nine days are dropped before pairs are deduplicated, so that a stray
# first row does not take a pair out of the window.
PRESETS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ub-paper": (
        "ub",
        {
            "behaviors": ("click", "favorite", "cart", "purchase"),
            "min_user": 5,
            "min_item": 10,
            "start": "2017-11-25",
            "end": "2017-12-03",
        },
    ),
    "jd-paper": ("jd", {"behaviors": ("click", "favorite", "purchase"), "min_user": 5}),
}


def settle(options: PrepOptions) -> Settings:
    """Fill in presets and defaults, and check what can be checked without the log.

    Raises:
        UsageError: A value or a combination is wrong.
    """
    _one_of("source", options.source, SOURCES)
    settings = _DEFAULTS
    if options.source == "given" or options.mapping.split is not None:
        settings = replace(settings, split="given")
    if options.preset is not None:
        _one_of("preset", options.preset, tuple(PRESETS))
        source, values = PRESETS[options.preset]
        if options.source != source:
            raise UsageError(
                f"The preset {options.preset} is for --source {source}, not {options.source}.",
                "Leave --preset out, or change --source.",
            )
        settings = replace(settings, **values)
    chosen = {f.name: getattr(options, f.name) for f in fields(Settings)}
    settings = replace(settings, **{k: v for k, v in chosen.items() if v is not None})
    _check(options, settings)
    return settings


def parse_share(text: str) -> float:
    """Read a share such as ``0.01`` or ``1%``.

    Raises:
        UsageError: It is none, or not between 0 and 1.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{text!r} is no share.", "Write 0.01 or 1%; 1 or 100% allows any.")
    return share


def parse_bytes(text: str) -> int:
    """Read a size such as ``8GB``, ``512 MiB`` or ``2G``.

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{text!r} is no size.", "Write, e.g., 8GB or 512MiB.")
    return int(float(match[1]) * (_UNITS | _BINARY)[match[2] or ""])


def _check(options: PrepOptions, settings: Settings) -> None:
    _one_of("split", settings.split, PROTOCOLS)
    _one_of("engine", options.engine, get_args(EngineName))
    if options.spark_master is not None and options.engine != "spark":
        raise UsageError(
            f"A Spark master is named, but the engine is {options.engine}.", "Add --engine spark."
        )
    _one_of("core_on", settings.core_on, get_args(CoreOn))
    _one_of("keep", settings.keep, get_args(Keep))
    if settings.min_user < 0 or settings.min_item < 0:
        raise UsageError("A threshold is negative.", "Use 0 for no threshold.")
    if options.source == "given" and settings.split != "given":
        raise UsageError(
            f"Files that are split already cannot be split {settings.split}.",
            "Leave --split out, or read the log with another --source.",
        )
    if options.mapping.split is not None and settings.split != "given":
        raise UsageError(
            f"A column for the split is named, and --split {settings.split}.", "Leave one out."
        )
    if options.source in ("ub", "jd") and settings.split == "given":
        raise UsageError(
            f"--source {options.source} has no split.", "Use temporal or leave-one-out."
        )
    if options.source != "csv" and options.mapping != Mapping():
        raise UsageError(
            f"--source {options.source} has fixed columns.",
            "Options for columns go with --source csv.",
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, 1)
        hint = f"Did you mean {close[0]}?" if close else f"Use {', '.join(allowed)}."
        raise UsageError(f"The {name.replace('_', '-')} {value!r} is unknown.", hint)
