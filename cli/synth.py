"""`mbrec synth`: write a synthetic raw log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.options import PATH

if TYPE_CHECKING:
    from mbrec.data_prep.synth import SynthSummary


@click.command()
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["ub", "jd2019", "jd2016"]),
    default="ub",
    show_default=True,
    help="Whose format: UserBehavior, JData 2019 or JData 2016.",
)
@click.option("--users", type=int, default=2_000, show_default=True, help="Number of users.")
@click.option("--items", type=int, default=1_000, show_default=True, help="Size of the catalog.")
@click.option("--events", type=int, default=200_000, show_default=True, help="Number of rows.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same bytes.")
@click.option(
    "--quirks",
    is_flag=True,
    help="Imitate the faults of the real log, too: float ids, repeated rows, empty fields.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    required=True,
    help="Where to write; with the suffix .gz, compressed.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
def command(
    format_name: Any,
    users: int,
    items: int,
    events: int,
    seed: int,
    quirks: bool,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    r"""Write a synthetic raw log with planted preferences.

    The log has the funnel click → favorite → cart → purchase, skewed popularity and activity, and
    drift over time; a model that learns it beats a list of the most popular items by far. It is
    written in blocks: memory does not grow with the number of rows.

    \b
    Example:
      mbrec synth --format ub --users 2000 --items 1000 --events 200000 --out log.csv
    """
    from tqdm import tqdm

    from mbrec.data_prep.synth import SynthOptions, write_log

    options = SynthOptions(format_name, users, items, events, seed, quirks)
    # No bar where nobody watches, nor for a log that is there before it would be seen.
    with tqdm(total=events, unit=" rows", unit_scale=True, delay=1.0, disable=None) as bar:
        summary = write_log(out, options, force=force, progress=bar.update)
    if as_json:
        show_json(summary.to_dict())
    else:
        show(_text(summary))


def _text(summary: SynthSummary) -> str:
    parts = ", ".join(f"{code} {rows:,}" for code, rows in summary.by_code.items())
    return (
        f"{summary.path}: {summary.rows:,} rows ({parts}) of {summary.users:,} users "
        f"and {summary.items:,} items."
    )
