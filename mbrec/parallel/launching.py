"""Starting a command once per rank on this machine, and watching over the ranks.

What `torchrun` does, with what a user of one process is used to: one line for an error, the exit
codes of one process, and a signal that saves and stops. No rank outlives the others, or this
process. Needs neither torch nor DGL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from mbrec.errors import RankError, UsageError

MEETING = "MBREC_MEETING"
"""Environment variable: the file by which ranks that were started here find each other."""

LOST = 75
"""Exit code of a rank that ends since another one has (EX_TEMPFAIL of sysexits.h)."""

GRACE = 30.0
"""Seconds that the other ranks get to end by themselves when one has failed."""

_COMMAND = (sys.executable, "-m", "mbrec")
_LAST_GRACE = 5.0  # and then, from SIGTERM to SIGKILL
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_POLL = 0.05  # seconds


def is_rank() -> bool:
    """Whether this process is a rank, started here or by `torchrun`."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def check_ranks(processes: int | None) -> None:
    """Refuse a number of processes that is not that of the team.

    Raises:
        UsageError: It is not.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if processes is not None and processes != ranks:
        raise UsageError(
            f"--processes is {processes} in a team of {ranks}.",
            "Under torchrun, give its --nproc-per-node alone.",
        )


def launch(processes: int, arguments: Sequence[str], remedy: Callable[[], str]) -> int:
    """Run `mbrec ARGUMENTS` in several processes of this machine until all have ended.

    Rank 0 prints; of the others, nothing is shown but the error that ended them. Signals are passed
    on to all.

    Args:
        processes: R.
        arguments: Of the `mbrec` command.
        remedy: What to do when a rank has died, as a sentence.

    Returns:
        The exit code: rank 0's, or that of a signal.

    Raises:
        RankError: A rank has died or failed, and rank 0 has not said why.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with tempfile.TemporaryDirectory(prefix="mbrec-") as folder:
        with _forwarding() as told:
            try:
                for number in range(processes):
                    threads = max(cores // processes, 1)
                    told.add(_Rank.start(number, processes, arguments, Path(folder), threads))
                _watch(told.ranks)
            finally:
                for rank in told.ranks:
                    rank.end()
        return _verdict(told.ranks, told.number, remedy)


@dataclass
class _Rank:
    """One process."""

    number: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes] | None  # what it wrote to standard error; rank 0 writes to ours
    ended_by_us: bool = False
    said: str = ""  # its error line, once it has ended
    asked: bool = False  # to end, by a signal

    @classmethod
    def start(
        cls, number: int, ranks: int, arguments: Sequence[str], folder: Path, threads: int
    ) -> _Rank:
        """Start rank `number` of `ranks`; see `end_with_parent` for how it ends with us.

        Args:
            number: 0 … ranks - 1.
            ranks: How many there are.
            arguments: Of the command.
            folder: Where they meet, and what ranks other than 0 write to standard error is kept.
            threads: Of each, unless the environment says another number.
        """
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            **os.environ,
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(ranks),
            MEETING: str(folder / "meeting"),
        }
        errors = None if number == 0 else (folder / f"{number}.err").open("w+b")
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            env=environment,
            stdin=subprocess.PIPE,  # closes when this process ends, however: see `end_with_parent`
            stdout=None if number == 0 else subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C on the terminal reaches it through us, once
        )
        return cls(number, process, errors)

    @property
    def failed(self) -> bool:
        """Whether it ended, and not as it should or was asked to."""
        code = self.process.poll()
        return code is not None and code not in (0, *_asked())

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self.asked = True
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> None:
        """End it if it still runs, and take down its last words."""
        if self.process.poll() is None:
            self.ended_by_us = True
            self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.errors is None:
            return
        with self.errors as stream:
            stream.seek(0)
            lines = stream.read().decode(errors="replace").splitlines()
        found = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
        self.said = (found or lines or [""])[-1]


@dataclass
class _Told:
    """The signal that came last, and who is told of it."""

    number: int = 0
    ranks: list[_Rank] = field(default_factory=list)

    def add(self, rank: _Rank) -> None:
        """A rank that has started, which may be after the signal came."""
        self.ranks.append(rank)
        # A signal that came since it is in the list has been sent: twice would end it at once.
        if self.number and not rank.asked:
            rank.send(self.number)


@contextmanager
def _forwarding() -> Iterator[_Told]:
    """Within, signals that ask this process to end are passed on to the ranks."""
    told = _Told()

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.number = number
        for rank in told.ranks:
            rank.send(number)

    before: dict[int, Any] = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        # What is ignored stays ignored: `nohup mbrec train …` outlives its terminal.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, pass_on)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(ranks: Sequence[_Rank]) -> None:
    """Wait until all have ended; when one fails, the others soon have to."""
    deadline = None
    while any(rank.process.poll() is None for rank in ranks):
        now = time.monotonic()
        if deadline is None and any(rank.failed for rank in ranks):
            deadline = now + GRACE
        if deadline is not None and now > deadline:
            _end(ranks)
            return
        time.sleep(_POLL)


def _end(ranks: Sequence[_Rank]) -> None:
    running = [rank for rank in ranks if rank.process.poll() is None]
    for rank in running:
        rank.ended_by_us = True
        rank.send(signal.SIGTERM)
    deadline = time.monotonic() + _LAST_GRACE
    while time.monotonic() < deadline and any(rank.process.poll() is None for rank in running):
        time.sleep(_POLL)


def _verdict(ranks: Sequence[_Rank], told: int, remedy: Callable[[], str]) -> int:
    """The exit code, or the error of the rank that failed first."""
    codes = [rank.process.returncode for rank in ranks]
    killed = [r for r in ranks if r.process.returncode < 0 and not r.ended_by_us]
    if told and all(code in (0, *_asked(), -told, LOST) for code in codes):
        return 128 + told
    if killed:
        name = signal.Signals(-killed[0].process.returncode).name
        memory = " (for lack of memory?)" if name == "SIGKILL" else ""
        raise RankError(
            f"Rank {killed[0].number} of {len(ranks)} was ended by {name}{memory}.", remedy()
        )
    if codes[0] not in (0, LOST) and not ranks[0].ended_by_us:
        return int(codes[0])  # it has said why
    for rank in ranks[1:]:
        if rank.process.returncode not in (0, LOST) and not rank.ended_by_us:
            said = rank.said or f"it ended with code {rank.process.returncode}."
            raise RankError(f"Rank {rank.number} of {len(ranks)}: {said}", remedy())
    if any(codes):
        raise RankError(f"The {len(ranks)} ranks have lost each other.", remedy())
    return 0


def _asked() -> tuple[int, ...]:
    """The exit codes of a process that was asked to end."""
    numbers = (getattr(signal, name, None) for name in _SIGNALS)
    return tuple(128 + number for number in numbers if number is not None)


def end_with_parent() -> None:
    """In a rank that `launch` started: ask it to save and end when the process above it is gone."""
    if MEETING not in os.environ:
        return

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="mbrec-parent", daemon=True).start()
