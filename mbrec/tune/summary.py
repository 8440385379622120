"""A study as plain values: what a report shows. It needs neither Optuna nor torch to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mbrec.errors import ArtefactError
from mbrec.files import read_json

STUDY = "study.json"
TRIALS = "trials.json"
SCHEMA_VERSION = 1
_REMEDY = "Search again, in another folder."

State = Literal["finished", "pruned", "failed", "running"]


@dataclass(frozen=True)
class TrialSummary:
    """One trial."""

    number: int
    """From 1 on."""

    state: State
    """`pruned`: ended early, since it was behind; `failed`: see `error`."""

    settings: Mapping[str, Any]
    """Dotted setting → its value, for the settings that the search changes."""

    value: float | None = None
    """The validation metric; None unless finished."""

    behaviors: Mapping[str, float | None] | None = None
    """Behavior → the metric, where it has validation rows."""

    curve: tuple[tuple[int, float], ...] = ()
    """(epoch, metric), for each validation."""

    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    error: str = ""

    start: bool = False
    """Whether these are the settings that the search began with, the defaults as a rule."""

    same_as: int | None = None
    """The trial with the same settings whose figures these are."""


@dataclass(frozen=True)
class StudySummary:
    """A study: what was searched, and what came of it."""

    path: Path
    method: str
    metric: str
    """What was maximized: the macro average over behaviors, on validation rows."""

    seed: int
    dataset: Mapping[str, Any]
    """`path` and `content_hash`."""

    space: Mapping[str, str]
    """Dotted setting → what it might be, as text."""

    trials: tuple[TrialSummary, ...]
    importances: Mapping[str, float]
    """Dotted setting → its share of the importance, largest first; empty for few trials."""

    @property
    def finished(self) -> tuple[TrialSummary, ...]:
        """The trials with a value."""
        return tuple(trial for trial in self.trials if trial.value is not None)

    @property
    def best(self) -> TrialSummary | None:
        """The trial with the largest value, the first of equals; None while there is none."""
        return max(self.finished, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def start(self) -> TrialSummary | None:
        """The trial that the search began with, once it has finished."""
        return next((trial for trial in self.finished if trial.start), None)

    @property
    def gain(self) -> float | None:
        """By how much the best trial is above the start, as a share of the start."""
        if self.best is None or self.start is None or not self.start.value:
            return None
        return (self.best.value or 0.0) / self.start.value - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {**asdict(self), "path": str(self.path)}
        best, start = self.best, self.start
        return {
            **values,
            "best": best.number if best else None,
            "start": start.number if start else None,
            "gain": self.gain,
        }


def study_summary(folder: Path | str) -> StudySummary:
    """Read what a study has found so far.

    Args:
        folder: What `mbrec tune --out` named; the search may still be running.

    Raises:
        ArtefactError: The folder is no study, or damaged.
    """
    folder = Path(folder)
    if not (folder / STUDY).is_file():
        raise ArtefactError(
            f"{folder} is no study (it has no {STUDY}).", "Make one with `mbrec tune`."
        )
    study = read_study(folder)
    found = read_json(folder / TRIALS, "trials") if (folder / TRIALS).is_file() else {}
    try:
        return StudySummary(
            path=folder,
            method=str(study["method"]),
            metric=str(study["metric"]),
            seed=int(study["seed"]),
            dataset=dict(study["dataset"]),
            space=dict(study["space"]),
            trials=tuple(_trial(values) for values in found.get("trials", ())),
            importances={k: float(v) for k, v in found.get("importances", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{folder} is damaged: no usable {error}.", _REMEDY) from error


def read_study(folder: Path) -> dict[str, Any]:
    """The content of study.json.

    Raises:
        ArtefactError: It is damaged, or of another version.
    """
    study = read_json(folder / STUDY, "study")
    if study.get("schema_version") != SCHEMA_VERSION:
        raise ArtefactError(
            f"{folder / STUDY} has schema version {study.get('schema_version')!r}; this mbrec "
            f"reads {SCHEMA_VERSION}.",
            _REMEDY,
        )
    return study


def _trial(values: Mapping[str, Any]) -> TrialSummary:
    curve = tuple((int(epoch), float(value)) for epoch, value in values.get("curve", ()))
    return TrialSummary(**{**values, "curve": curve})
