"""Who runs the cells: this process, or several others that each run one at a time.

A worker that dies (killed for its memory, say) costs the cell it was at, not the bench. Workers are
spawned, never forked: a fork of a process that has used torch's threads may hang.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Protocol

from mbrec.bench.cells import explain, failed, run_cell
from mbrec.bench.plan import Cell
from mbrec.bench.store import Store
from mbrec.errors import MbrecError

_GRACE = 10.0  # seconds that a worker gets to leave its files in order


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
        logger = logging.getLogger("mbrec")
        before = logger.level
        logger.setLevel(_quiet(logger.getEffectiveLevel()))
        try:
            run_cell(cell, self._store, keep_run=self._keep)
        finally:
            logger.setLevel(before)
        yield Event(cell, done=True, epoch={})

    def close(self) -> None:
        self._cells.clear()


class _Workers:
    def __init__(self, store: Store, jobs: int, keep_runs: bool) -> None:
        self._store, self._keep = store, keep_runs
        self._threads = _threads(jobs)
        self._workers: list[_Worker | None] = [None] * jobs

    @property
    def free(self) -> int:
        return sum(worker is None or worker.cell is None for worker in self._workers)

    def submit(self, cell: Cell) -> None:
        for place, worker in enumerate(self._workers):
            if worker is None or worker.cell is None:
                if worker is None:
                    worker = _Worker(self._store.path, self._threads, self._keep)
                    self._workers[place] = worker
                worker.begin(cell)
                return
        raise RuntimeError("no worker is free")

    def events(self) -> Iterator[Event]:
        busy = {w.pipe: (p, w) for p, w in enumerate(self._workers) if w and w.cell}
        for pipe in wait(list(busy)):
            place, worker = busy[pipe]  # type: ignore[index]
            cell = worker.cell
            assert cell is not None
            try:
                message: dict[str, Any] = worker.pipe.recv()
            except (EOFError, OSError):
                self._workers[place] = None
                why = f"The process ended ({worker.end()}); it may have run out of memory."
                self._store.write(cell, failed(cell, why))
                message = {"done": True}
            if "raise" in message:
                raise message["raise"]
            if message.get("done"):
                worker.cell = None
                self._store.forget(cell)
            yield Event(cell, bool(message.get("done")), message.get("epoch", {}))

    def close(self) -> None:
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()
        self._workers = [None] * len(self._workers)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, path: Path, threads: int, keep: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        verbosity = logging.getLogger("mbrec").getEffectiveLevel()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, path, threads, keep, verbosity, os.getpid()), daemon=True
        )
        with _inherited(threads):
            self.process.start()
        theirs.close()  # or the end of the worker would not end the pipe
        self.cell: Cell | None = None

    def begin(self, cell: Cell) -> None:
        self.cell = cell
        # A worker that has died meanwhile shows when its answer is waited for.
        with contextlib.suppress(OSError):
            self.pipe.send(cell)

    def end(self) -> str:
        """Wait for the end, force it if need be; says how it came."""
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _work(
    pipe: Connection, path: Path, threads: int, keep: bool, verbosity: int, parent: int
) -> None:
    """The life of a worker: cells come in, epochs and ends go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mbrec").setLevel(_quiet(verbosity))
    import torch

    torch.set_num_threads(threads)
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
        else:
            pipe.send({"done": True})


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # unwinds: temporary files are removed


def _quiet(level: int) -> int:
    """What a training warns of is about that run; of hundreds only who asks for it hears it."""
    return level if level < logging.WARNING else logging.ERROR


def _threads(jobs: int) -> int:
    """A fair share of the cores, or of the threads that the user allows."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores // jobs)
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


@contextlib.contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a process that starts here begins with: its threads, and no ear for Ctrl-C."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
