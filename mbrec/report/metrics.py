"""The figures: every metric at every list length and behavior, with an interval over users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from mbrec.metrics import METRICS, FloatArray
from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    count,
    number,
    short,
    shown,
    with_best,
)
from mbrec.report.drawing import DRAWN, drawing, series
from mbrec.report.material import Material, Subject
from mbrec.report.measured import Measured
from mbrec.significance import bootstrap

RESAMPLES = 2_000
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


def interval(values: FloatArray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of (N,) values; the seed is fixed."""
    return _interval(np.ascontiguousarray(values, dtype=np.float64).tobytes())


@lru_cache(maxsize=4096)  # a figure stands in a table and in a drawing
def _interval(values: bytes) -> tuple[float, float]:
    return bootstrap(np.frombuffer(values), resamples=RESAMPLES)


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
            low, high = np.array([interval(array) for array in arrays]).T
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
    return drawn.named(title, "With 95 % intervals.")


def _table(material: Material, k: int) -> Table:
    rows: list[list[Cell]] = []
    for behavior in material.behaviors:
        block = [
            _row(subject, subject.measured, behavior, k, material.several)
            for subject in material.subjects
            if subject.measured and k in subject.measured.ks and behavior in subject.measured.values
        ]
        rows += with_best(block, 3) if material.several else block
    block = [
        _macro(subject, subject.measured, k, material.several)
        for subject in material.subjects
        if subject.measured and k in subject.measured.ks
    ]
    rows += with_best(block, 3) if material.several else block
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
    values = measured.values[behavior]
    users = len(measured.users[behavior])
    lead = [Cell(shown(behavior)), _run(subject, several), count(users)]
    if not users:
        return [*lead, *(Cell("–") for _ in METRICS)]
    return [*lead, *(_cell(values[f"{metric}@{k}"]) for metric in METRICS)]


def _macro(subject: Subject, measured: Measured, k: int, several: bool) -> list[Cell]:
    macro = measured.summary()["macro"]
    figures = (number(macro[f"{metric}@{k}"]) for metric in METRICS)
    return [Cell("Mean"), _run(subject, several), Cell(""), *figures]


def _run(subject: Subject, several: bool) -> Cell:
    return Cell(f"{subject.letter} · {subject.name}" if several else "")


def _cell(values: FloatArray) -> Cell:
    low, high = interval(values)
    return replace(number(float(values.mean())), sub=f"{low:.4f}–{high:.4f}")


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric.upper())


def _without_run(row: list[Any]) -> list[Any]:
    return [row[0], *row[2:]]
