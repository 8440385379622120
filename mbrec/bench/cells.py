"""One cell of a bench: train, measure, keep the figures, delete the run."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbrec import config as configuration
from mbrec.bench.plan import CELL_SCHEMA, Cell
from mbrec.bench.store import Record, Store
from mbrec.columns import BEHAVIOR, USER_IDX
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import (
    ArtefactError,
    BusyError,
    MbrecError,
    StoppedError,
    StorageError,
    UsageError,
)
from mbrec.evaluation import Evaluation, evaluate_run
from mbrec.files import atomic_path
from mbrec.run import CHECKPOINTS, METRICS, RUN, Run
from mbrec.trainer import LAST, Silent
from mbrec.training import train_run

OnEpoch = Callable[[Mapping[str, Any]], None]

log = logging.getLogger(__name__)


class TimeUp(Exception):  # noqa: N818  (no error: the end of a budget)
    """The run has had its `max_seconds`; `epoch` is the last that is saved."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"after epoch {epoch}")
        self.epoch = epoch


def run_cell(
    cell: Cell, store: Store, *, keep_run: bool = False, on_epoch: OnEpoch | None = None
) -> Record:
    """Train and measure a cell, or go on with it, and write its record.

    A method that fails gives a record that says so; what is wrong with the disk or the dataset,
    or an interrupt, is raised, and the cell stays to be done.

    Args:
        cell: What to run.
        store: The bench's folder.
        keep_run: Leave the run in `runs/`.
        on_epoch: Is told of every epoch.

    Raises:
        StorageError, OSError: The disk is full, or cannot be written to.
        ArtefactError: The dataset has gone, or is damaged.
        BusyError: Another process trains this cell.
        StoppedError: The training was asked to stop.
    """
    started = time.perf_counter()
    record = _identity(cell)
    try:
        run, ended_by = _trained(cell, store.run(cell), on_epoch)
        measured = _measured(cell, run, store)
        record.update(_course(run), status="finished", ended_by=ended_by, measured=measured)
    except (OSError, StorageError, StoppedError, BusyError):
        raise
    except Exception as error:
        PreparedDataset(cell.dataset.path, ())  # has it gone? That is no fault of the method.
        log.info("%s failed", cell.label, exc_info=True)
        record.update(status="failed", error=explain(error))
    record["wall_seconds"] = round(time.perf_counter() - started, 3)
    if not keep_run:
        shutil.rmtree(store.run(cell), ignore_errors=True)
    store.write(cell, record)
    return record


def failed(cell: Cell, why: str) -> Record:
    """The record of a cell that could not even say why it failed."""
    return {**_identity(cell), "status": "failed", "error": why, "wall_seconds": 0.0}


def explain(error: BaseException) -> str:
    """One line for a table."""
    if isinstance(error, MbrecError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "Out of memory."
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _identity(cell: Cell) -> dict[str, Any]:
    settings = cell.settings
    return {
        "schema_version": CELL_SCHEMA,
        "dataset": cell.dataset.name,
        "dataset_hash": cell.dataset.content_hash,
        "method": settings.method,
        "seed": cell.seed,
        "settings": configuration.flat(settings.to_dict()),
        "max_seconds": cell.max_seconds,
    }


def _trained(cell: Cell, out: Path, on_epoch: OnEpoch | None) -> tuple[Run, str]:
    """The finished run of a cell, and what ended its training if that was not the training."""
    settings = cell.settings
    try:
        return _train(cell, out, settings, on_epoch), ""
    except TimeUp as end:
        # The best epoch so far becomes the result: the training is over once `epochs` is reached.
        short = settings.train.model_copy(update={"epochs": end.epoch})
        settings = settings.model_copy(update={"train": short})
        log.info("%s stops: max_seconds are over %s", cell.label, end)
        return train_run(cell.dataset.path, out, settings, resume=True), "max_seconds"


def _train(cell: Cell, out: Path, settings: Settings, on_epoch: OnEpoch | None) -> Run:
    if (out / CHECKPOINTS / LAST).is_file() and (out / RUN).is_file():
        clock = _Clock(cell.max_seconds, settings, on_epoch)
        try:
            for epoch in _journal(out / METRICS):
                clock.count(epoch)
            return train_run(cell.dataset.path, out, settings, resume=True, observer=clock)
        except BusyError:
            raise  # what another process trains is not ours to delete
        except (ArtefactError, UsageError) as error:
            log.info("%s starts anew: %s", cell.label, error.message)
    shutil.rmtree(out, ignore_errors=True)  # in the bench's own folder
    clock = _Clock(cell.max_seconds, settings, on_epoch)
    return train_run(cell.dataset.path, out, settings, observer=clock)


class _Clock(Silent):
    """Passes epochs on, and ends the training when its time is over."""

    def __init__(self, most: float, settings: Settings, on_epoch: OnEpoch | None) -> None:
        self._most, self._on_epoch, self._train = most, on_epoch, settings.train
        self._seconds = 0.0

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done."""
        if self._on_epoch is not None:
            self._on_epoch(record)
        self.count(record)

    def count(self, record: Mapping[str, Any]) -> None:
        """Count the epoch's training time; stop at an epoch that is saved."""
        self._seconds += float(record["seconds"])
        epoch = int(record["epoch"])
        saved = epoch % self._train.eval_every == 0
        if self._most and saved and self._seconds >= self._most and epoch < self._train.epochs:
            raise TimeUp(epoch)


def _journal(path: Path) -> list[dict[str, Any]]:
    """The epochs of a training that was interrupted."""
    epochs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            epochs.append({key: float(record[key]) for key in ("epoch", "seconds")})
        except (ValueError, KeyError, TypeError):
            break  # a line that was cut when the process died
    return epochs


def _measured(cell: Cell, run: Run, store: Store) -> dict[str, Any]:
    """Split → averages per behavior and macro; the reported split per user into its file."""
    measured: dict[str, Any] = {}
    for split in cell.splits:
        data, device = cell.dataset.path, cell.settings.device
        evaluation = evaluate_run(run.path, split=split, ks=cell.ks, data=data, device=device)
        summary = evaluation.summary()
        measured[split] = {"behaviors": summary["behaviors"], "macro": summary["macro"]}
        if split == cell.dataset.report:
            with atomic_path(store.users(cell.key)) as temporary:
                pq.write_table(_per_user(evaluation, cell), temporary, compression="zstd")
    return measured


def _per_user(evaluation: Evaluation, cell: Cell) -> pa.Table:
    """One row per behavior and user: user_idx, behavior, the wanted metrics."""
    return pa.concat_tables(
        pa.table(
            {
                USER_IDX: pa.array(result.user_idx, pa.int32()),
                BEHAVIOR: pa.repeat(pa.scalar(behavior), len(result.user_idx)),
                **{name: result.values[name] for name in cell.metrics},
            }
        )
        for behavior, result in evaluation.results.items()
    )


def _course(run: Run) -> dict[str, Any]:
    """How training went; no `epochs` for a method that does not train."""
    names = ("epochs", "best_epoch", "seconds", "device", "threads", "versions", "started")
    found = {name: run.info[name] for name in names if name in run.info}
    return {**found, "order": list(run.behaviors)}
