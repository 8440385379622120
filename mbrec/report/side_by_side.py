"""The first run against every other, paired on users, and whether it can be chance."""

from __future__ import annotations

from collections.abc import Iterator

from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Heading,
    Section,
    Table,
    Text,
    count,
    number,
    short,
    shown,
)
from mbrec.report.drawing import DRAWN, INK, drawing, series
from mbrec.report.material import Material, Subject
from mbrec.significance import holm, paired
from mbrec.verdict import Row

_LEAD = (
    "Paired on users: the same users under both runs. p values are corrected over behaviors "
    "(Holm). The tests generalize over users, not over seeds: that a method is better than another "
    "takes several seeds of each."
)


def side_by_side(material: Material) -> Section | None:
    """The first run against every other; None for a single run."""
    if not material.several:
        return None
    first, *others = material.subjects
    blocks: list[Block] = []
    for other in others:
        blocks.append(
            Heading(f"{other.name} against {first.name}", f"{other.letter} – {first.letter}")
        )
        blocks += _pair(first, other)
    return Section("side-by-side", "Side by side", _LEAD, blocks)


def _pair(first: Subject, other: Subject) -> Iterator[Block]:
    if first.run.dataset_hash != other.run.dataset_hash:
        yield Text("They are on different datasets and cannot be compared.")
        return
    if first.measured is None or other.measured is None:
        yield Text("One of them was not measured.")
        return
    lengths = sorted(set(first.measured.ks) & set(other.measured.ks))
    if not lengths:
        yield Text("They were measured at different list lengths; evaluate them with the same --k.")
        return
    metric = f"ndcg@{lengths[0]}"
    rows = _rows(first, other, metric)
    if not rows:
        yield Text("No behavior was measured on the same users under both.")
        return
    yield Figures([_forest(rows, metric)])
    yield _table(rows, metric, first, other)


def _rows(first: Subject, other: Subject, metric: str) -> dict[str, Row]:
    """The comparison of every behavior; differences are other - first."""
    a, b = other.measured, first.measured
    assert a is not None and b is not None
    pairs = {
        behavior: paired(a.values[behavior][metric], b.values[behavior][metric])
        for behavior in b.values
        if behavior in a.values
        and len(b.users[behavior])
        and a.users[behavior].equals(b.users[behavior])
    }
    wilcoxon = holm([pair.p_wilcoxon for pair in pairs.values()])
    t = holm([pair.p_t for pair in pairs.values()])
    return {
        behavior: Row(pair, *corrected)
        for (behavior, pair), *corrected in zip(pairs.items(), wilcoxon, t, strict=True)
    }


def _forest(rows: dict[str, Row], metric: str) -> Figure:
    names = list(rows)[:DRAWN][::-1]
    with drawing(height=0.75 + 0.38 * len(names)) as drawn:
        drawn.axes.grid(axis="y", visible=False)
        drawn.axes.axvline(0, color=INK, linewidth=0.9)
        for place, name in enumerate(names):
            pair = rows[name].paired
            drawn.axes.plot([pair.low, pair.high], [place, place], color=series(0)["color"])
            drawn.axes.plot(pair.difference, place, "o", color=series(0)["color"], markersize=6)
        drawn.axes.set_yticks(range(len(names)), [short(name, 16) for name in names])
        drawn.axes.set_ylim(-0.6, len(names) - 0.4)
        drawn.axes.set_xlabel(f"difference in {metric.upper()}")
        drawn.axes.locator_params(axis="x", nbins=5)
    return drawn.named(
        "Differences", "With 95 % bootstrap intervals; right of the line the later run is better."
    )


def _table(rows: dict[str, Row], metric: str, first: Subject, other: Subject) -> Table:
    return Table(
        [
            "Behavior",
            "In words",
            "users",
            f"{first.letter}",
            f"{other.letter}",
            f"{other.letter} – {first.letter}",
            "Wilcoxon",
            "t",
            f"{other.letter} better for",
            f"{first.letter} better for",
        ],
        [
            [
                Cell(shown(name)),
                Cell(_verdict(row, first, other)),
                count(row.paired.n),
                number(row.paired.mean_b),
                number(row.paired.mean_a),
                Cell(
                    f"{row.paired.difference:+.4f}",
                    row.paired.difference,
                    f"{row.paired.low:+.4f} … {row.paired.high:+.4f}",
                ),
                _p(row.p_wilcoxon),
                _p(row.p_t),
                count(row.paired.a_better),
                count(row.paired.b_better),
            ]
            for name, row in rows.items()
        ],
        title=f"{metric.upper()}, user by user",
        left=2,
    )


def _verdict(row: Row, first: Subject, other: Subject) -> str:
    return {
        "A": f"{other.letter} is better",
        "B": f"{first.letter} is better",
        "equal": "the same for every user",
        "unclear": "no difference shown",
        "mixed": "mixed evidence",
    }[row.verdict]


def _p(value: float) -> Cell:
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)
