"""How the settings were found: the trials of `mbrec tune` in their order, and what mattered."""

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
    number,
    short,
    shown,
)
from mbrec.report.drawing import INK, drawing, series
from mbrec.report.material import Material
from mbrec.tune.markdown import text
from mbrec.tune.summary import StudySummary, TrialSummary

_LEAD = (
    "Settings were chosen by these figures on validation rows, which therefore flatter the best."
)
_SHOWN = 10  # trials in the table


def searched(material: Material) -> Section | None:
    """The searches that were named; None if there was none."""
    if not material.studies:
        return None
    blocks: list[Block] = []
    for study in material.studies:
        blocks.append(Heading(f"{shown(study.path.resolve().name)} · {shown(study.method)}"))
        blocks += _study(study)
    return Section("search", "Search for settings", _LEAD, blocks)


def _study(study: StudySummary) -> Iterator[Block]:
    states = [trial.state for trial in study.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    yield Text(f"{len(states)} trials{f': {counts}' if counts else ''}. Seed {study.seed}.")
    if study.best is None:
        yield Text("No trial has finished.", warns=True)
        return
    figures = [_history(study)]
    if study.importances:
        figures.append(_importances(study))
    yield Figures(figures)
    yield _table(study)


def _history(study: StudySummary) -> Figure:
    numbers = [trial.number for trial in study.finished]
    values = [trial.value or 0.0 for trial in study.finished]
    best = [max(values[: place + 1]) for place in range(len(values))]
    with drawing() as drawn:
        style = {**series(0), "linestyle": "none"}
        drawn.axes.plot(numbers, values, label="trial", **style)
        drawn.axes.step(numbers, best, where="post", color=INK, label="best so far")
        if study.start is not None:
            style = {**series(1), "marker": "", "linewidth": 1.2}
            drawn.axes.axhline(study.start.value or 0.0, label="where it began", **style)
        drawn.axes.locator_params(axis="x", integer=True, nbins=6)
        if len(numbers) == 1:
            drawn.axes.set_xlim(numbers[0] - 1, numbers[0] + 1)
        drawn.axes.set_xlabel("trial")
        drawn.axes.set_ylabel(f"{study.metric.upper()}, valid")
        drawn.legend()
    return drawn.named("Trials in their order", "Those that ended early or failed have no value.")


def _importances(study: StudySummary) -> Figure:
    items = list(study.importances.items())[::-1]
    with drawing(height=0.9 + 0.3 * len(items)) as drawn:
        drawn.axes.grid(axis="y", visible=False)
        shares = [share for _, share in items]
        drawn.axes.barh(range(len(items)), shares, color=series(0)["color"], height=0.6)
        drawn.axes.set_yticks(range(len(items)), [short(key) for key, _ in items])
        drawn.axes.set_xlabel("share of the importance")
        drawn.axes.locator_params(axis="x", nbins=5)
    return drawn.named(
        "What mattered", "What sets the best tenth of the trials apart (PED-ANOVA); of few, a hint."
    )


def _table(study: StudySummary) -> Table:
    ranked = sorted(study.finished, key=lambda trial: (-(trial.value or 0.0), trial.number))
    trials = ranked[:_SHOWN]
    if study.start is not None and study.start not in trials:
        trials.append(study.start)
    keys = list(study.space)
    return Table(
        ["Trial", f"{study.metric.upper()}", *map(shown, keys)],
        [_row(trial, keys) for trial in trials],
        title="The best trials",
        note=f"Of {len(ranked)}; and where it began." if len(ranked) > _SHOWN else "",
    )


def _row(trial: TrialSummary, keys: list[str]) -> list[Cell]:
    name = f"{trial.number}, where it began" if trial.start else str(trial.number)
    settings = (text(trial.settings[key]) if key in trial.settings else "–" for key in keys)
    return [Cell(name), number(trial.value), *(Cell(shown(value)) for value in settings)]
