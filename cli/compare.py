"""`mbrec compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.options import PATH


@click.command("compare")
@click.argument("run_a", type=PATH)
@click.argument("run_b", type=PATH)
@click.option(
    "--metric",
    default="ndcg@5",
    show_default=True,
    help="hr, ndcg, recall, precision, mrr or map, at a list length that both were evaluated with.",
)
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="test",
    show_default=True,
    help="The held-out rows that both were measured on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(run_a: Path, run_b: Path, metric: str, split: str, as_json: bool) -> None:
    r"""Say, per behavior, which of two runs is better, and whether that can be chance.

    Both must be on the same dataset, and evaluated: the figures that `mbrec evaluate` keeps of
    every user are paired. Shown are the means, their difference A - B with a 95 % bootstrap
    interval, and the p values of Wilcoxon's signed-rank test and the paired t test, Holm-corrected
    over behaviors. docs/metrics.md says what each of them means.

    \b
    mbrec evaluate runs/a
    mbrec evaluate runs/b
    mbrec compare runs/a runs/b --metric ndcg@10
    """
    from mbrec.comparison import compare_runs

    comparison = compare_runs(
        run_a, run_b, metric=metric, split="valid" if split == "valid" else "test"
    )
    summary = comparison.summary()
    if as_json:
        show_json(summary)
        return
    show(comparison_table(summary))
    show()
    for row in summary["behaviors"].values():
        show(row["sentence"])
    for behavior in summary["missing"]:
        show(f"{behavior}: no {split} rows in both runs.")
    show(summary["sentence"])


def comparison_table(summary: dict[str, Any]) -> str:
    """The figures as text: one line per behavior, and their mean over behaviors."""
    first = max(len("macro"), *(len(name) for name in summary["behaviors"]))
    lines = [_origin("A", summary["a"]), _origin("B", summary["b"]), ""]
    lines.append(f"{summary['metric'].upper()} on {summary['split']} rows, p Holm-corrected")
    lines.append(
        f"{'':<{first}}{'users':>8}{'A':>8}{'B':>8}{'A - B':>9}{'95 % interval':>19}"
        f"{'Wilcoxon':>10}{'t':>7}"
    )
    for name, row in summary["behaviors"].items():
        interval = f"{row['low']:+.4f} {row['high']:+.4f}"
        lines.append(
            f"{name:<{first}}{row['n']:>8}{_means(row)}{interval:>19}"
            f"{_p(row['p_wilcoxon_holm']):>10}{_p(row['p_t_holm']):>7}"
        )
    lines.append(f"{'macro':<{first}}{'':>8}{_means(summary['macro'])}")
    return "\n".join(lines)


def _origin(letter: str, run: dict[str, Any]) -> str:
    return f"{letter}: {run['path']} ({run['model']}, seed {run['seed']})"


def _means(row: dict[str, Any]) -> str:
    return f"{row['mean_a']:>8.4f}{row['mean_b']:>8.4f}{row['difference']:>+9.4f}"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"
