"""`mbrec export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbrec.cli.console import show, show_json
from mbrec.cli.options import PATH, data_option, ranking_device_option
from mbrec.cli.processes import own_team, processes_option, start_ranks
from mbrec.cli.progress import UserProgress

if TYPE_CHECKING:
    from mbrec.export import Export
    from mbrec.newcomers import NewLists

_LISTS_ONLY = frozenset(
    (
        "--out",
        "--fold-in",
        "--k",
        "--users",
        "--exclude-seen",
        "--data",
        "--device",
        "--processes",
        "--spreadsheet-safe",
    )
)


@click.command("export")
@click.argument("run", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="The file to write: .parquet, .csv or .jsonl (.csv.gz and .jsonl.gz too).",
)
@click.option(
    "--embeddings",
    type=PATH,
    metavar="DIR",
    help="Instead of lists, write the vectors of users and items as .npy, with their ids: their "
    "inner product is the score.",
)
@click.option(
    "--faiss",
    is_flag=True,
    help="With --embeddings: a FAISS flat index of the items of each behavior, too.",
)
@click.option(
    "--fold-in",
    type=PATH,
    metavar="LOG",
    help="Lists for the users of this log whom RUN does not know, from their events. A log like "
    "that of the dataset, or a .csv, .tsv or .parquet with user_id, item_id, behavior and, if it "
    "likes, timestamp.",
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
    type=PATH,
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
@data_option
@ranking_device_option
@click.option(
    "--spreadsheet-safe",
    "spreadsheet",
    is_flag=True,
    help="For CSV that people open in a spreadsheet: ids that begin with = + - @ or a tab get an "
    "apostrophe in front, and cells are quoted, so that none is run as a formula. Without it, ids "
    "are written as they are.",
)
@processes_option("Split the users")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: Path,
    out: Path | None,
    embeddings: Path | None,
    faiss: bool,
    fold_in: Path | None,
    processes: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Write the top-K lists of RUN, with the shop's own ids.

    One row per user, behavior and rank: user_id, behavior, rank (1 is best), item_id, score.
    Users of --users that the run does not know are named and counted. With --embeddings, the
    vectors behind the scores are written instead. With --fold-in, the lists are those of new users.

    \b
    mbrec export runs/ub --k 20 --out lists.parquet
    mbrec export runs/ub --k 5 --behavior purchase --users vip.txt --exclude-seen any --out vip.csv
    mbrec export runs/ub --embeddings vectors
    mbrec export runs/ub --fold-in today.csv --out new.parquet
    """
    options["behaviors"] = options["behaviors"] or None
    _check_combination(ctx, out, embeddings)
    if embeddings is not None:
        _write_embeddings(run, embeddings, faiss, as_json, options)
        return
    assert out is not None  # or `_check_combination` had complained
    if fold_in is not None:
        _write_new_lists(run, out, fold_in, as_json, options)
        return
    start_ranks(ctx, processes)
    from mbrec.export import export_run

    with own_team(options["device"]) as team, UserProgress() as progress:
        shown = progress if team.first else None
        export = export_run(run, out, progress=shown, team=team, **options)
    if not team.first:
        return
    if as_json:
        show_json(export.summary())
        return
    show(_sentence(export))


def _check_combination(ctx: click.Context, out: Path | None, embeddings: Path | None) -> None:
    """Refuse options that would be passed over in silence."""
    given = {
        parameter.opts[0]
        for parameter in ctx.command.params
        if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    }
    if out is None and embeddings is None:
        raise click.UsageError("Missing option '--out' (or '--embeddings').", ctx)
    if embeddings is None and "--faiss" in given:
        raise click.UsageError("--faiss goes with --embeddings.", ctx)
    if {"--fold-in", "--users"} <= given:
        raise click.UsageError("--fold-in does not go with --users.", ctx)
    if {"--fold-in", "--processes"} <= given:
        raise click.UsageError("--fold-in does not go with --processes.", ctx)
    foreign = sorted((given & _LISTS_ONLY) if embeddings is not None else ())
    if foreign:
        raise click.UsageError(f"--embeddings does not go with {', '.join(foreign)}.", ctx)


def _write_embeddings(
    run: Path, out: Path, faiss: bool, as_json: bool, options: dict[str, Any]
) -> None:
    from mbrec.embeddings import export_embeddings

    written = export_embeddings(
        run, out, behaviors=options["behaviors"], faiss=faiss, force=options["force"]
    )
    if as_json:
        show_json(written.summary())
        return
    sizes = ", ".join(f"{name} ({size})" for name, size in written.sizes.items())
    show(
        f"Wrote the vectors of {written.users:,} users and {written.items:,} items to "
        f"{written.path}: {sizes}. Their inner product is the score."
    )


def _write_new_lists(
    run: Path, out: Path, log: Path, as_json: bool, options: dict[str, Any]
) -> None:
    from mbrec.data_prep.events import read_events
    from mbrec.export import open_lists
    from mbrec.files import refuse_loss
    from mbrec.newcomers import export_new_users
    from mbrec.run import Run

    del options["users"]
    open_lists(out, force=options["force"], spreadsheet=options["spreadsheet"])
    refuse_loss(out, [log])
    trained = Run(run)
    dataset = trained.dataset(options["data"], splits=("train",))
    events = read_events(log, trained.behaviors, dataset.manifest)
    with UserProgress() as progress:
        lists = export_new_users(run, out, events.table, progress=progress, **options)
    if as_json:
        show_json({**lists.summary(), "log_rows": events.rows, "rejected": events.rejected})
        return
    rejected = [f"{rows:,} rows of the log: {reason}" for reason, rows in events.rejected.items()]
    show("\n".join([_new_sentence(lists), *rejected]))


def _new_sentence(lists: NewLists) -> str:
    said = [
        f"Wrote {lists.rows:,} rows to {lists.path}: the best {lists.k} items for each of "
        f"{lists.users:,} new users in {', '.join(lists.behaviors)}."
    ]
    if lists.known_users:
        said.append(f"{lists.known_users:,} users of the log are known and have no list here.")
    if lists.lost_events:
        said.append(
            f"{lists.lost_events:,} events of new users are of {lists.unknown_items:,} items that "
            f"the run does not know; {lists.lost_users:,} users have no others and no list."
        )
    return "\n".join(said)


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
