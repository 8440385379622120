"""`mbrec report`."""

from __future__ import annotations

from pathlib import Path

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.options import PATH, data_option
from mbrec.cli.progress import UserProgress


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=PATH)
@click.option("--out", type=PATH, required=True, help="The HTML file to write.")
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    show_default=True,
    help="The held-out rows that figures and lists are shown on. Choose by valid, report by test.",
)
@data_option
@click.option(
    "--users",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Sample users, shown with their history and lists. Their raw ids stand on the page.",
)
@click.option(
    "--study",
    "studies",
    multiple=True,
    type=PATH,
    help="The folder of a `mbrec tune`: show its trials and what mattered; may be repeated.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    runs: tuple[Path, ...],
    out: Path,
    split: str,
    data: Path | None,
    users: int,
    studies: tuple[Path, ...],
    force: bool,
    as_json: bool,
) -> None:
    r"""Put runs and their data on one HTML page that works offline.

    The data, learning curves, figures with intervals, slices, gates, a map of the items, a few
    users with their lists, settings. Several runs stand side by side; the first is what the others
    are compared with. What `mbrec evaluate` has stored is taken, the rest is measured now; nothing
    is written into the runs. Needs the extra `report`. docs/report.md says how to read it.

    \b
    mbrec report runs/ub --out report.html
    mbrec report runs/mostpop runs/ub --split test --out report.html
    mbrec report runs/ub --study studies/ub --out report.html
    """
    from mbrec.report import write_report

    with UserProgress() as progress:
        report = write_report(
            runs,
            out,
            split="valid" if split == "valid" else "test",
            data=data,
            users=users,
            studies=studies,
            force=force,
            progress=progress,
        )
    if as_json:
        show_json(report.summary())
        return
    of = f"{report.runs} runs" if report.runs > 1 else "1 run"
    show(f"Wrote a report of {of} on {split} rows to {out} ({report.bytes / 1e6:.1f} MB).")
