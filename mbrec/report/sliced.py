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
    number,
    percent,
    short,
    shown,
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
    "The same lists, measured on some of the held-out items or for some of the users. Explored: the "
    "user did an earlier behavior of the cascade to the item in training; new: not. Cold: the item "
    "has no training pair (of this behavior). q1 … q4: users by number of training pairs, fewest "
    "first."
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


def _rows(groups: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group, label in _GROUPS.items():
        for name, row in groups[group].items():
            span = ""
            if group == "activity" and row["users"]:
                span = f" ({row['low']}–{row['high']})"
            yield label.format(name) + span, row


def _drawing(found: Found, several: bool) -> Figure:
    labels = [label for label, _ in _rows(found[0][1])][::-1]
    with drawing(height=0.9 + 0.27 * len(labels)) as drawn:
        for place, (subject, groups, k) in enumerate(found[:DRAWN]):
            values = [row[f"ndcg@{k}"] for _, row in _rows(groups)][::-1]
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
        "In brackets: training pairs of these users. No mark: nobody.",
    )


def _table(found: Found, several: bool) -> Table:
    rows = [
        [
            Cell(label),
            *([Cell(f"{subject.letter} · {subject.name}")] if several else []),
            count(row["users"]),
            count(row["held_out"]),
            *(number(row[f"{metric}@{k}"]) for metric in _METRICS),
        ]
        for subject, groups, k in found
        for label, row in _rows(groups)
    ]
    run = ["Run"] if several else []
    return Table(
        ["Slice", *run, "users", "held out", *(f"{m}@{found[0][2]}" for m in _METRICS.values())],
        rows,
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
                        *([Cell(f"{subject.letter} · {subject.name}")] if several else []),
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
