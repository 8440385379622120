"""A search from its start to its result: what is not done yet is run, in any number of sittings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from mbrec.columns import VISIBLE
from mbrec.config import Settings, require_validation
from mbrec.dataset import PreparedDataset
from mbrec.errors import DataError, TrainingError
from mbrec.tune.folder import RUNS, StudyFolder
from mbrec.tune.pool import Pool, make_pool
from mbrec.tune.space import Space, with_point
from mbrec.tune.study import Study, require_optuna
from mbrec.tune.summary import StudySummary, TrialSummary
from mbrec.tune.trial import Job


class Watcher(Protocol):
    """Is told how a search goes."""

    def epoch(self, number: int, record: Mapping[str, Any]) -> None:
        """A training has finished an epoch; `number` is what the journal calls the trial."""

    def trial(self, trial: TrialSummary, summary: StudySummary) -> None:
        """A trial is over."""


class Quiet:
    """A watcher that does nothing."""

    def epoch(self, number: int, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def trial(self, trial: TrialSummary, summary: StudySummary) -> None:
        """Nothing."""


def tune(
    data: Path | str,
    out: Path | str,
    settings: Settings,
    space: Space,
    *,
    trials: int,
    timeout: float | None = None,
    jobs: int = 1,
    prune: bool = True,
    watcher: Watcher | None = None,
) -> StudySummary:
    """Search for the settings with the best validation metric, or go on with that.

    However it ends, by an interrupt too, finished trials count: the same call goes on.

    Args:
        data: The folder that `mbrec prep` wrote.
        out: The study's folder.
        settings: The first trial; the others differ from it in what the space names.
        space: See `mbrec.tune.space.load_space`.
        trials: How many are to be run, those of earlier calls among them.
        timeout: Seconds after which no trial is begun.
        jobs: Trials at a time, in processes of their own; 0: one at a time in this process.
        prune: End trials early whose metric is below the median of the others.
        watcher: Is told how it goes.

    Returns:
        All trials, the best among them.

    Raises:
        UsageError: `out` holds something else, or a setting does not fit.
        BusyError: Another search is at work in `out`.
        DeviceError: Optuna is not installed.
        ArtefactError: `data` is no dataset, or `out` is damaged.
        DataError: The dataset has no validation rows.
        TrainingError: The first trial fails.
        StorageError: The disk is full; the same call goes on.
    """
    require_optuna()
    dataset = PreparedDataset(data, VISIBLE)
    if not any(dataset.manifest["counts"]["splits"]["valid"].values()):
        raise DataError(
            f"{dataset.path} has no validation rows, by which settings are chosen.",
            "Prepare it with a split that has them.",
        )
    require_validation(settings)
    folder = StudyFolder(Path(out))
    with folder.opened(dataset, settings, space, prune):
        shutil.rmtree(folder.path / RUNS, ignore_errors=True)  # of a search that was killed
        study = Study(folder.storage, space, space.start(settings), settings.seed, prune)
        if space.size <= trials:
            study.fill()
        search = _Search(study, folder, dataset.path.resolve(), settings, watcher or Quiet())
        try:
            with closing(make_pool(jobs)) as pool:
                search.run(pool, trials, timeout)
        finally:
            study.interrupt()
            summary = folder.write(study.trials(), settings, study.importances())
            shutil.rmtree(folder.path / RUNS, ignore_errors=True)
    return summary


class _Search:
    def __init__(
        self, study: Study, folder: StudyFolder, data: Path, settings: Settings, watcher: Watcher
    ) -> None:
        self._study, self._folder, self._data = study, folder, data
        self._settings, self._watcher = settings, watcher
        self._under_way: set[int] = set()

    def run(self, pool: Pool, trials: int, timeout: float | None) -> None:
        """Run trials until there are enough of them, or time is up."""
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        while True:
            while pool.free and time.monotonic() < until and self._wanted(trials):
                self._begin(pool)
            if not self._under_way:
                return
            for number, outcome in pool.ended(self._report):
                self._under_way.discard(number)
                self._study.tell(number, outcome)
                self._over(number)

    def _wanted(self, trials: int) -> bool:
        return self._study.begun < trials and not self._study.exhausted

    def _begin(self, pool: Pool) -> None:
        asked = self._study.ask()
        source = self._study.same(asked)
        if source is not None:
            self._study.copy(asked.number, source)
            self._over(asked.number)
            return
        settings = with_point(self._settings, asked.point)
        self._under_way.add(asked.number)
        pool.submit(Job(asked.number, settings, self._data, self._folder.run(asked.number)))

    def _report(self, number: int, record: Mapping[str, Any]) -> bool:
        self._watcher.epoch(number, record)
        return self._study.report(number, record)

    def _over(self, number: int) -> None:
        trial = self._study.trial(number)
        if trial is None:
            return  # its process died, and it is run once more
        summary = self._folder.write(self._study.trials(), self._settings)
        self._watcher.trial(trial, summary)
        if trial.start and trial.state == "failed":
            raise TrainingError(
                f"The first trial, with the settings to begin with, failed: {trial.error}",
                "The same command tries it again.",
            )
