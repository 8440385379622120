"""Figures that are measured in processes of their own, kept in a file, shown and fitted."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

Figures = dict[str, float]
Row = Mapping[str, Any]  # figures, and in "given" what they are of


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same, noting the processor time of every call."""

    def call(*args: Any) -> Any:
        """Do the work, and note its seconds."""
        start = time.process_time()
        result = work(*args)
        seconds.append(time.process_time() - start)
        return result

    return call


def peak_memory() -> float:
    """GB that this process has taken up to now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@dataclass(frozen=True)
class Kept:
    """Runs a script once for each thing that is to be measured.

    Args:
        script: With `--alone WHAT …` it measures that and prints figures as JSON in its last line.
        memory: GB that it may take, given to it as `--memory`.
        path: Where figures are kept; what is there already is not measured again.
    """

    script: Path
    memory: float
    path: Path | None = None

    def measured(self, *what: object) -> list[Row]:
        """One row, or none where the process fails: for lack of memory, say."""
        told = self.path.read_text().splitlines() if self.path and self.path.exists() else []
        given = list(map(str, what))
        for row in map(json.loads, told):
            if row["given"] == given:
                return [row]
        call = [sys.executable, str(self.script), "--memory", str(self.memory), "--alone", *given]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"Not measured: {' '.join(given)}, with {self.memory:g} GB.", file=sys.stderr)
            return []
        row = {"given": given, **json.loads(done.stdout.splitlines()[-1])}
        print(row, file=sys.stderr)
        if self.path:
            self.path.write_text("\n".join([*told, json.dumps(row), ""]))
        return [row]


def show(rows: Sequence[Row], given: Sequence[str], columns: Sequence[str]) -> None:
    """Print a table.

    Args:
        rows: Its rows.
        given: What to call what is measured, place by place; "" leaves one out.
        columns: Its figures.
    """
    names = [name for name in given if name]
    print("\n|", " | ".join([*names, *columns]), "|")
    print("|", " | ".join(["---"] + ["---:"] * (len(names) + len(columns) - 1)), "|")
    for row in rows:
        of = [value for name, value in zip(given, row["given"], strict=True) if name]
        print("|", " | ".join([*of, *(f"{row[name]:,.4g}" for name in columns)]), "|")


def fit(rows: Sequence[Row], name: str, terms: Sequence[str]) -> None:
    """Print name = Σ constant · term and how far off it is: least squares of relative errors.

    No constant is below 0. A term that is no figure of a row stands for 1.
    """
    wanted = np.array([row[name] for row in rows])
    columns = np.array([[row.get(term, 1.0) for term in terms] for row in rows])
    constants, _ = nnls(columns / wanted[:, None], np.ones(len(wanted)))
    off = np.abs(columns @ constants / wanted - 1)
    formula = " + ".join(f"{c:.3g} {term}" for c, term in zip(constants, terms, strict=True))
    print(f"{name} = {formula}; off by {np.median(off):.0%} (median), {off.max():.0%} (most)")
