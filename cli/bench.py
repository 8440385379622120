"""`mbrec bench`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import printable, show, show_json
from mbrec.cli.options import PATH

if TYPE_CHECKING:
    from mbrec.bench.plan import Cell
    from mbrec.bench.schedule import Schedule, Standing


@click.command("bench")
@click.argument("bench", required=False)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Where a dataset of the bench is; may be repeated.",
)
@click.option(
    "--out",
    type=PATH,
    help="The bench's folder; what is in it already counts.  [default: runs/bench-<name>]",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Runs at a time, each in a process with its share of the cores; 0: in this process.",
)
@click.option("--only", multiple=True, metavar="METHOD", help="Run this row only; repeatable.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of all runs, or trials, seeds, report, metrics, …; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would run, and how long it would take.")
@click.option("--table-only", is_flag=True, help="Only make the tables of what is there.")
@click.option("--retry-failed", is_flag=True, help="Run what has failed once more.")
@click.option("--keep-runs", is_flag=True, help="Keep all runs; by default only their figures.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option("--list", "list_", is_flag=True, help="Name the benches that come with mbrec.")
def command(
    bench: str | None,
    data: tuple[str, ...],
    out: Path | None,
    jobs: int,
    only: tuple[str, ...],
    overrides: tuple[str, ...],
    dry_run: bool,
    table_only: bool,
    retry_failed: bool,
    keep_runs: bool,
    as_json: bool,
    list_: bool,
) -> None:
    r"""Compare methods: BENCH is a TOML file, or the name of a bench that comes with mbrec.

    For every dataset and method, settings are searched on validation under the same budget, then
    the best are run with several seeds. What is finished is never run again, and a training that
    was interrupted goes on: stop it at any time, and start it again with the same command.
    docs/bench.md says what a BENCH may hold and what the tables mean.

    \b
    mbrec bench jd --data jd=data/jd --dry-run
    mbrec bench jd --data jd=data/jd --out runs/bench-jd --jobs 2
    mbrec bench my.toml --set seeds=[1,2] --set train.epochs=20
    """
    if list_:
        from mbrec.bench.presets import describe_presets

        for name, line in describe_presets():
            show(f"{name:<16}{line}")
        return
    if bench is None:
        raise click.UsageError("Missing argument 'BENCH': a TOML file, or a name of --list.")
    from mbrec.bench.bench import run_bench
    from mbrec.bench.markdown import markdown
    from mbrec.bench.presets import find_bench
    from mbrec.bench.spec import load_spec
    from mbrec.bench.tables import csv_rows

    file = find_bench(bench)
    spec = load_spec(file, overrides, data)
    out = out or Path("runs") / f"bench-{spec.name}"
    if dry_run:
        show(_plan(_schedule(spec, out, only, retry_failed, jobs)))
        return
    with closing(_Watcher()) as watcher:
        sheets = run_bench(
            spec,
            out,
            jobs=jobs,
            only=only,
            keep_runs=keep_runs,
            retry=retry_failed,
            run=not table_only,
            watcher=watcher,
        )
    if as_json:
        show_json(csv_rows(sheets))
        return
    show(markdown(spec, sheets), nl=False)
    show(f"Written to {out}: results.parquet, table.md, table.csv", err=True)


def _schedule(spec: Any, out: Path, only: tuple[str, ...], retry: bool, jobs: int) -> Schedule:
    from mbrec.bench.plan import make_plan
    from mbrec.bench.schedule import Schedule
    from mbrec.bench.store import Store

    return Schedule(make_plan(spec), Store(out), only, retry, jobs)


def _plan(schedule: Schedule) -> str:
    first = max(len(lane.label) for lane in schedule.lanes)
    lines = []
    for lane in schedule.lanes:
        name = f"{lane.dataset.name}  {lane.label:<{first}}"
        if lane.error:
            lines.append(f"{name}  {lane.error}")
            continue
        trials, seeds = lane.trials(), len(lane.spec.seeds)
        done = sum(schedule.record(cell) is not None for cell in trials)
        searched = f"{len(trials)} trials ({done} done), " if trials else ""
        alone = f" on {lane.alone} alone" if lane.alone else ""
        lines.append(f"{name}  {searched}{seeds} seeds{alone}")
        lines += [f"    {_point(cell)}" for cell in trials]
    standing = schedule.standing()
    left = standing.total - standing.done
    lines.append(f"{standing.total} runs at most, {standing.done} done, {left} left.")
    if left:
        lines.append(f"Time left: {_duration(standing.seconds_left)}.")
    return "\n".join(lines)


def _point(cell: Cell) -> str:
    import json

    return ", ".join(f"{k} = {json.dumps(v)}" for k, v in cell.point.items()) or "defaults"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "known after the first run"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"


class _Watcher:
    """One line per run on stderr; on a terminal also the epochs of the running ones."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            disable=not sys.stderr.isatty(), leave=False, file=sys.stderr, bar_format="{desc}"
        )
        self._running: dict[str, str] = {}

    def epoch(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Show that a run is alive."""
        self._running[cell.key] = f"{cell.label} epoch {int(record['epoch'])}"
        self._bar.set_description_str(printable("  ".join(self._running.values())))

    def cell(self, cell: Cell, record: Mapping[str, Any], standing: Standing) -> None:
        """Print the run's line."""
        from tqdm import tqdm

        self._running.pop(cell.key, None)
        what = f"trial {cell.trial + 1}" if cell.phase == "trial" else "final"
        if record["status"] == "failed":
            result = f"failed: {record['error']}"
        else:
            values = record["measured"]["valid"]["macro"]
            select = cell.settings.train.metric
            result = f"valid {select} {values[select]:.4f}"
        tqdm.write(
            printable(
                f"[{standing.done}/{standing.total}] {cell.dataset.name}  {cell.label}  {what} "
                f"({_point(cell)}), seed {cell.seed}  {result}  {record['wall_seconds']:.1f} s  "
                f"left: {_duration(standing.seconds_left)}"
            ),
            file=sys.stderr,
        )

    def close(self) -> None:
        """Take the live line away."""
        self._bar.close()
