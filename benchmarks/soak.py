"""Prepare, train, evaluate and export in a loop, in one process, and watch what grows.

    python benchmarks/soak.py --minutes 60

Prints one JSON line per round (resident memory, open files, threads, temporary files, files left
beside the results) and ends with 1 if any of them has grown: see `grown`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mbrec import evaluate_run, export_run, train_run
from mbrec.config import from_dict
from mbrec.data_prep import PrepOptions, prepare
from mbrec.data_prep.synth import SynthOptions, write_log

WARM = 5  # rounds in which libraries fill their caches
GROWTH = 0.05  # of the memory after these, that the rest may add
SMALLEST = 30 << 20  # bytes that count as growth at all


@dataclass(frozen=True)
class Round:
    """What one round left behind."""

    number: int
    seconds: float
    rss: int  # bytes
    open_files: int
    threads: int
    temporary: int  # entries of the folder for temporary files
    left: int  # files in the working folder


def measure(number: int, seconds: float, work: Path, temporary: Path) -> Round:
    """Look at this process and its folders."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Round(
        number,
        round(seconds, 2),
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(list(Path("/proc/self/fd").iterdir())) - 1,
        threading.active_count(),
        sum(1 for _ in temporary.iterdir()),
        sum(1 for _ in work.rglob("*")),
    )


def grown(rounds: Sequence[Round]) -> list[str]:
    """What is larger in the last third of the rounds than right after the first ones."""
    settled = rounds[WARM:]
    third = max(len(settled) // 3, 1)
    early, late = settled[:third], settled[-third:]
    found = []
    before, after = (sorted(r.rss for r in part)[len(part) // 2] for part in (early, late))
    if after - before > max(GROWTH * before, SMALLEST):
        found.append(f"memory: {before >> 20} MiB, then {after >> 20} MiB")
    for name in ("open_files", "threads", "temporary", "left"):
        most, last = (max(getattr(r, name) for r in part) for part in (early, late))
        if last > most:
            found.append(f"{name}: {most}, then {last}")
    return found


def one_round(log: Path, work: Path) -> None:
    """The whole road, over what the last round left."""
    data, run = work / "data", work / "run"
    prepare(PrepOptions("ub", (str(log),), data, min_user=2, force=True))
    train = {"epochs": 2, "batch_size": 2048}
    settings = from_dict({"device": "cpu", "model": {"size": 16}, "train": train})
    train_run(data, run, settings, force=True)
    evaluate_run(run, device="cpu")
    export_run(run, work / "lists.parquet", k=10, device="cpu", force=True)


def soak(minutes: float, work: Path, users: int = 1000) -> list[Round]:
    """Go round until the time is over; at least `WARM` rounds and 3 more."""
    temporary = work / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    log = work / "log.csv"
    write_log(log, SynthOptions(users=users, items=users // 2, events=40 * users))
    rounds: list[Round] = []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end or len(rounds) < WARM + 3:
        started = time.monotonic()
        one_round(log, work)
        rounds.append(measure(len(rounds) + 1, time.monotonic() - started, work, temporary))
        print(json.dumps(asdict(rounds[-1])), flush=True)
    return rounds


def main() -> int:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--users", type=int, default=1000, help="of the synthetic log")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="mbrec-soak-"))
    try:
        rounds = soak(options.minutes, work, options.users)
    finally:
        shutil.rmtree(work)
    found = grown(rounds)
    spent = sum(r.seconds for r in rounds) / 60
    print(f"{len(rounds)} rounds in {spent:.1f} minutes: {'; '.join(found) or 'nothing grew'}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
