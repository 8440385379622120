"""`mbrec prep`: a raw event log in, a prepared dataset out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbrec.cli.console import printable, show, show_json
from mbrec.cli.options import PATH

if TYPE_CHECKING:
    from mbrec.data_prep.funnel import FunnelStep
    from mbrec.data_prep.options import PrepOptions
    from mbrec.data_prep.sources.csv import Mapping
    from mbrec.dataset import PreparedDataset

_F = TypeVar("_F", bound=Callable[..., Any])

_SOURCES = ["ub", "jd", "csv", "given"]

_COLUMN_OPTIONS = [
    click.option("--mapping", type=PATH, help="TOML file with these keys."),
    click.option("--user-col", help="Column of the user  [default: user_id]"),
    click.option("--item-col", help="Column of the item  [default: item_id]"),
    click.option(
        "--behavior-col", help="Column of the behavior  [default: behavior, if there is one]"
    ),
    click.option("--time-col", help="Column of the time  [default: timestamp, if there is one]"),
    click.option("--split-col", help="Column that says train, valid or test."),
    click.option("--time-format", help="s, ms, iso, or a strptime format  [default: s]"),
    click.option("--tz", help="Time zone of times that name none  [default: UTC]"),
    click.option(
        "--map",
        "renames",
        multiple=True,
        metavar="CODE=NAME",
        help="Behavior in the log = its name here; CODE= drops it. Repeatable.",
    ),
    click.option("--delimiter", help="Field separator  [default: found in the first line]"),
    click.option("--no-header", is_flag=True, help="Columns are numbers, from 1."),
    click.option("--encoding", help="Text encoding  [default: utf-8]"),
]


def _column_options(function: _F) -> _F:
    for option in reversed(_COLUMN_OPTIONS):
        function = option(function)
    return function


@click.command(name="prep")
@click.option("--source", required=True, type=click.Choice(_SOURCES), help="Format of the log.")
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    metavar="PATH",
    help="File, folder or 'pattern*', packed or not. Repeatable.",
)
@click.option("--out", required=True, type=PATH, help="Folder to make.")
@click.option(
    "--behaviors",
    metavar="A,B,…",
    help="Cascade order, target last  [default: ub click,favorite,cart,purchase; "
    "jd click,favorite,purchase; given by the files; csv by the mapping]",
)
@click.option(
    "--split",
    type=click.Choice(["temporal", "leave-one-out", "given"]),
    help="How to split  [default: temporal; given where the files say it]",
)
@click.option("--ratios", metavar="T:V:T", help="Of the temporal split  [default: 8:1:1]")
@click.option("--min-user", type=click.IntRange(0), help="Pairs a user needs  [default: 0]")
@click.option("--min-item", type=click.IntRange(0), help="Pairs an item needs  [default: 0]")
@click.option(
    "--core-on",
    type=click.Choice(["target", "any"]),
    help="Whose pairs those are: the target's or any behavior's  [default: target]",
)
@click.option(
    "--keep",
    type=click.Choice(["first", "last"]),
    help="Which of several rows of a pair and behavior stays  [default: first]",
)
@click.option("--start", metavar="TIME", help="First day or time (ub, jd: UTC+8; csv: --tz).")
@click.option("--end", metavar="TIME", help="Last day or time, inclusive.")
@click.option(
    "--preset",
    type=click.Choice(["ub-paper", "jd-paper"]),
    help="The published preparation; options beside it win.",
)
@click.option(
    "--max-rejects",
    default="1%",
    show_default=True,
    help="Share of malformed rows above which it fails, e.g. 1% or 0.01.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "duckdb", "spark"]),
    default="auto",
    show_default=True,
    help="auto: in memory, or on disk with DuckDB what does not fit; spark: on a cluster, too.",
)
@click.option("--spark-master", metavar="URL", help="E.g. spark://host:7077  [default: local[*]]")
@click.option("--memory-limit", metavar="SIZE", help="E.g. 8GB  [default: 80% of what is free]")
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@_column_options
def command(as_json: bool, **given: Any) -> None:
    r"""Turn a raw event log into a prepared dataset.

    The sources: ub (UserBehavior.csv), jd (JData 2016 and 2019), csv (any CSV, TSV or Parquet
    file; its columns by the options from --mapping on), given (a folder of
    <behavior>.<train|valid|test>.<txt|csv|parquet>). See docs/data.md.

    \b
    Example:
      mbrec prep --source ub --input UserBehavior.csv.gz --out data/ub --min-user 5 --min-item 5
      mbrec prep --source csv --input events.csv --out data/shop --time-format ms \
        --user-col visitorid --item-col itemid --behavior-col event --map view=click \
        --map addtocart=cart --map transaction=purchase --behaviors click,cart,purchase
      mbrec prep --source ub --input 'logs/*.csv' --out data/ub --engine spark
    """
    from mbrec.data_prep.pipeline import prepare, summary

    dataset = prepare(_options(given), _listener())
    if as_json:
        show_json(summary(dataset))
    else:
        _show(dataset)


def _options(given: dict[str, Any]) -> PrepOptions:
    from mbrec.data_prep.options import PrepOptions, parse_bytes, parse_share
    from mbrec.data_prep.split import Ratios

    names = given["behaviors"]
    limit = given["memory_limit"]
    return PrepOptions(
        source=given["source"],
        inputs=given["inputs"],
        out=given["out"],
        behaviors=None if names is None else tuple(name.strip() for name in names.split(",")),
        split=given["split"],
        ratios=None if given["ratios"] is None else Ratios.parse(given["ratios"]),
        min_user=given["min_user"],
        min_item=given["min_item"],
        core_on=given["core_on"],
        keep=given["keep"],
        start=given["start"],
        end=given["end"],
        preset=given["preset"],
        max_rejects=parse_share(given["max_rejects"]),
        engine=given["engine"],
        spark_master=given["spark_master"],
        memory_limit=None if limit is None else parse_bytes(limit),
        force=given["force"],
        mapping=_mapping(given),
    )


def _mapping(given: dict[str, Any]) -> Mapping:
    """The mapping file, with the options for single keys over it."""
    from mbrec.data_prep.sources.csv import load_mapping, make_mapping
    from mbrec.errors import UsageError

    file = given["mapping"]
    values = load_mapping(file).model_dump(exclude_unset=True) if file else {}
    for key in ("user", "item", "behavior", "time", "split"):
        if given[f"{key}_col"] is not None:
            values[key] = given[f"{key}_col"]
    for key in ("time_format", "tz", "encoding", "delimiter"):
        if given[key] is not None:
            values[key] = given[key]
    if "delimiter" in values:
        values["delimiter"] = values["delimiter"].replace("\\t", "\t")  # as shells hand it over
    if given["no_header"]:
        values["header"] = False
    for rename in given["renames"]:
        code, equals, name = rename.partition("=")
        if not equals or not code:
            raise UsageError(f"--map {rename!r} is no pair.", "Write, e.g., --map view=click.")
        values["map"] = {**values.get("map", {}), code: name}
    return make_mapping(values)


def _listener() -> Any:
    """Shows the funnel on stderr, one line per step, and while reading the rows so far."""
    from mbrec.data_prep.pipeline import Listener

    class Console(Listener):
        def __init__(self) -> None:
            self.live = sys.stderr.isatty()
            self.steps = 0

        def reading(self, path: Path, rows: int) -> None:
            if self.live:
                name = printable(path.name)
                click.echo(f"\r\033[Kreading {name}: {rows:,} rows", err=True, nl=False)

        def step(self, step: FunnelStep) -> None:
            """Show one line of the funnel."""
            if self.live:
                click.echo("\r\033[K", err=True, nl=False)
            if not self.steps:
                show(_line("step", "dropped", "rows left", "users", "items", ""), err=True)
            self.steps += 1
            behaviors = ", ".join(f"{name} {rows:,}" for name, rows in step.behaviors.items())
            users, items = (
                "" if number is None else f"{number:,}" for number in (step.users, step.items)
            )
            rows = f"{step.rows:,}"
            line = _line(step.name, f"{step.dropped:,}", rows, users, items, behaviors)
            show(line, err=True)

        def note(self, text: str) -> None:
            show(f"Note: {text}", err=True)

    return Console()


def _line(name: str, dropped: str, rows: str, users: str, items: str, behaviors: str) -> str:
    return f"{name:<24}{dropped:>13}{rows:>13}{users:>11}{items:>11}  {behaviors}".rstrip()


def _show(dataset: PreparedDataset) -> None:
    """Print the sizes of all parts, and where the dataset lies."""
    counts = dataset.manifest["counts"]
    show(f"{'':<16}" + "".join(f"{part:>12}" for part in counts["splits"]))
    for behavior in dataset.behaviors:
        parts = "".join(f"{rows[behavior]:>12,}" for rows in counts["splits"].values())
        show(f"{behavior:<16}{parts}")
    show(
        f"{counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions in {dataset.path}"
    )
    if counts["rejected"]:
        show(f"{counts['rejected']:,} malformed rows: {dataset.path / 'rejects.parquet'}")
