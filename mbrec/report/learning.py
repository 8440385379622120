"""How the training went: the metric, the losses and the task weights of every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mbrec.report.blocks import Block, Figure, Figures, Section, Text, Tiles, short, shown
from mbrec.report.drawing import DRAWN, GRID, INK, drawing, logarithmic, series
from mbrec.report.material import Material, Subject

Curves = Mapping[str, Sequence[float | None]]


def learning(material: Material) -> Section:
    """Every run."""
    blocks: list[Block] = []
    for subject in material.subjects:
        blocks += [*material.heading(subject), *_run(subject)]
    return Section("learning", "Learning", "", blocks)


def _run(subject: Subject) -> Iterator[Block]:
    training = subject.summary["training"]
    if training is None:
        yield Text(f"{shown(subject.run.model)} counts or solves; it does not learn by epochs.")
        return
    best = training["best_epoch"]
    yield Tiles(
        [
            ("Epochs", f"{training['epochs']}", ""),
            ("Best epoch", f"{best or '–'}", f"by {training['metric'] or 'no validation'}"),
            ("Time in steps", _duration(training["seconds"]), f"on {shown(_device(subject))}"),
        ]
    )
    trained = [record for record in subject.records if "loss" in record]
    epochs = [record["epoch"] for record in trained]
    weights = {
        name: [record.get("weights", {}).get(name) for record in trained]
        for name in training["weights"]
    }
    figures = []
    if training["curves"]:
        figures.append(_validation(training, best))
    figures.append(_losses(epochs, training["losses"]))
    moved = any(
        len({value for value in values if value is not None}) > 1 for values in weights.values()
    )
    if moved:
        figures.append(_weights(epochs, weights))
    yield Figures(figures)
    if weights and not moved:
        named = ", ".join(f"{shown(name)} {values[-1]:g}" for name, values in weights.items())
        yield Text(f"Task weights, the same in every epoch: {named}.")


def _validation(training: Mapping[str, Any], best: int | None) -> Figure:
    with drawing() as drawn:
        if best:
            drawn.axes.axvline(best, color=GRID, linewidth=6, zorder=0)
        curves = {name: row for name, row in training["curves"].items() if name != "macro"}
        _curves(drawn.axes, training["validated"], curves)
        if len(curves) > 1:
            style = {"color": INK, "linestyle": (0, (1, 2)), "linewidth": 1.2}
            drawn.axes.plot(
                training["validated"], training["curves"]["macro"], label="mean", **style
            )
        _epochs(drawn.axes, training["validated"])
        drawn.axes.set_ylabel(f"{str(training['metric']).upper()}, valid")
        drawn.legend()
    return drawn.named("Validation per behavior", "The band is the best epoch, which was kept.")


def _losses(epochs: Sequence[int], losses: Curves) -> Figure:
    with drawing() as drawn:
        _curves(drawn.axes, epochs, losses)
        _epochs(drawn.axes, epochs)
        positive = all(value > 0 for row in losses.values() for value in row if value is not None)
        drawn.axes.set_ylabel("loss, mean of the steps")
        if positive:
            logarithmic(drawn.axes, "y")
        drawn.legend()
    return drawn.named(
        "Losses", "Every term as it is added up. The axis is logarithmic." * positive
    )


def _weights(epochs: Sequence[int], weights: Curves) -> Figure:
    with drawing() as drawn:
        _curves(drawn.axes, epochs, weights)
        _epochs(drawn.axes, epochs)
        drawn.axes.set_ylabel("weight of the task loss")
        drawn.legend()
    return drawn.named("Task weights", "At the end of every epoch.")


def _curves(axes: Any, epochs: Sequence[int], curves: Curves) -> None:
    for place, (name, values) in enumerate(list(curves.items())[:DRAWN]):
        known = [(e, value) for e, value in zip(epochs, values, strict=True) if value is not None]
        style = series(place)
        if len(known) > 25:
            style["markevery"] = max(len(known) // 8, 1)
        axes.plot(*zip(*known, strict=True), label=short(name), **style)


def _epochs(axes: Any, epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)


def _device(subject: Subject) -> str:
    return str(subject.summary["device"] or "an unknown device")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
