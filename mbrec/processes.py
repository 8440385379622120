"""Processes that work for this one and share its cores fairly.

They are spawned, never forked: a fork of a process that has used torch's threads may hang. One that
dies (killed for its memory, say) closes its pipe, and only what it was at is lost.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

_GRACE = 10.0  # seconds that a process gets to leave its files in order

T = TypeVar("T")


class Worker:
    """A process and the pipe to it.

    Args:
        target: What it runs, a function of a module: `target(pipe, *args)`.
        args: For `target`; they are pickled.
        threads: How many threads torch gets there.
    """

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        verbosity = logging.getLogger("mbrec").getEffectiveLevel()
        self.process: BaseProcess = context.Process(
            target=_live, args=(target, theirs, args, threads, verbosity), daemon=True
        )
        with _inherited(threads):
            self.process.start()
        theirs.close()  # or the end of the process would not end the pipe

    def end(self) -> str:
        """Wait for the end, force it if need be; says how it came."""
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class TaskWorker(Worker, Generic[T]):
    """A worker that is sent one task at a time."""

    task: T | None = None
    """What it is at."""

    def begin(self, task: T) -> None:
        """Send it a task."""
        self.task = task
        # One that has died meanwhile shows when its answer is waited for.
        with contextlib.suppress(OSError):
            self.pipe.send(task)


class Crew(Generic[T]):
    """Workers that each do one task at a time, started as tasks come.

    Args:
        size: How many at most.
        start: Starts one.
    """

    def __init__(self, size: int, start: Callable[[], TaskWorker[T]]) -> None:
        self._size, self._start = size, start
        self._workers: list[TaskWorker[T]] = []

    @property
    def free(self) -> int:
        """How many tasks may be submitted now."""
        return self._size - sum(worker.task is not None for worker in self._workers)

    def submit(self, task: T) -> None:
        """Begin a task; one worker at least has to be free."""
        if not self.free:
            raise RuntimeError("no worker is free")
        worker = next((worker for worker in self._workers if worker.task is None), None)
        if worker is None:
            worker = self._start()
            self._workers.append(worker)
        worker.begin(task)

    def heard(self) -> list[TaskWorker[T]]:
        """Wait until something comes through a pipe; the workers that it comes from.

        A pipe whose process has died is at its end: reading raises EOFError or OSError.
        """
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        return [busy[pipe] for pipe in wait(list(busy))]  # type: ignore[index]

    def bury(self, worker: TaskWorker[T]) -> str:
        """Forget a worker that has died; says what became of it, in a sentence."""
        self._workers.remove(worker)
        return f"The process ended ({worker.end()}); it may have run out of memory."

    def close(self) -> None:
        """End the processes, at once."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers = []


def fair_threads(jobs: int) -> int:
    """What each of `jobs` processes gets of the cores, or of the threads that the user allows."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores // jobs)
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


@contextlib.contextmanager
def quieter() -> Iterator[None]:
    """What a training warns of is about that run; of hundreds only who asks for it hears it."""
    logger = logging.getLogger("mbrec")
    before = logger.level
    logger.setLevel(_quiet(logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(before)


def _live(
    target: Callable[..., None],
    pipe: Connection,
    args: tuple[Any, ...],
    threads: int,
    verbosity: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mbrec").setLevel(_quiet(verbosity))
    import torch

    torch.set_num_threads(threads)
    target(pipe, *args)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # unwinds: temporary files are removed


def _quiet(level: int) -> int:
    return level if level < logging.WARNING else logging.ERROR


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
