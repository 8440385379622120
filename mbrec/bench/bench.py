"""A bench from its plan to its tables: what is not done yet is run, in any number of sittings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from mbrec.bench.markdown import write_tables
from mbrec.bench.plan import Cell, make_plan
from mbrec.bench.results import write_results
from mbrec.bench.schedule import Schedule, Standing
from mbrec.bench.spec import BenchSpec
from mbrec.bench.store import Record, Store
from mbrec.bench.tables import Sheet
from mbrec.bench.workers import Event, make_pool
from mbrec.errors import ArtefactError


class Watcher(Protocol):
    """Is told how a bench goes."""

    def epoch(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """A training has finished an epoch."""

    def cell(self, cell: Cell, record: Record, standing: Standing) -> None:
        """A cell is done."""


class Quiet:
    """A watcher that does nothing."""

    def epoch(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def cell(self, cell: Cell, record: Record, standing: Standing) -> None:
        """Nothing."""


def run_bench(
    spec: BenchSpec,
    out: Path,
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    keep_runs: bool = False,
    retry: bool = False,
    run: bool = True,
    watcher: Watcher | None = None,
) -> list[Sheet]:
    """Run what a bench has not run yet, and write its results and tables.

    However it ends, by an interrupt too, what is finished counts: the same call goes on.

    Args:
        spec: The bench.
        out: Its folder.
        jobs: Cells at a time, in processes of their own; 0: one at a time in this process.
        only: The rows to run; all if empty. The tables hold all that is there.
        keep_runs: Leave finished runs in `runs/`.
        retry: Run failed cells again.
        run: False to make results and tables only.
        watcher: Is told how it goes.

    Returns:
        What the tables show.

    Raises:
        UsageError: The bench does not fit the datasets or methods, or `out` is in use.
        ArtefactError: A dataset or `out` is damaged.
    """
    lanes, store = make_plan(spec), Store(out)
    schedule = Schedule(lanes, store, only, retry, jobs)
    whole = Schedule(lanes, store)
    with store.opened({"bench": spec.model_dump(mode="json")}):
        try:
            if run:
                _run(schedule, whole, jobs, keep_runs, watcher or Quiet())
        finally:
            sheets = _write(whole)
    return sheets


def _run(schedule: Schedule, whole: Schedule, jobs: int, keep_runs: bool, watcher: Watcher) -> None:
    running: dict[str, Cell] = {}
    with closing(make_pool(schedule.store, jobs, keep_runs)) as pool:
        while True:
            waiting = (cell for cell in schedule.ready() if cell.key not in running)
            for cell in itertools.islice(waiting, pool.free):
                running[cell.key] = cell
                pool.submit(cell)
            if not running:
                return
            for event in pool.events():
                if event.done:
                    del running[event.cell.key]
                _tell(event, schedule, watcher)
                if event.done and event.cell.phase == "final":
                    _write(whole)  # for who looks in before the end


def _tell(event: Event, schedule: Schedule, watcher: Watcher) -> None:
    if not event.done:
        watcher.epoch(event.cell, event.epoch)
        return
    schedule.done(event.cell)
    record = schedule.record(event.cell)
    if record is None:
        raise ArtefactError(
            f"The record of {event.cell.label} does not fit: its process ran another mbrec.",
            "The installation has changed since the bench began; start it again.",
        )
    watcher.cell(event.cell, record, schedule.standing())


def _write(schedule: Schedule) -> list[Sheet]:
    write_results(schedule)
    return write_tables(schedule.lanes[0].spec, schedule.store)
