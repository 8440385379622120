"""The trials of a study as a table to read."""

from __future__ import annotations

import json
from typing import Any

from mbrec.tune.summary import StudySummary, TrialSummary


def table(summary: StudySummary) -> str:
    """Markdown: the best trials first, then those without a value in their order."""
    keys = list(summary.space)
    behaviors = list(dict.fromkeys(b for t in summary.finished for b in t.behaviors or ()))
    head = ["trial", f"valid {summary.metric}", *behaviors, *keys, "epochs", "seconds", "note"]
    ranked = sorted(summary.trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))
    rows = [_row(trial, keys, behaviors) for trial in ranked]
    lines = [f"# {summary.method}: {len(summary.trials)} trials, seed {summary.seed}", ""]
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    if summary.importances:
        lines += ["", "| setting | importance |", "| --- | --- |"]
        lines += [_line([key, f"{share:.2f}"]) for key, share in summary.importances.items()]
    return "\n".join(lines) + "\n"


def text(value: Any) -> str:
    """A setting's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _row(trial: TrialSummary, keys: list[str], behaviors: list[str]) -> list[str]:
    measured = trial.behaviors or {}
    values = [trial.value, *(measured.get(name) for name in behaviors)]
    notes: list[str] = [trial.state] if trial.state != "finished" else []
    notes += ["start"] if trial.start else []
    notes += [f"as {trial.same_as}"] if trial.same_as else []
    notes += [trial.error] if trial.error else []
    return [
        str(trial.number),
        *("" if value is None else f"{value:.4f}" for value in values),
        *(text(trial.settings[key]) if key in trial.settings else "" for key in keys),
        str(trial.epochs or ""),
        f"{trial.seconds:.1f}",
        ", ".join(notes),
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
