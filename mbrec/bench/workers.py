"""Who runs the cells: this process, or several others that each run one at a time.

A worker that dies (killed for its memory, say) costs the cell it was at, not the bench.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mbrec.bench.cells import explain, failed, run_cell
from mbrec.bench.plan import Cell
from mbrec.bench.store import Store
from mbrec.errors import MbrecError
from mbrec.processes import Crew, TaskWorker, fair_threads, quieter


class Event(NamedTuple):
    """What a cell reports: an epoch, or that it is done."""

    cell: Cell
    done: bool
    epoch: Mapping[str, Any]


class Pool(Protocol):
    """Runs cells."""

    @property
    def free(self) -> int:
        """How many cells may be submitted now."""

    def submit(self, cell: Cell) -> None:
        """Begin a cell."""

    def events(self) -> Iterator[Event]:
        """What happened; waits until something has."""

    def close(self) -> None:
        """End whatever is running; half-trained cells can be gone on with."""


def make_pool(store: Store, jobs: int, keep_runs: bool) -> Pool:
    """Workers for `jobs` cells at a time; 0 runs them in this process, one at a time."""
    return _Workers(store, jobs, keep_runs) if jobs else _Here(store, keep_runs)


class _Here:
    def __init__(self, store: Store, keep_runs: bool) -> None:
        self._store, self._keep = store, keep_runs
        self._cells: deque[Cell] = deque()

    @property
    def free(self) -> int:
        return 1 - len(self._cells)

    def submit(self, cell: Cell) -> None:
        self._cells.append(cell)

    def events(self) -> Iterator[Event]:
        cell = self._cells.popleft()
        with quieter():
            run_cell(cell, self._store, keep_run=self._keep)
        yield Event(cell, done=True, epoch={})

    def close(self) -> None:
        self._cells.clear()


class _Workers:
    def __init__(self, store: Store, jobs: int, keep_runs: bool) -> None:
        self._store, threads = store, fair_threads(jobs)
        given = (store.path, keep_runs, os.getpid())
        self._crew = Crew[Cell](jobs, lambda: TaskWorker(_work, given, threads))

    @property
    def free(self) -> int:
        return self._crew.free

    def submit(self, cell: Cell) -> None:
        self._crew.submit(cell)

    def events(self) -> Iterator[Event]:
        for worker in self._crew.heard():
            cell = worker.task
            assert cell is not None
            try:
                message: dict[str, Any] = worker.pipe.recv()
            except (EOFError, OSError):
                self._store.write(cell, failed(cell, self._crew.bury(worker)))
                message = {"done": True}
            if "raise" in message:
                raise message["raise"]
            if message.get("done"):
                worker.task = None
                self._store.forget(cell)
            yield Event(cell, bool(message.get("done")), message.get("epoch", {}))

    def close(self) -> None:
        self._crew.close()


def _work(pipe: Connection, path: Path, keep: bool, parent: int) -> None:
    """The life of a worker: cells come in, epochs and ends go out."""
    store = Store(path)

    def on_epoch(record: Mapping[str, Any]) -> None:
        if os.getppid() != parent:
            raise SystemExit  # the bench was killed: nobody may train beside the next one
        pipe.send({"epoch": {key: record[key] for key in ("epoch", "valid") if key in record}})

    while True:
        try:
            cell: Cell = pipe.recv()
        except EOFError:
            return
        try:
            run_cell(cell, store, keep_run=keep, on_epoch=on_epoch)
        except OSError as error:
            pipe.send({"raise": MbrecError(f"{explain(error)}", "Then start the bench again.")})
        except MbrecError as error:
            pipe.send({"raise": error})
        else:
            pipe.send({"done": True})
