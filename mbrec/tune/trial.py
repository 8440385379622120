"""One trial: train, measure on validation rows, delete the run."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mbrec.bench.cells import explain
from mbrec.config import Settings
from mbrec.errors import StorageError
from mbrec.evaluation import evaluate_run
from mbrec.run import Run
from mbrec.trainer import Silent
from mbrec.training import train_run
from mbrec.tune.summary import State

OnEpoch = Callable[[Mapping[str, Any]], bool]
"""Is told of every epoch; says whether to end the trial."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where the run may be meanwhile."""

    number: int
    settings: Settings
    data: Path
    run: Path


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; the fields are those of `mbrec.tune.summary.TrialSummary`."""

    state: State
    value: float | None = None
    behaviors: Mapping[str, float | None] = field(default_factory=dict)
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    error: str = ""
    lost: bool = False  # the process died: nothing is known of the settings

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Pruned(Exception):  # noqa: N818  (no error: it was behind)
    """The trial was ended after this epoch."""


class _Watch(Silent):
    def __init__(self, on_epoch: OnEpoch) -> None:
        self._on_epoch = on_epoch
        self.epochs = 0

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Pass it on, and end the training if that is said."""
        self.epochs = int(record["epoch"])
        if self._on_epoch(record):
            raise _Pruned


def run_trial(job: Job, on_epoch: OnEpoch) -> Outcome:
    """Train and measure; a method that fails gives an outcome that says so.

    Raises:
        StorageError, OSError: The disk is full, or cannot be written to.
    """
    started, watch = time.perf_counter(), _Watch(on_epoch)
    shutil.rmtree(job.run, ignore_errors=True)  # in the study's own folder
    try:
        run = train_run(job.data, job.run, job.settings, observer=watch)
        outcome = _measured(run, job.settings)
    except _Pruned:
        outcome = Outcome("pruned", epochs=watch.epochs)
    except (OSError, StorageError):
        raise
    except Exception as error:
        log.info("trial %s failed", job.number, exc_info=True)
        outcome = Outcome("failed", error=explain(error), epochs=watch.epochs or None)
    finally:
        shutil.rmtree(job.run, ignore_errors=True)
    seconds = round(time.perf_counter() - started, 3)
    return Outcome(**{**outcome.to_dict(), "seconds": seconds})


def _measured(run: Run, settings: Settings) -> Outcome:
    """The macro average that is maximized, of the finished run: with what it calibrates at the end.

    Training measures it at some list lengths; at others it is measured here, on the same rows.
    """
    metric = settings.train.metric
    summary = run.info["valid"]
    if metric not in summary["macro"]:
        ks, device = (settings.train.metric_k,), settings.device
        summary = evaluate_run(run.path, split="valid", ks=ks, device=device).summary()
    behaviors = {name: values[metric] for name, values in summary["behaviors"].items()}
    return Outcome(
        "finished",
        value=float(summary["macro"][metric]),
        behaviors=behaviors,
        epochs=run.info.get("epochs"),
        best_epoch=run.info.get("best_epoch"),
    )
