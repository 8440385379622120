"""`mbrec evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from mbrec.cli.progress import UserProgress

_TITLES = {
    "hr": "HR",
    "ndcg": "NDCG",
    "recall": "Recall",
    "precision": "Precision",
    "mrr": "MRR",
    "map": "MAP",
}


def _parse_ks(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        ks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ks = ()
    if not ks or ks[0] < 1:
        raise click.BadParameter(f"{text!r} is no list of whole numbers from 1 on, as in 5,10,20.")
    return ks


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="test",
    show_default=True,
    help="The held-out rows to measure on.",
)
@click.option(
    "--k",
    "ks",
    default="5,10,20",
    show_default=True,
    callback=_parse_ks,
    metavar="K,K,…",
    help="List lengths.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The prepared dataset.  [default: where it was at training]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to rank; auto takes CUDA where there is one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the averages as JSON.")
def command(
    run: Path, split: str, ks: tuple[int, ...], data: Path | None, device: str, as_json: bool
) -> None:
    r"""Rank all items for every user and behavior of RUN, and measure the lists.

    The user's training items of the same behavior are left out; all other items are ranked. Writes
    evaluation.<split>.json (averages) and per_user.<split>.parquet into RUN. docs/metrics.md has
    the formulas.

    \b
    mbrec evaluate runs/ub
    mbrec evaluate runs/ub --split valid --k 10,50 --json
    """
    from mbrec.evaluation import evaluate_run

    with UserProgress() as progress:
        evaluation = evaluate_run(
            run,
            split="valid" if split == "valid" else "test",
            ks=ks,
            data=data,
            device=device,
            progress=progress,
        )
    summary = evaluation.summary()
    if as_json:
        import json

        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    click.echo(metrics_table(summary, ks))
    click.echo(f"Written to {run}: evaluation.{split}.json, per_user.{split}.parquet")


def metrics_table(summary: dict[str, Any], ks: Sequence[int]) -> str:
    """The averages as text: one block per list length, one line per behavior."""
    rows = {**summary["behaviors"], "macro": summary["macro"]}
    first = max(len(name) for name in [*rows, f"K = {max(ks)}"])
    lines = [f"Averages over users, {summary['split']} rows"]
    for k in ks:
        lines += ["", f"{f'K = {k}':<{first}}{'users':>9}{_cells(_TITLES.values())}"]
        for name, row in rows.items():
            values = (row[f"{metric}@{k}"] for metric in _TITLES)
            shown = _cells("-" if value is None else f"{value:.4f}" for value in values)
            lines.append(f"{name:<{first}}{row.get('users', ''):>9}{shown}")
    return "\n".join(lines)


def _cells(texts: Iterable[str]) -> str:
    widths = (max(len(title), 6) + 2 for title in _TITLES.values())
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
