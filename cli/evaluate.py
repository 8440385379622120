"""`mbrec evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.evaluation_tables import beyond_table, metrics_table, sampled_table, slices_table
from mbrec.cli.options import PATH, data_option, ranking_device_option
from mbrec.cli.processes import own_team, processes_option, start_ranks
from mbrec.cli.progress import UserProgress


def _parse_ks(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        ks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ks = ()
    if not ks or ks[0] < 1:
        raise click.BadParameter(f"{text!r} is no list of whole numbers from 1 on, as in 5,10,20.")
    return ks


@click.command("evaluate")
@click.argument("run", type=PATH)
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
@data_option
@ranking_device_option
@click.option(
    "--slices",
    is_flag=True,
    help="Measure explored and new, cold and warm items, users by activity; coverage, novelty, "
    "Gini. Writes slices.<split>.json.",
)
@click.option(
    "--sampled",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rank held-out items among N sampled ones too. NOT COMPARABLE with other figures; writes "
    "evaluation.<split>.sampled<N>.json.",
)
@processes_option("Split the users")
@click.option("--json", "as_json", is_flag=True, help="Print the averages as JSON.")
@click.pass_context
def command(
    context: click.Context,
    /,
    run: Path,
    split: str,
    ks: tuple[int, ...],
    data: Path | None,
    device: str,
    slices: bool,
    sampled: int | None,
    processes: int | None,
    as_json: bool,
) -> None:
    r"""Rank all items for every user and behavior of RUN, and measure the lists.

    The user's training items of the same behavior are left out; all other items are ranked. Writes
    evaluation.<split>.json (averages) and per_user.<split>.parquet into RUN. docs/metrics.md has
    the formulas.

    \b
    mbrec evaluate runs/ub
    mbrec evaluate runs/ub --split valid --k 10,50 --json
    mbrec evaluate runs/ub --slices
    mbrec evaluate runs/ub --processes 4
    """
    start_ranks(context, processes)

    from mbrec.evaluation import evaluate_run

    with own_team(device) as team, UserProgress() as progress:
        evaluation = evaluate_run(
            run,
            split="valid" if split == "valid" else "test",
            ks=ks,
            data=data,
            device=device,
            slices=slices,
            sampled=sampled,
            progress=progress if team.first else None,
            team=team,
        )
    if not team.first:
        return
    summary = evaluation.summary()
    against = evaluation.sampled.summary() if evaluation.sampled else None
    if as_json:
        more = {"slices": evaluation.slices, "sampled": against}
        shown = {**summary, **{name: value for name, value in more.items() if value is not None}}
        show_json(shown)
        return
    blocks = [metrics_table(summary, ks)]
    files = [f"evaluation.{split}.json", f"per_user.{split}.parquet"]
    if evaluation.slices is not None:
        blocks += [slices_table(evaluation.slices, ks[0]), beyond_table(evaluation.slices, ks)]
        files.append(f"slices.{split}.json")
    if against is not None:
        blocks.append(sampled_table(against, ks))
        files.append(f"evaluation.{split}.sampled{sampled}.json")
    show("\n\n".join(blocks))
    show(f"Written to {run}: {', '.join(files)}")
