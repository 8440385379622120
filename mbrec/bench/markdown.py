"""The tables as Markdown and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pandas as pd

from mbrec.bench.results import MACRO
from mbrec.bench.spec import BenchSpec
from mbrec.bench.store import Store
from mbrec.bench.tables import Gain, Sheet, csv_rows, read_sheets
from mbrec.files import atomic_path

MARKDOWN = "table.md"
CSV = "table.csv"
SECOND = "†"

SAME_ROWS = (
    "The search and this table use the same rows: settings were chosen on the validation part, and "
    "it is the validation part that is reported. Figures of methods that had something to choose "
    "are somewhat too good. A method that learns from these rows itself (bigel-plus) ranks each "
    "user by what others have taught."
)


def write_tables(spec: BenchSpec, store: Store) -> list[Sheet]:
    """Write `table.md` and `table.csv` from `results.parquet`, and return what they show.

    Raises:
        ArtefactError: There are no results.
    """
    sheets = read_sheets(spec, store)
    with atomic_path(store.path / MARKDOWN) as temporary:
        temporary.write_text(markdown(spec, sheets), encoding="utf-8")
    with atomic_path(store.path / CSV) as temporary:
        pd.DataFrame(csv_rows(sheets)).to_csv(temporary, index=False)
    return sheets


def markdown(spec: BenchSpec, sheets: Sequence[Sheet]) -> str:
    """All tables."""
    seeds = ", ".join(map(str, spec.seeds))
    limit = f" A training stops after {spec.max_seconds:g} seconds." if spec.max_seconds else ""
    lines = [
        f"# {spec.name}",
        "",
        f"Every method had the same budget: at most {spec.trials} settings, tried with seed "
        f"{spec.seeds[0]} and chosen by {_title(spec.select)} on validation, averaged over the "
        f"behaviors. The best was run with the seeds {seeds}.{limit}",
        "",
        "Mean ± standard deviation over the runs; a method without randomness has one run. "
        f"**Best**, second best{SECOND}.",
    ]
    if spec.ours:
        lines[-1] += (
            " Gains are over the best other row of that column; * where Wilcoxon's test and the t "
            "test, paired on users (each averaged over seeds) and Holm-corrected over behaviors, "
            "both give p < .05; the larger p is shown."
        )
    for sheet in sheets:
        lines += ["", f"## {sheet.name}", "", *_about(sheet)]
        for metric in sheet.metrics if len(sheet.finals) else ():
            lines += ["", f"### {_title(metric)}, {sheet.name}, {sheet.split}", ""]
            if sheet.split == "valid":
                lines += [f"> {SAME_ROWS}", ""]
            lines += _aligned(_metric_rows(sheet, metric))
        lines += ["", f"### Runs, {sheet.name}", "", *_aligned(_run_rows(sheet))]
    return "\n".join(lines) + "\n"


def _about(sheet: Sheet) -> list[str]:
    users = ", ".join(f"{name} {sheet.users(name):,}" for name in sheet.behaviors)
    measured = f" Users measured: {users}." if users else " Nothing is finished yet."
    return [f"Dataset {sheet.content_hash[:12]}.{measured}"]


def _metric_rows(sheet: Sheet, metric: str) -> Iterator[list[str]]:
    columns = [(metric, behavior) for behavior in (*sheet.behaviors, MACRO)]
    ranks = {column: sheet.ranks(column) for column in columns}
    yield ["method", *(behavior for _, behavior in columns), "runs"]
    for label in sheet.labels:
        cells = [_cell(sheet, label, column, ranks[column].get(label)) for column in columns]
        runs = {s[label].runs for c in columns if label in (s := sheet.stats[c])}
        yield [label, *cells, "–".join(str(n) for n in sorted(runs)) or "0"]
    for ours in sheet.ours:
        gains = sheet.gains[ours, metric]
        if gains:
            yield [f"gain of {ours}", *(_gain(gains.get(b)) for _, b in columns), ""]


def _cell(sheet: Sheet, label: str, column: tuple[str, str], rank: int | None) -> str:
    stat = sheet.stats[column].get(label)
    if stat is None:
        failed = sheet.rows[(sheet.rows["label"] == label) & (sheet.rows["status"] == "failed")]
        return "failed" if len(failed) else "–"
    text = f"{stat.mean:.4f}"
    if stat.deviation is not None:
        text += f" ± {stat.deviation:.4f}"
    return f"**{text}**" if rank == 1 else f"{text}{SECOND}" if rank == 2 else text


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return "–"
    share = f"{gain.relative:+.1%}" if gain.relative is not None else "from 0"
    text = f"{share} over {gain.other}"
    if gain.p_wilcoxon is None or gain.p_t is None:
        return text
    p = max(gain.p_wilcoxon, gain.p_t)
    shown = f"p = {p:.3f}" if p >= 0.001 else "p < .001"
    return f"{text}, {shown}{'*' if gain.significant else ''}"


def _run_rows(sheet: Sheet) -> Iterator[list[str]]:
    yield ["method", "chosen setting", "trials", "epochs", "seconds per run", "remark"]
    for label in sheet.labels:
        rows = sheet.rows[sheet.rows["label"] == label]
        for alone, part in rows.groupby("alone", sort=False, dropna=False):
            runs = part.drop_duplicates(["phase", "run"]).dropna(subset=["run"])
            name = f"{label} ({alone})" if isinstance(alone, str) else label
            if len(runs) or (not isinstance(alone, str) and part["error"].notna().any()):
                yield [name, *_run_cells(runs, part)]


def _run_cells(runs: pd.DataFrame, part: pd.DataFrame) -> list[str]:
    finals, trials = runs[runs["phase"] == "final"], runs[runs["phase"] == "trial"]
    done = finals[finals["status"] == "finished"]
    point = json.loads(finals["point"].iloc[0]) if len(finals) else None
    chosen = ", ".join(f"{key} = {json.dumps(value)}" for key, value in (point or {}).items())
    count = part["candidates"].dropna()
    candidates = int(count.iloc[0]) if len(count) else 0
    epochs, seconds = done["epochs"].dropna(), done["wall_seconds"].dropna()
    return [
        "–" if point is None else chosen or "defaults",
        f"{len(trials)} of {candidates}" if candidates > 1 else "none needed",
        f"{epochs.mean():.0f}" if len(epochs) else "–",
        f"{seconds.mean():.0f}" if len(seconds) else "–",
        _remark(runs, part),
    ]


def _remark(runs: pd.DataFrame, part: pd.DataFrame) -> str:
    errors = part["error"].dropna().drop_duplicates()
    cut = int((runs["ended_by"] == "max_seconds").sum())
    notes = [f"failed: {error}" for error in errors]
    if cut:
        notes.append(f"{cut} of {len(runs)} runs ended by max_seconds")
    return "; ".join(notes).replace("|", "/")


def _title(metric: str) -> str:
    return metric.upper()


def _aligned(rows: Iterator[list[str]]) -> list[str]:
    """A Markdown table that is readable as text, too."""
    table = [[cell.replace("|", "/") for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{c:<{w}}" for c, w in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return [line(table[0]), line(["-" * w for w in widths]), *map(line, table[1:])]
