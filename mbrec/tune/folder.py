"""The folder of a study.

study.json   what is searched, from where, on what
optuna.log   Optuna's journal, from which a search goes on
trials.json  all trials as plain values; trials.md, the same to read
best.toml    the settings of the best trial, for `mbrec train --config`
runs/        the trainings that are under way
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mbrec.config import Settings, flat
from mbrec.dataset import PreparedDataset
from mbrec.errors import UsageError
from mbrec.files import refuse_file_above, write_json, write_text
from mbrec.locks import TEMPORARY, locked
from mbrec.storage import storage_errors
from mbrec.tune.markdown import table
from mbrec.tune.space import Space, with_point
from mbrec.tune.summary import (
    SCHEMA_VERSION,
    STUDY,
    TRIALS,
    StudySummary,
    TrialSummary,
    read_study,
    study_summary,
)
from mbrec.version import __version__

BEST = "best.toml"
TABLE = "trials.md"
STORAGE = "optuna.log"
RUNS = "runs"
_OTHER = "Go on with the same, or choose another --out."


class StudyFolder:
    """Writes a study's folder.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def storage(self) -> Path:
        """Optuna's file."""
        return self.path / STORAGE

    def run(self, number: int) -> Path:
        """Where a trial's run is while it trains."""
        return self.path / RUNS / str(number)

    @contextmanager
    def opened(
        self, dataset: PreparedDataset, settings: Settings, space: Space, prune: bool
    ) -> Iterator[None]:
        """Make the folder, or check that it is of this search, and keep all others out of it.

        Raises:
            UsageError: It holds other things, or another search.
            BusyError: Another search is at work in it.
            StorageError: It cannot be written to.
        """
        wanted = _description(dataset, settings, space, prune)
        self._check(wanted)  # before anything is made there
        with storage_errors(self.path), locked(self.path):
            if not self._check(wanted):
                write_json(self.path / STUDY, wanted)
            yield

    def write(
        self,
        trials: tuple[TrialSummary, ...],
        settings: Settings,
        importances: Mapping[str, float] | None = None,
    ) -> StudySummary:
        """Write what is known now; the importances only if they are given."""
        values: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        values["trials"] = [asdict(trial) for trial in trials]
        if importances is not None:
            values["importances"] = dict(importances)
        write_json(self.path / TRIALS, values)
        summary = study_summary(self.path)
        if summary.best is not None:
            best = with_point(settings, summary.best.settings)
            write_text(self.path / BEST, best.to_toml())
        write_text(self.path / TABLE, table(summary))
        return summary

    def _check(self, wanted: Mapping[str, Any]) -> bool:
        """Whether the study is there; an error if the folder holds anything else."""
        refuse_file_above(self.path)
        if self.path.is_file():
            raise UsageError(f"{self.path} is a file.", "Choose a folder for --out.")
        if not (self.path / STUDY).is_file():
            names = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
            if any(not name.startswith(TEMPORARY) for name in names):
                raise UsageError(
                    f"{self.path} holds other things (it has no {STUDY}).",
                    "Choose another folder for --out.",
                )
            return False
        found = read_study(self.path)
        old, new = found.get("dataset", {}), wanted["dataset"]
        if old.get("content_hash") != new["content_hash"]:
            raise UsageError(
                f"{self.path} holds a search on other data: {old.get('path')}, content hash "
                f"{str(old.get('content_hash'))[:12]}; this is {new['content_hash'][:12]}.",
                "Figures on both cannot be compared: choose another --out.",
            )
        _same(self.path, found, wanted, "settings")
        _same(self.path, found, wanted, "space")
        _same(self.path, found, wanted, "prune")
        return True


def _description(
    dataset: PreparedDataset, settings: Settings, space: Space, prune: bool
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "method": settings.method,
        "metric": settings.train.metric,
        "seed": settings.seed,
        "dataset": {"path": str(dataset.path.resolve()), "content_hash": dataset.content_hash},
        "space": space.describe(),
        "settings": flat(settings.to_dict()),
        "prune": prune,
        "version": __version__,
    }


def _same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], part: str) -> None:
    """Refuse a study of another search."""
    old, new = found.get(part), wanted[part]
    if old == new:
        return
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        raise UsageError(f"{path} holds a search with {part} = {old!r}; now {new!r}.", _OTHER)
    key = min(key for key in {**old, **new} if old.get(key) != new.get(key))
    raise UsageError(
        f"{path} holds another search: its {part} has {key} = {old.get(key)!r}; now "
        f"{new.get(key)!r}.",
        _OTHER,
    )
