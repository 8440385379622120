"""What the data are: the way from raw rows to kept ones, behaviors, long tails, overlap, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.columns import SPLITS
from mbrec.dataset import PreparedDataset
from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Heading,
    Section,
    Table,
    Text,
    Tiles,
    count,
    number,
    percent,
    short,
    shown,
)
from mbrec.report.drawing import DRAWN, INK, drawing, logarithmic, series
from mbrec.report.material import Material

_POINTS = 120  # of a curve: more cannot be seen
_COLD = {
    "cold_users": "cold users",
    "cold_items": "cold items",
    "cold_items_in_behavior": "items new to behavior",
    "explored": "explored before",
}


def data(material: Material) -> Section:
    """Every dataset of the runs."""
    blocks: list[Block] = []
    for dataset, subjects in material.datasets:
        if len(material.datasets) > 1:
            letters = ", ".join(subject.letter for subject in subjects)
            blocks.append(Heading(f"Dataset of {letters}"))
        blocks += _dataset(dataset, material.statistics(dataset))
    if not blocks:
        blocks.append(
            Text("The dataset is not where it was at training; say where it is with --data.")
        )
    return Section("data", "The data", "", blocks)


def _dataset(dataset: PreparedDataset, found: Mapping[str, Any]) -> Iterator[Block]:
    manifest = dataset.manifest
    split = manifest.get("split", {}).get("protocol") or "unknown"
    yield Tiles(
        [
            ("Users", f"{found['users']:,}", ""),
            ("Items", f"{found['items']:,}", ""),
            ("Interactions", f"{found['interactions']:,}", "of all parts and behaviors"),
            ("Density", f"{found['density'] * 100:.3f} %", "of users × items"),
        ]
    )
    yield Text(
        f"Source {shown(manifest.get('source'))}, split {shown(split)}, content hash "
        f"{dataset.content_hash[:12]}."
    )
    yield from _funnel(manifest.get("funnel", []))
    yield _behaviors(found["behaviors"])
    yield Figures(list(_tails(dataset)))
    yield _shares(found["long_tail"])
    yield from _overlap(found["overlap"])
    yield from (_held_out(split, found["held_out"][split]) for split in SPLITS[1:])
    yield from _time(found["time"])


def _funnel(steps: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not steps:
        return
    most = max(step["rows"] for step in steps) or 1
    yield Table(
        ["Step", "Dropped", "Rows left", "", "Users", "Items"],
        [
            [
                Cell(shown(step["name"])),
                count(step["dropped"]),
                count(step["rows"]),
                Cell("", share=step["rows"] / most),
                count(step.get("users")),
                count(step.get("items")),
            ]
            for step in steps
        ],
        title="Funnel of the preparation",
        note="Rows read = rows dropped by each step + rows left at the end.",
    )


def _behaviors(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        ["Behavior", *SPLITS, "users", "items", "per user", "density"],
        [
            [
                Cell(shown(name)),
                *(count(row[split]) for split in SPLITS),
                count(row["users"]),
                count(row["items"]),
                number(row["pairs_per_user"], 1),
                Cell(f"{row['density'] * 100:.3f} %", row["density"]),
            ]
            for name, row in rows.items()
        ],
        title="Behaviors",
        note="In cascade order, the target last. Users, items, pairs per user and density are of "
        "the training part.",
    )


def _tails(dataset: PreparedDataset) -> Iterator[Figure]:
    """How pairs are spread over items and over users, by rank and as running shares."""
    relations = list(dataset.train_relations().items())[:DRAWN]
    for side, size in (("item", dataset.num_items), ("user", dataset.num_users)):
        counts = [
            (name, np.sort(np.bincount(getattr(pairs, f"{side}_idx"), minlength=size))[::-1])
            for name, pairs in relations
        ]
        with drawing() as tail:
            for place, (name, ordered) in enumerate(counts):
                known = ordered[ordered > 0]
                if len(known):
                    ranks = _spread(len(known))
                    style = series(place) | {"marker": ""}
                    tail.axes.plot(ranks + 1, known[ranks], label=short(name), **style)
            tail.axes.set(xlabel=f"rank of the {side}", ylabel="training pairs")
            logarithmic(tail.axes, "x", "y")
            tail.legend()
        yield tail.named(f"Long tail of {side}s", "Both axes are logarithmic.")
        if side == "item":
            yield _running(counts)


def _running(counts: Sequence[tuple[str, npt.NDArray[np.int64]]]) -> Figure:
    with drawing() as drawn:
        for place, (name, ordered) in enumerate(counts):
            if ordered.sum():
                ranks = np.unique(np.linspace(0, len(ordered) - 1, _POINTS).astype(int))
                shares = np.cumsum(ordered)[ranks] / ordered.sum()
                style = series(place) | {"marker": ""}
                drawn.axes.plot((ranks + 1) / len(ordered), shares, label=short(name), **style)
        drawn.axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
        drawn.axes.set(xlabel="share of the items, best known first", ylabel="share of the pairs")
        drawn.legend()
    return drawn.named(
        "Concentration",
        "Dotted: all items equally often. The higher the curve, the fewer items "
        "have most of the pairs.",
    )


def _shares(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    return Table(
        ["Behavior", "top 1 % of items", "top 10 %", "Gini"],
        [
            [
                Cell(shown(name)),
                percent(row["top_1_percent"]),
                percent(row["top_10_percent"]),
                number(row["gini"], 2),
            ]
            for name, row in rows.items()
        ],
        title="Who has how much",
        note="Shares of the training pairs. Gini: 0 if all items are equally frequent.",
    )


def _overlap(rows: Mapping[str, Mapping[str, float | None]]) -> Iterator[Block]:
    if len(rows) < 2:
        return
    yield Table(
        ["Of the pairs of", *(f"also {shown(name)}" for name in rows)],
        [
            [
                Cell(shown(b)),
                *(Cell("·") if a == b else percent(s, heat=True) for a, s in row.items()),
            ]
            for b, row in rows.items()
        ],
        title="Overlap between behaviors",
        note="Which share of the training pairs of the row's behavior are pairs of the column's.",
    )


def _held_out(split: str, rows: Mapping[str, Mapping[str, Any]]) -> Block:
    if not any(row["rows"] for row in rows.values()):
        return Text(f"There are no {split} rows.")
    return Table(
        ["Behavior", "rows", "users", *_COLD.values()],
        [
            [
                Cell(shown(name)),
                count(row["rows"]),
                count(row["users"]),
                *(percent(row[key]) for key in _COLD),
            ]
            for name, row in rows.items()
        ],
        title=f"What of the {split} rows training can know",
        note="Cold: without a training pair of any behavior. Explored before: the user has done an "
        "earlier behavior of the cascade to the item.",
    )


def _time(time: Mapping[str, Any] | None) -> Iterator[Block]:
    if time is None:
        yield Text("The rows have no timestamps.")
        return
    bins = time["bins"]
    edges = np.linspace(time["first"], max(time["last"], time["first"] + 1), len(bins) + 1)
    with drawing(height=2.3) as drawn:
        drawn.axes.bar(edges[:-1], bins, np.diff(edges), align="edge", color=series(0)["color"])
        ends = [edges[0], edges[-1]]
        drawn.axes.set_xticks(ends, [_day(seconds) for seconds in ends])
        for tick, side in zip(drawn.axes.get_xticklabels(), ("left", "right"), strict=True):
            tick.set_horizontalalignment(side)
        drawn.axes.set_ylabel("rows")
    spans = (
        f"{name} {_day(part['first'])} to {_day(part['last'])}"
        for name, part in time["splits"].items()
    )
    yield Figures([drawn.named("Rows over time", f"UTC. {'; '.join(spans)}.")])


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%d")


def _spread(size: int) -> npt.NDArray[np.int64]:
    """Ranks from 0 to size - 1, evenly on a logarithmic axis."""
    return np.unique(np.geomspace(1, size, _POINTS).astype(np.int64)) - 1
