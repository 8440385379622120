"""A prepared dataset as text: what `mbrec inspect DATA` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from mbrec.cli.plots import Plots
from mbrec.columns import SPLITS

_COLD = {
    "cold_users": "cold users",
    "cold_items": "cold items",
    "cold_items_in_behavior": "not in beh.",
    "explored": "explored",
}


def dataset_text(shown: Mapping[str, Any], plots: Plots) -> str:
    """All sections.

    Args:
        shown: What `mbrec.statistics.dataset_statistics` gives, with "path", "source",
            "content_hash", "split" and "funnel" of the manifest.
        plots: For the bars.
    """
    sections = [
        _head(shown),
        _behaviors(shown),
        _long_tail(shown, plots),
        _activity(shown),
        _overlap(shown),
        *(_held_out(shown, split) for split in SPLITS[1:]),
        _time(shown, plots),
        _funnel(shown, plots),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(shown: Mapping[str, Any]) -> str:
    return (
        f"Prepared dataset {shown['path']}\n"
        f"  {shown['users']:,} users, {shown['items']:,} items, "
        f"{shown['interactions']:,} interactions, density {shown['density']:.4%}\n"
        f"  source {shown['source']}, split {shown['split'] or 'unknown'}, "
        f"content hash {shown['content_hash'][:12]}"
    )


def _behaviors(shown: Mapping[str, Any]) -> str:
    rows = shown["behaviors"]
    first = _first("Behaviors, target last", rows)
    lines = [
        f"{'Behaviors, target last':<{first}}{'train':>11}{'valid':>10}{'test':>10}"
        f"{'users':>9}{'items':>9}{'per user':>10}"
    ]
    for name, row in rows.items():
        mean = "-" if row["pairs_per_user"] is None else f"{row['pairs_per_user']:.1f}"
        lines.append(
            f"{'  ' + name:<{first}}{row['train']:>11,}{row['valid']:>10,}{row['test']:>10,}"
            f"{row['users']:>9,}{row['items']:>9,}{mean:>10}"
        )
    return "\n".join(lines)


def _long_tail(shown: Mapping[str, Any], plots: Plots) -> str:
    rows = shown["long_tail"]
    first = _first("Long tail (training pairs)", rows)
    title = f"{'Long tail (training pairs)':<{first}}"
    lines = [f"{title}{'top 1 %':>9}{'top 10 %':>10}{'Gini':>7}  share of the top 10 %"]
    for name, row in rows.items():
        top, tenth = _percent(row["top_1_percent"]), _percent(row["top_10_percent"])
        gini = "-" if row["gini"] is None else f"{row['gini']:.2f}"
        bar = plots.bar(row["top_10_percent"] or 0.0)
        lines.append(f"{'  ' + name:<{first}}{top:>9}{tenth:>10}{gini:>7}  {bar}".rstrip())
    return "\n".join(lines)


def _activity(shown: Mapping[str, Any]) -> str:
    rows = shown["activity"]
    first = _first("Training pairs per user", rows)
    quantiles = list(next(iter(rows.values())))
    lines = [f"{'Training pairs per user':<{first}}{_columns(quantiles, 8)}"]
    for name, row in rows.items():
        cells = _columns([f"{row[q]:,}" for q in quantiles], 8)
        lines.append(f"{'  ' + name:<{first}}{cells}")
    return "\n".join(lines)


def _overlap(shown: Mapping[str, Any]) -> str:
    rows = shown["overlap"]
    if len(rows) < 2:
        return ""
    first = _first("Of the training pairs of", rows)
    width = max(10, *(len(name) + 2 for name in rows))
    lines = [f"{'Of the training pairs of':<{first}}{_columns([f'{a}' for a in rows], width)} too"]
    for b, row in rows.items():
        cells = ["." if a == b else _percent(share) for a, share in row.items()]
        lines.append(f"{'  ' + b:<{first}}{_columns(cells, width)}")
    return "\n".join(lines)


def _held_out(shown: Mapping[str, Any], split: str) -> str:
    rows = shown["held_out"][split]
    if not any(row["rows"] for row in rows.values()):
        return ""
    title = f"Rows of {split}"
    first = _first(title, rows)
    heads = _columns(["rows", "users"], 9) + _columns(_COLD.values(), 13)
    lines = [f"{title:<{first}}{heads}"]
    for name, row in rows.items():
        counts = _columns([f"{row['rows']:,}", f"{row['users']:,}"], 9)
        cells = _columns([_percent(row[key]) for key in _COLD], 13)
        lines.append(f"{'  ' + name:<{first}}{counts}{cells}")
    return "\n".join(lines)


def _time(shown: Mapping[str, Any], plots: Plots) -> str:
    time = shown["time"]
    if time is None:
        return "No timestamps."
    lines = [f"Time (UTC)  {_clock(time['first'])} to {_clock(time['last'])}"]
    lines.append(f"  rows over time   {plots.sparkline(time['bins'])}")
    for split, part in time["splits"].items():
        lines.append(f"  {split:<16} {_clock(part['first'])} to {_clock(part['last'])}")
    if time["without"]:
        lines.append(f"  without a time   {time['without']:,} rows")
    return "\n".join(lines)


def _funnel(shown: Mapping[str, Any], plots: Plots) -> str:
    steps = shown["funnel"]
    if not steps:
        return ""
    first = _first("Funnel of the preparation", [step["name"] for step in steps])
    most = max(step["rows"] for step in steps) or 1
    lines = [f"{'Funnel of the preparation':<{first}}{'dropped':>12}{'rows left':>13}"]
    for step in steps:
        bar = plots.bar(step["rows"] / most)
        name = "  " + step["name"]
        lines.append(f"{name:<{first}}{step['dropped']:>12,}{step['rows']:>13,}  {bar}".rstrip())
    return "\n".join(lines)


def _first(title: str, names: Sequence[str] | Mapping[str, Any]) -> int:
    """The width of the first column."""
    return max(len(title), *(len(name) + 2 for name in names))


def _columns(texts: Any, width: int) -> str:
    return "".join(f"{text:>{width}}" for text in texts)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")
