"""Slices: for which items and users the lists are good, and what they show of the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Heading,
    Section,
    Table,
    count,
    grouped,
    number,
    percent,
    short,
    shown,
    with_best,
)
from mbrec.report.drawing import DRAWN, drawing, series
from mbrec.report.material import Material, Subject

_GROUPS = {
    "history": "{}",
    "item": "item {}",
    "item_in_behavior": "{} in behavior",
    "activity": "users {}",
}
_METRICS = {"ndcg": "NDCG", "hr": "HR", "recall": "Recall", "mrr": "MRR"}
_LEAD = (
    "The same lists, measured on some of the held-out items or for some of the users. Explored: "
    "the user did an earlier behavior of the cascade to the item in training; new: not. Cold: the "
    "item has no training pair (of this behavior). q1 … q4: users by number of training pairs, "
    "fewest first."
)
_BEYOND = (
    "Coverage: the share of the catalog that some list shows. Novelty: bits, 1 more means half as "
    "popular. Gini: 0 if all items are shown equally often."
)


def slices(material: Material) -> Section | None:
    """Per behavior: a drawing and a table; then coverage, novelty and Gini. None without slices."""
    subjects = [s for s in material.subjects if s.measured and s.measured.slices]
    if not subjects:
        return None
    blocks: list[Block] = []
    for behavior in material.behaviors:
        found = [
            (subject, subject.measured.slices["behaviors"][behavior], subject.measured.ks[0])
            for subject in subjects
            if subject.measured
            and subject.measured.slices
            and behavior in subject.measured.slices["behaviors"]
        ]
        if any(row["users"] for _, groups, _ in found for row in groups["activity"].values()):
            blocks.append(Heading(shown(behavior)))
            blocks.append(Figures([_drawing(found, material.several)]))
            blocks.append(_table(found, material.several))
    blocks.append(_beyond(subjects, material.several))
    return Section("slices", "Slices", _LEAD, blocks)


Found = list[tuple[Subject, Mapping[str, Any], int]]


def _rows(found: Found) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Every slice that somebody is in, and its figures under each run."""
    for group, label in _GROUPS.items():
        for name, first in found[0][1][group].items():
            rows = [groups[group][name] for _, groups, _ in found]
            if any(row["users"] for row in rows):
                span = f" ({first['low']}–{first['high']})" if group == "activity" else ""
                yield label.format(name) + span, rows


def _drawing(found: Found, several: bool) -> Figure:
    rows = list(_rows(found))[::-1]
    labels = [label for label, _ in rows]
    with drawing(height=0.9 + 0.27 * len(labels)) as drawn:
        for place, (subject, _, k) in enumerate(found[:DRAWN]):
            values = [of[place][f"ndcg@{k}"] for _, of in rows]
            known = [(value, y) for y, value in enumerate(values) if value is not None]
            shift = 0.16 * (place - (min(len(found), DRAWN) - 1) / 2)
            drawn.axes.plot(
                [value for value, _ in known],
                [y - shift for _, y in known],
                label=f"{subject.letter} {short(subject.name)}",
                **series(place) | {"linestyle": "", "markersize": 6},
            )
        drawn.axes.set_yticks(range(len(labels)), labels)
        drawn.axes.set_ylim(-0.6, len(labels) - 0.4)
        drawn.axes.set_xlim(left=0)
        drawn.axes.locator_params(axis="x", nbins=5)
        drawn.axes.set_xlabel(f"NDCG@{found[0][2]}")
        if several:
            drawn.legend()
    return drawn.named(
        f"NDCG@{found[0][2]} by slice",
        "In brackets: training pairs of these users.",
    )


def _table(found: Found, several: bool) -> Table:
    rows: list[list[Cell]] = []
    for label, of in _rows(found):
        lines = [
            [
                Cell(label),
                *([Cell(subject.letter)] if several else []),
                count(row["users"]),
                count(row["held_out"]),
                *(number(row[f"{metric}@{k}"]) for metric in _METRICS),
            ]
            for (subject, _, k), row in zip(found, of, strict=True)
        ]
        rows += grouped(with_best(lines, 4)) if several else lines
    run = ["Run"] if several else []
    return Table(
        ["Slice", *run, "users", "held out", *(f"{m}@{found[0][2]}" for m in _METRICS.values())],
        rows,
        note="Slices that nobody is in are left out.",
        left=1 + several,
    )


def _beyond(subjects: list[Subject], several: bool) -> Table:
    rows = []
    for subject in subjects:
        assert subject.measured and subject.measured.slices
        for behavior, groups in subject.measured.slices["behaviors"].items():
            for k in subject.measured.ks:
                row = groups["beyond"]
                rows.append(
                    [
                        Cell(shown(behavior)),
                        *([Cell(subject.letter)] if several else []),
                        Cell(str(k)),
                        percent(row[f"coverage@{k}"]),
                        number(row[f"novelty@{k}"], 2),
                        number(row[f"gini@{k}"], 3),
                    ]
                )
    run = ["Run"] if several else []
    return Table(
        ["Behavior", *run, "K", "coverage", "novelty", "Gini"],
        rows,
        title="Beyond accuracy",
        note=_BEYOND,
        left=1 + several,
    )
