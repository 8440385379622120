"""Timing in turns: what every benchmark here shares.

Each turn runs all contenders one after the other, so that a busy machine slows them alike, and in
another order every time, since one may leave the caches to the next as that would not have them.
Medians over the turns are compared. A goal is stated beside the ratio, and never a reason to fail.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """How long it takes, once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Times:
    """Seconds of every contender, turn by turn."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median turn, in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median of `name` divided by that of `to`."""
        return self.median(name) / self.median(to)

    def show(self, ours: str, unit: float = 1e-3, label: str = "ms") -> None:
        """One line per contender: median, fastest, and how many times ours either takes."""
        print(f"| what | median {label} | best {label} | × {ours} | × {ours}, best |")
        print("| --- | ---: | ---: | ---: | ---: |")
        least = min(self.seconds[ours])
        for name, values in self.seconds.items():
            median, best = self.median(name) / unit, min(values) / unit
            ratio, of_best = self.ratio(name, ours), min(values) / least
            print(f"| {name} | {median:.2f} | {best:.2f} | {ratio:.2f} | {of_best:.2f} |")


def in_turns(contenders: Mapping[str, Work], turns: int, *, warm: int = 1) -> Times:
    """Time all contenders `turns` times in turn, after `warm` untimed turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, random = list(contenders), Random(0)
    for turn in range(-warm, turns):
        random.shuffle(order)
        for name in order:
            taken = seconds(contenders[name])
            if turn >= 0:
                times[name].append(taken)
    return Times(times)


def goal(what: str, value: float, limit: float, *, at_most: bool = False) -> None:
    """Print a ratio beside its goal."""
    met = value <= limit if at_most else value >= limit
    sign = "≤" if at_most else "≥"
    print(f"{what}: {value:.2f} (goal {sign} {limit:g}: {'met' if met else 'not met'})")


def machine() -> str:
    """What the figures were measured on, in one line."""
    import torch

    name = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    load = f"{os.getloadavg()[0]:.1f}"
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory} GiB, "
        f"torch {torch.__version__}, Python {platform.python_version()}, load {load}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
