"""Search spaces: which settings a search changes, and within what.

    extends = "trained"                                 # another space, of those that come along
    without = ["model.l2"]                              # what not to take from it
    model.size = [32, 64, 128]                          # choices, of any type
    train.lr = {low = 5e-4, high = 5e-2, log = true}    # a range, ends included
    model.layers = {low = 1, high = 4, step = 1}

Whether a range is of whole numbers or not, the setting's default says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from mbrec import config as configuration
from mbrec.config import Settings
from mbrec.errors import UsageError

Point = dict[str, Any]
"""Dotted setting → value."""

_WORDS = ("low", "high", "log", "step")
_FIXED = ("method", "seed", "device", "engine", "behaviors", "rows", "train.metric")
_ABSENT = object()


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        return any(self.same(known, value) for known in self.values)

    @staticmethod
    def same(known: Any, value: Any) -> bool:
        """Whether two values are one: 1 and 1.0 are, 1 and true are not."""
        return bool(known == value) and isinstance(known, bool) is isinstance(value, bool)

    def __str__(self) -> str:
        return ", ".join(map(_text, self.values))


@dataclass(frozen=True)
class Range:
    """A number between two, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False  # whether only whole numbers fit

    def holds(self, value: Any) -> bool:
        """Whether `value` lies in it, on a step if there are steps."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def __str__(self) -> str:
        how = ", log" if self.log else f", by {self.step:g}" if self.step else ""
        return f"{self.low:g} … {self.high:g}{how}"


Domain = Choices | Range


@dataclass(frozen=True)
class Space:
    """What a search may change.

    Args:
        name: The file, for messages.
        domains: Dotted setting → what it may be.
    """

    name: str
    domains: Mapping[str, Domain]

    @property
    def size(self) -> float:
        """How many points it has; infinite if it has a range."""
        sizes = (
            len(d.values) if isinstance(d, Choices) else math.inf for d in self.domains.values()
        )
        return math.prod(sizes)

    def describe(self) -> dict[str, str]:
        """Setting → its domain, as text."""
        return {key: str(domain) for key, domain in self.domains.items()}

    def start(self, settings: Settings) -> Point:
        """The point at which a search begins: what `settings` have."""
        values = settings.to_dict()
        return {key: _at(values, key) for key in self.domains}


def shipped() -> dict[str, Path]:
    """Name → file of the spaces that come with mbrec: one per method, and what they share."""
    found = {}
    for entry in (files("mbrec.tune") / "spaces").iterdir():
        if entry.name.endswith(".toml"):
            with as_file(entry) as path:  # mbrec is never run from an archive (zip_safe)
                found[path.stem] = path
    return dict(sorted(found.items()))


def load_space(settings: Settings, file: Path | None = None) -> Space:
    """The space of a method, or that of a file, checked against the method.

    Args:
        settings: Where the search begins; the method is among them.
        file: A TOML file; None: the space of the method that comes with mbrec.

    Raises:
        UsageError: The method has nothing to tune, or the space does not fit it.
    """
    if file is None:
        file = shipped().get(settings.method)
        if file is None and not type(settings.model).model_fields:
            raise UsageError(
                f"There is nothing to tune: {settings.method} has no settings of its own.",
                "Train it as it is, or choose another --model.",
            )
        if file is None:
            raise UsageError(
                f"There is no search space for {settings.method}.", "Give one with --space FILE."
            )
    merged = dict(_entries(file))
    if not merged:
        raise UsageError(f"{file} names no setting to change.", 'E.g. "model.size" = [32, 64].')
    domains = {key: _domain(file, key, value, settings) for key, value in merged.items()}
    space = Space(file.name, domains)
    for key, domain in domains.items():
        _check(file, key, domain, settings)
    return space


def with_point(settings: Settings, point: Mapping[str, Any]) -> Settings:
    """`settings` with the values of a point.

    Raises:
        UsageError: A value does not fit.
    """
    values = settings.to_dict()
    for key, value in point.items():
        *path, last = key.split(".")
        table = values
        for part in path:
            table = table[part]
        table[last] = value
    return configuration.from_dict(values)


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Setting → what the file and the space that it extends say, unchecked."""
    values = configuration.read_toml(file)
    base, without = values.pop("extends", None), values.pop("without", [])
    inherited: dict[str, Any] = {}
    if base is not None:
        known = shipped()
        if base not in known:
            raise UsageError(
                f"{file}: extends = {base!r} is no space of mbrec.",
                f"There are {', '.join(known)}.",
            )
        inherited = dict(_entries(known[base]))
    if not isinstance(without, list) or not set(map(str, without)) <= set(inherited):
        raise UsageError(
            f"{file}: without = {without!r} is no list of settings that it extends.",
            f"Those are {', '.join(inherited) or 'none'}.",
        )
    yield from {
        **{key: value for key, value in inherited.items() if key not in without},
        **dict(_leaves(values)),
    }.items()


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → domain, for `"a.b" = …`, `a.b = …` and `[a]` alike."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not set(value) & set(_WORDS):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _domain(file: Path, key: str, value: Any, settings: Settings) -> Domain:
    where = f"{file}: {key} = {value!r}"
    default = _at(settings.to_dict(), key)
    if key in _FIXED:
        raise UsageError(
            f"{where}: with several of it, trials cannot be compared.", "Leave it out."
        )
    if default is _ABSENT:
        configuration.from_dict({**settings.to_dict(), **_nested(key, value)}, f" (in {file})")
        raise UsageError(
            f"{where}: {key} has no value to begin with.", f"Give one with --set {key}=VALUE."
        )
    if isinstance(value, list):
        if len(set(map(_text, value))) < max(len(value), 1):
            raise UsageError(f"{where} has no choice, or the same one twice.", "List each once.")
        return Choices(tuple(value))
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= set(_WORDS):
        raise UsageError(
            f"{where} is neither a list of choices nor a range.",
            "Write e.g. [32, 64] or {low = 0.001, high = 0.1, log = true}.",
        )
    whole = isinstance(default, int)
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    numbers = [number for number in (low, high, step) if number is not None]
    kinds = int if whole else (int, float)
    if any(isinstance(n, bool) or not isinstance(n, kinds) for n in numbers):
        needed = "whole numbers" if whole else "numbers"
        raise UsageError(f"{where}: its ends have to be {needed}.", f"{key} is {default!r} now.")
    if not low < high or (log and low <= 0) or (step is not None and (log or step <= 0)):
        raise UsageError(
            f"{where} is no range: low is below high; with log it is above 0, and without step.",
            "Change its ends.",
        )
    return Range(low, high, bool(log), step, whole)


def _check(file: Path, key: str, domain: Domain, settings: Settings) -> None:
    """Refuse values that the method does not take, and a domain that leaves out the start."""
    if domain.holds(_at(settings.to_dict(), key)):
        tried = domain.values if isinstance(domain, Choices) else (domain.low, domain.high)
        for value in tried:
            try:
                with_point(settings, {key: value})
            except UsageError as error:
                raise UsageError(f"{file}: {key} = {value!r}: {error.message}") from error
        return
    start = _text(_at(settings.to_dict(), key))
    raise UsageError(
        f"{file}: {key} ({domain}) leaves out {start}, with which the search begins.",
        f"Add it, or begin elsewhere with --set {key}=VALUE.",
    )


def _at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, or `_ABSENT`."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
