"""The figures: every metric at every list length and behavior, with an interval over users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mbrec.metrics import METRICS
from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    count,
    grouped,
    number,
    short,
    shown,
    with_best,
)
from mbrec.report.drawing import DRAWN, drawing, series
from mbrec.report.material import Material, Subject
from mbrec.report.measured import Measured

_DRAWN_METRICS = ("ndcg", "hr")
_TITLES = {"hr": "HR", "ndcg": "NDCG", "recall": "Recall", "precision": "Precision", "mrr": "MRR"}
_LEAD = (
    "Averages over the users with held-out rows of the behavior; all items are ranked, without the "
    "user's training items of that behavior. Intervals are 95 % bootstrap intervals over users: "
    "they say how far the figure may move with other users like these, not with another seed."
)


def metrics(material: Material) -> Section | None:
    """Drawings, then a table per list length; None where no run was measured."""
    if not material.lengths:
        return None
    blocks: list[Block] = [Figures(list(_drawings(material)))]
    blocks += [_table(material, k) for k in material.lengths]
    missing = [
        f"{shown(behavior)} ({subject.letter})" if material.several else shown(behavior)
        for subject in material.subjects
        if subject.measured
        for behavior, users in subject.measured.users.items()
        if not len(users)
    ]
    if missing:
        blocks.append(Text(f"Without {material.split} rows: {', '.join(missing)}."))
    return Section("metrics", "Figures", _LEAD, blocks)


def glance(material: Material, k: int) -> Figure:
    """NDCG at one list length of every behavior and run."""
    names = material.behaviors[:DRAWN]
    subjects = [s for s in material.subjects if s.measured and k in s.measured.ks][:DRAWN]
    spread = 0.7 / max(len(subjects), 2)
    with drawing(height=1.0 + len(names) * max(0.4, 0.17 * len(subjects))) as drawn:
        axes = drawn.axes
        for place, subject in enumerate(subjects):
            assert subject.measured is not None
            shift = spread * (place - (len(subjects) - 1) / 2)
            key = f"ndcg@{k}"
            known = [
                (y, float(values[key].mean()), *subject.measured.interval(behavior, key))
                for y, behavior in enumerate(names)
                if len((values := subject.measured.values.get(behavior, {})).get(key, ()))
            ]
            style = series(place) | {"linestyle": ""}
            axes.plot(
                [m for _, m, _, _ in known],
                [y + shift for y, *_ in known],
                label=f"{subject.letter} {short(subject.name)}",
                **style,
            )
            for y, _, low, high in known:
                axes.plot([low, high], [y + shift] * 2, color=style["color"], linewidth=1.4)
        axes.set_yticks(range(len(names)), [short(name, 16) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.locator_params(axis="x", nbins=6)
        if material.several:
            drawn.legend()
    return drawn.named(f"NDCG@{k} per behavior", "With 95 % intervals over users.")


def _drawings(material: Material) -> Iterator[Figure]:
    """Per metric: a drawing per behavior with the runs in it, or of one run with all behaviors."""
    for metric in _DRAWN_METRICS:
        if not material.several:
            measured = material.subjects[0].measured
            assert measured is not None
            found = {(short(b), b): measured for b in measured.values}
            yield _drawing(metric, f"{_title(metric)}@K per behavior", found)
            continue
        for behavior in material.behaviors:
            runs = {
                (f"{s.letter} {short(s.name)}", behavior): s.measured
                for s in material.subjects
                if s.measured
            }
            yield _drawing(metric, f"{_title(metric)}@K, {shown(behavior)}", runs)


def _drawing(metric: str, title: str, found: Mapping[tuple[str, str], Measured]) -> Figure:
    lengths = sorted({k for measured in found.values() for k in measured.ks})
    with drawing() as drawn:
        for place, ((label, behavior), measured) in enumerate(list(found.items())[:DRAWN]):
            values = measured.values.get(behavior, {})
            known = [k for k in measured.ks if len(values.get(f"{metric}@{k}", ()))]
            if not known:
                continue
            arrays = [values[f"{metric}@{k}"] for k in known]
            means = np.array([array.mean() for array in arrays])
            low, high = np.array([measured.interval(behavior, f"{metric}@{k}") for k in known]).T
            # Side by side, or intervals would cover each other.
            shift = 0.13 * (place - (min(len(found), DRAWN) - 1) / 2)
            drawn.axes.errorbar(
                [lengths.index(k) + shift for k in known],
                means,
                [np.maximum(means - low, 0), np.maximum(high - means, 0)],
                label=label,
                capsize=2.5,
                elinewidth=1.2,
                **series(place) | {"linewidth": 0.9},
            )
        drawn.axes.set_xticks(range(len(lengths)), [f"@{k}" for k in lengths])
        drawn.axes.set_xlim(-0.6, len(lengths) - 0.4)
        drawn.axes.set_ylim(bottom=0)
        drawn.legend()
    return drawn.named(title)


def _table(material: Material, k: int) -> Table:
    rows: list[list[Cell]] = []
    for behavior in material.behaviors:
        block = [
            _row(subject, subject.measured, behavior, k, material.several)
            for subject in material.subjects
            if subject.measured and k in subject.measured.ks and behavior in subject.measured.values
        ]
        rows += grouped(with_best(block, 3)) if material.several else block
    block = [
        _macro(subject, subject.measured, k, material.several)
        for subject in material.subjects
        if subject.measured and k in subject.measured.ks
    ]
    rows += grouped(with_best(block, 3)) if material.several else block
    head = ["Behavior", "Run", "users", *(_title(metric) for metric in METRICS)]
    if not material.several:
        head, rows = _without_run(head), [_without_run(row) for row in rows]
    return Table(
        head,
        rows,
        title=f"K = {k}",
        note="Bold: the best run of a behavior; whether that can be chance is told below."
        if material.several
        else "",
        left=1 + material.several,
    )


def _row(subject: Subject, measured: Measured, behavior: str, k: int, several: bool) -> list[Cell]:
    users = len(measured.users[behavior])
    lead = [Cell(shown(behavior)), _run(subject, several), count(users)]
    if not users:
        return [*lead, *(Cell("–") for _ in METRICS)]
    return [*lead, *(_cell(measured, behavior, f"{metric}@{k}") for metric in METRICS)]


def _macro(subject: Subject, measured: Measured, k: int, several: bool) -> list[Cell]:
    macro = measured.summary()["macro"]
    figures = (number(macro[f"{metric}@{k}"]) for metric in METRICS)
    return [Cell("Mean"), _run(subject, several), Cell(""), *figures]


def _run(subject: Subject, several: bool) -> Cell:
    return Cell(f"{subject.letter} · {subject.name}" if several else "")


def _cell(measured: Measured, behavior: str, name: str) -> Cell:
    low, high = measured.interval(behavior, name)
    mean = float(measured.values[behavior][name].mean())
    return replace(number(mean), sub=f"{low:.4f}–{high:.4f}")


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric.upper())


def _without_run(row: list[Any]) -> list[Any]:
    return [row[0], *row[2:]]
