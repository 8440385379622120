"""Gates: how far each behavior lets feedback and context in, dimension by dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from mbrec.arrangement import arrange
from mbrec.columns import VISIBLE
from mbrec.explain.embeddings import restored
from mbrec.health import CLOSED, OPEN
from mbrec.report.blocks import (
    Block,
    Cell,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    number,
    percent,
    short,
    shown,
)
from mbrec.report.drawing import DRAWN, GRID, drawing, series
from mbrec.report.material import Material, Subject

_LEAD = (
    "A gate of 0 lets nothing of a dimension in, a gate of 1 everything. cgf: what an auxiliary "
    "behavior takes from the target; gce: what it takes from the merged graph. Of the weights that "
    "ranked best on validation rows, over users and items."
)
_AREA = 512  # dimensions that can be told apart in a drawing

Gates = Mapping[str, Mapping[str, Tensor]]


def gates(material: Material) -> Section | None:
    """Every run whose method has gates; None where none has."""
    blocks: list[Block] = []
    for subject in material.subjects:
        if subject.summary["training"] and subject.summary["training"]["gates"]:
            blocks += [*material.heading(subject), *_run(subject, material)]
    return Section("gates", "Gates", _LEAD, blocks) if blocks else None


def _run(subject: Subject, material: Material) -> Iterator[Block]:
    found = _values(subject, material)
    if found is None:
        yield Text("The checkpoint or the dataset is not there any more, and with it the gates.")
        return
    names = dict.fromkeys(name for of in found.values() for name in of)
    by_name = {
        name: {behavior: of[name] for behavior, of in found.items() if name in of} for name in names
    }
    yield Figures([draw(name, of) for draw in (_map, _bands) for name, of in by_name.items()])
    yield _table(found)


def _values(subject: Subject, material: Material) -> Gates | None:
    """The gates of the best weights, (N, d) each; None where they cannot be had."""
    settings = subject.settings
    if settings is None or subject.dataset is None:
        return None
    dataset = arrange(subject.run.dataset(material.data, splits=VISIBLE), settings)
    method = restored(subject.run, settings, dataset)
    return None if method is None else method.gate_values() or None


def _map(name: str, of: Mapping[str, Tensor]) -> Figure:
    """The mean gate of every behavior and dimension, by color."""
    names = list(of)[:DRAWN]
    means = np.stack([of[behavior].mean(0).numpy()[:_AREA] for behavior in names])
    with drawing(height=1.15 + 0.34 * len(names)) as drawn:
        image = drawn.axes.imshow(
            means, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
        )
        drawn.axes.grid(visible=False)
        drawn.axes.spines["bottom"].set_visible(False)
        drawn.axes.set_yticks(range(len(names)), [short(behavior, 16) for behavior in names])
        drawn.axes.set_xlabel("dimension")
        bar = drawn.figure.colorbar(image, ax=drawn.axes, location="top", aspect=40, pad=0.06)
        bar.outline.set_visible(False)
        bar.set_ticks([0, 0.5, 1], labels=["0 closed", "0.5", "1 open"])
    return drawn.named(f"{name}: mean per dimension")


def _bands(name: str, of: Mapping[str, Tensor]) -> Figure:
    """Medians of the dimensions, in order, and where half of the nodes lie."""
    with drawing() as drawn:
        for place, (behavior, values) in enumerate(list(of.items())[:DRAWN]):
            low, middle, high = np.quantile(values.numpy(), [0.25, 0.5, 0.75], axis=0)
            order = np.argsort(middle)
            dimensions, style = np.arange(len(order)), series(place) | {"marker": ""}
            drawn.axes.fill_between(
                dimensions, low[order], high[order], color=style["color"], alpha=0.2, linewidth=0
            )
            drawn.axes.plot(dimensions, middle[order], label=short(behavior), **style)
        drawn.axes.axhline(0.5, color=GRID, linewidth=1.4)
        drawn.axes.set(ylim=(0, 1), xlabel="dimensions, least open first", ylabel="gate")
        drawn.legend()
    return drawn.named(
        f"{name}: median and spread", "The line is the median over nodes, the band the middle half."
    )


def _table(found: Gates) -> Table:
    rows = []
    for behavior, of in found.items():
        for name, values in of.items():
            means = values.mean(0)
            rows.append(
                [
                    Cell(shown(behavior)),
                    Cell(shown(name)),
                    number(float(values.mean()), 3),
                    number(float(means.min()), 3),
                    number(float(means.max()), 3),
                    number(float(values.std(0, correction=0).mean()), 3),
                    percent(float((values < CLOSED).float().mean())),
                    percent(float((values > OPEN).float().mean())),
                ]
            )
    return Table(
        [
            "Behavior",
            "Gate",
            "mean",
            "least open dim.",
            "most open dim.",
            "spread",
            "closed",
            "open",
        ],
        rows,
        note="Spread: standard deviation over nodes, mean over dimensions. "
        f"Closed: below {CLOSED}; open: above {OPEN}.",
        left=2,
    )
