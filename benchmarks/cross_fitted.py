"""What trained BiGEL+ are worth to users whom their stacks were not learned from.

    python benchmarks/cross_fitted.py data/jd runs/plus-1 runs/plus-2 …

The weights are those of the runs; what the parts count is learned anew. NDCG@5 and HR@5 per
behavior and on average, mean ± standard deviation over the runs: cross-fitted, each fifth of the
users ranked by what the other four taught; and NDCG@5 on the rows that a stack was learned from.
Beside each run stand the processor seconds that making the parts and learning the stacks took.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from ingredients import learned, weights
from runs_table import spread

from mbrec import config
from mbrec.dataset import PreparedDataset


def main() -> None:
    """Print a line for every run, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    dataset = PreparedDataset(options.data, ("train", "valid"))
    found: list[dict[str, Any]] = []
    for run in options.runs:
        settings = config.resolve(run / "config.toml")
        trained = weights(dataset, settings, run)
        before = time.process_time()
        found.append(learned(dataset, settings, {}, trained, {}))
        took = f"{time.process_time() - before:.0f} s"
        print(run, {n: summary(stack) for n, stack in found[-1].items()}, took, flush=True)
    for title, number in (
        ("NDCG@5, cross-fitted", lambda stack: stack["cross_fitted_metrics"]["ndcg@5"]),
        ("HR@5, cross-fitted", lambda stack: stack["cross_fitted_metrics"]["hr@5"]),
        ("NDCG@5, on the rows learned from", lambda stack: stack["value"]),
    ):
        rows = [[number(stack) for stack in stacks.values()] for stacks in found]
        columns = zip(*([*row, statistics.mean(row)] for row in rows), strict=True)
        print(f"| {title} |", " | ".join(spread(list(column)) for column in columns), "|")


def summary(stack: dict[str, Any]) -> str:
    """A stack in a few words."""
    network = "a network" if stack["network"] else "no network"
    metrics = stack["cross_fitted_metrics"]
    return f"{metrics['ndcg@5']:.4f} / {metrics['hr@5']:.4f}, {stack['value']:.4f}, {network}"


if __name__ == "__main__":
    main()
