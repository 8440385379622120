"""`mbrec export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.progress import UserProgress

if TYPE_CHECKING:
    from mbrec.export import ExcludeSeen, Export


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to write: .parquet, .csv or .jsonl (.csv.gz and .jsonl.gz too).",
)
@click.option(
    "--k",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Length of the lists.",
)
@click.option(
    "--behavior",
    "behaviors",
    multiple=True,
    metavar="B",
    help="Only this behavior; may be repeated.  [default: all]",
)
@click.option(
    "--users",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Only these users: one id per line, or a .csv or .parquet with a column user_id.  "
    "[default: all]",
)
@click.option(
    "--exclude-seen",
    type=click.Choice(["same", "any", "none"]),
    default="same",
    show_default=True,
    help="Leave out what the user has done before, in any split: in the list's own behavior "
    "(same), in any behavior (any), or nothing (none).",
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
@click.option(
    "--spreadsheet-safe",
    "spreadsheet",
    is_flag=True,
    help="For CSV that people open in a spreadsheet: ids that begin with = + - @ or a tab get an "
    "apostrophe in front, and cells are quoted, so that none is run as a formula. Without it, ids "
    "are written as they are.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    run: Path,
    out: Path,
    k: int,
    behaviors: tuple[str, ...],
    users: Path | None,
    exclude_seen: ExcludeSeen,
    data: Path | None,
    device: str,
    spreadsheet: bool,
    force: bool,
    as_json: bool,
) -> None:
    r"""Write the top-K lists of RUN, with the shop's own ids.

    One row per user, behavior and rank: user_id, behavior, rank (1 is best), item_id, score.
    Users of --users that the run does not know are named and counted.

    \b
    mbrec export runs/ub --k 20 --out lists.parquet
    mbrec export runs/ub --k 5 --behavior purchase --users vip.txt --exclude-seen any --out vip.csv
    """
    from mbrec.export import export_run

    with UserProgress() as progress:
        export = export_run(
            run,
            out,
            k=k,
            behaviors=behaviors or None,
            users=users,
            exclude_seen=exclude_seen,
            data=data,
            device=device,
            spreadsheet=spreadsheet,
            force=force,
            progress=progress,
        )
    if as_json:
        show_json(export.summary())
        return
    show(_sentence(export))


def _sentence(export: Export) -> str:
    lines = (
        f"Wrote {export.rows:,} rows to {export.path}: the best {export.k} items for each of "
        f"{export.users:,} users in {', '.join(export.behaviors)}."
    )
    if export.short_lists:
        lines += f"\n{export.short_lists:,} lists are shorter: no more items were left."
    if export.unknown_users:
        lines += f"\n{len(export.unknown_users):,} users of --users are unknown and have no list."
    return lines
