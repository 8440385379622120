"""Who runs the trials: this process, or several others that each run one at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

from mbrec.errors import StorageError
from mbrec.processes import Crew, TaskWorker, fair_threads, quieter
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
        threads = fair_threads(jobs)
        self._crew = Crew[Job](jobs, lambda: TaskWorker(_work, (os.getpid(),), threads))

    @property
    def free(self) -> int:
        return self._crew.free

    def submit(self, job: Job) -> None:
        self._crew.submit(job)

    def ended(self, decide: Decide) -> list[tuple[int, Outcome]]:
        over = []
        for worker in self._crew.heard():
            job = worker.task
            assert job is not None
            outcome = self._outcome(worker, job, decide)
            if outcome is not None:
                over.append((job.number, outcome))
                worker.task = None
        return over

    def _outcome(self, worker: TaskWorker[Job], job: Job, decide: Decide) -> Outcome | None:
        """Answer what the process says; how its trial ended, once it has.

        Raises:
            StorageError: Nothing can be written any more.
        """
        try:
            message: dict[str, Any] = worker.pipe.recv()
            if "epoch" in message:
                worker.pipe.send(decide(job.number, message["epoch"]))
                return None
        except (EOFError, OSError):
            return Outcome("failed", error=self._crew.bury(worker), lost=True)
        if "raise" in message:
            raise message["raise"]
        outcome: Outcome = message["outcome"]
        return outcome

    def close(self) -> None:
        self._crew.close()


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
