"""Who runs the trials: this process, or several others that each run one at a time."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from mbrec.errors import StorageError
from mbrec.processes import Worker, fair_threads, quieter
from mbrec.tune.trial import Job, Outcome, run_trial

Decide = Callable[[int, Mapping[str, Any]], bool]
"""Trial number and record of an epoch → whether to end the trial."""


class Pool(Protocol):
    """Runs trials."""

    @property
    def free(self) -> int:
        """How many trials may be submitted now."""

    def submit(self, job: Job) -> None:
        """Begin a trial."""

    def ended(self, decide: Decide) -> list[tuple[int, Outcome]]:
        """Wait until something happens; the trials that are over by then."""

    def close(self) -> None:
        """End whatever is running."""


def make_pool(jobs: int) -> Pool:
    """Processes for `jobs` trials at a time; 0 runs them in this process, one at a time."""
    return _Workers(jobs) if jobs else _Here()


class _Here:
    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    @property
    def free(self) -> int:
        return 1 - len(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def ended(self, decide: Decide) -> list[tuple[int, Outcome]]:
        job = self._jobs.popleft()
        with quieter():
            return [(job.number, run_trial(job, lambda record: decide(job.number, record)))]

    def close(self) -> None:
        self._jobs.clear()


class _Workers:
    def __init__(self, jobs: int) -> None:
        self._threads = fair_threads(jobs)
        self._workers: list[_TrialWorker | None] = [None] * jobs

    @property
    def free(self) -> int:
        return sum(worker is None or worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        for place, worker in enumerate(self._workers):
            if worker is None or worker.job is None:
                if worker is None:
                    worker = self._workers[place] = _TrialWorker(self._threads)
                worker.begin(job)
                return
        raise RuntimeError("no process is free")

    def ended(self, decide: Decide) -> list[tuple[int, Outcome]]:
        busy = {w.pipe: place for place, w in enumerate(self._workers) if w and w.job}
        over = []
        for pipe in wait(list(busy)):
            place = busy[pipe]  # type: ignore[index]
            worker = self._workers[place]
            assert worker is not None and worker.job is not None
            number = worker.job.number
            outcome = worker.hear(decide)
            if outcome is not None:
                over.append((number, outcome))
                worker.job = None
                if outcome.lost:
                    self._workers[place] = None
        return over

    def close(self) -> None:
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()
        self._workers = [None] * len(self._workers)


class _TrialWorker(Worker):
    """A process that runs trials."""

    def __init__(self, threads: int) -> None:
        super().__init__(_work, (os.getpid(),), threads)
        self.job: Job | None = None

    def begin(self, job: Job) -> None:
        self.job = job
        # One that has died meanwhile shows when its answer is waited for.
        with contextlib.suppress(OSError):
            self.pipe.send(job)

    def hear(self, decide: Decide) -> Outcome | None:
        """Answer what the process says; how its trial ended, once it has.

        Raises:
            StorageError: Nothing can be written any more.
        """
        assert self.job is not None
        try:
            message: dict[str, Any] = self.pipe.recv()
            if "epoch" in message:
                self.pipe.send(decide(self.job.number, message["epoch"]))
                return None
        except (EOFError, OSError):
            why = f"The process ended ({self.end()}); it may have run out of memory."
            return Outcome("failed", error=why, lost=True)
        if "raise" in message:
            raise message["raise"]
        outcome: Outcome = message["outcome"]
        return outcome


def _work(pipe: Connection, parent: int) -> None:
    """The life of a process: jobs come in, epochs and outcomes go out."""

    def on_epoch(record: Mapping[str, Any]) -> bool:
        if os.getppid() != parent:
            raise SystemExit  # the search was killed: nobody may train beside the next one
        try:
            pipe.send({"epoch": {key: record[key] for key in ("epoch", "valid") if key in record}})
            return bool(pipe.recv())
        except (EOFError, OSError) as error:
            raise SystemExit from error

    while True:
        try:
            job: Job = pipe.recv()
            outcome = run_trial(job, on_epoch)
        except EOFError:
            return
        except (OSError, StorageError) as error:
            message = error.message if isinstance(error, StorageError) else str(error)
            pipe.send({"raise": StorageError(message, "Make room; the same command goes on.")})
        else:
            pipe.send({"outcome": outcome})
