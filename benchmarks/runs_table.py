"""A Markdown table of finished runs: mean ± deviation over seeds, on the validation part.

    python benchmarks/runs_table.py --row full runs/full-* --row "no CPA" runs/no-cpa-*

The figures are those that training wrote into run.json for the weights it kept.
"""

from __future__ import annotations

import argparse
import statistics

from mbrec.run import Run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--row", nargs="+", action="append", required=True, metavar=("NAME RUN", "RUN")
    )
    parser.add_argument("--metric", action="append", default=[])
    options = parser.parse_args()
    metrics = options.metric or ["ndcg@5"]
    header: list[str] | None = None
    for name, *paths in options.row:
        runs = [Run(path) for path in paths]
        behaviors = [*runs[0].behaviors, "macro"]
        if header is None:
            header = [f"{behavior} {metric}" for behavior in behaviors for metric in metrics]
            print("| |", " | ".join(header), "| seeds | epochs | minutes |")
            print("| --- |" + " ---: |" * (len(header) + 3))
        cells = [spread(values(runs, b, metric)) for b in behaviors for metric in metrics]
        epochs = spread([run.info.get("best_epoch", 0) for run in runs], digits=0)
        minutes = spread([run.info.get("seconds", 0) / 60 for run in runs], digits=1)
        print(f"| {name} |", " | ".join(cells), f"| {len(runs)} | {epochs} | {minutes} |")


def values(runs: list[Run], behavior: str, metric: str) -> list[float]:
    """A validation metric of every run, of one behavior or the mean over all ("macro")."""
    valid = [run.info["valid"] for run in runs]
    tables = [v["macro"] if behavior == "macro" else v["behaviors"][behavior] for v in valid]
    return [table[metric] for table in tables]


def spread(numbers: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation (n - 1), as text; the mean alone of one number."""
    mean = f"{statistics.mean(numbers):.{digits}f}"
    if len(numbers) < 2 or digits == 0:
        return mean
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


if __name__ == "__main__":
    main()
