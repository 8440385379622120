"""How many requests are scored at a time, and how many may wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

Result = TypeVar("Result")


class BusyError(Exception):
    """As many requests wait as may wait."""


class Gate:
    """Runs work in threads, so many at a time; others wait, up to a number, or are refused.

    Args:
        workers: Threads that work at a time.
        queue: Requests that may wait for one.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._limiter = anyio.CapacityLimiter(workers)
        self._room = workers + queue
        self._inside = 0  # only the event loop's thread changes it

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do `work` in a thread.

        Raises:
            BusyError: The queue is full.
        """
        if self._inside >= self._room:
            raise BusyError
        self._inside += 1
        try:
            return await run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1
