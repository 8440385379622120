"""A run as text: what `mbrec inspect RUN` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mbrec.cli.plots import Plots

_METRICS = ("ndcg", "hr", "recall", "mrr")


def run_text(shown: Mapping[str, Any], plots: Plots) -> str:
    """All sections.

    Args:
        shown: What `mbrec.summary.run_summary` gives.
        plots: For the learning curves.
    """
    sections = [
        _head(shown),
        _settings(shown["settings"]),
        _learning(shown["training"], plots),
        _weights(shown["training"]),
        _blends(shown["calibration"]),
        _health(shown["health"]),
        *(_figures(split, row) for split, row in shown["figures"].items()),
        "How to go on\n" + "\n".join(f"  {command}" for command in shown["use"]),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(shown: Mapping[str, Any]) -> str:
    data = shown["dataset"]
    here = "" if data["found"] else " (not there any more)"
    versions = shown["versions"] or {}
    content = str(data.get("content_hash"))[:12]
    named = ", ".join(f"{name} {versions[name]}" for name in ("mbrec", "torch") if name in versions)
    return (
        f"Run {shown['path']}: {shown['model']}, seed {shown['seed']}, {shown['status']}\n"
        f"  data       {data.get('path')}{here}\n"
        f"             source {data.get('source')}, content hash {content}\n"
        f"  behaviors  {', '.join(shown['behaviors'] or ())}\n"
        f"  made       {shown['started']} on {shown['device']}, {shown['threads']} threads, "
        f"engine {shown['engine']}, {named}"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    lines = [f"  {key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["Settings that are not the method's defaults", *lines]) if lines else ""


def _learning(training: Mapping[str, Any] | None, plots: Plots) -> str:
    if training is None:
        return ""
    lines = [
        f"Learning: {training['epochs']} epochs, best {training['best_epoch'] or '-'}, "
        f"{training['seconds']:.0f} s in steps"
    ]
    curves, losses = training["curves"], training["losses"]
    first = 2 + max((len(name) for name in (*curves, *losses)), default=0)
    width = max(min(40, training["epochs"]), 5)
    for title, rows in ((f"valid {training['metric']}", curves), ("loss", losses)):
        if rows:
            first = max(first, len(title))
            lines.append(f"{title:<{first}}  {'':<{width}}   first    best    last")
        for name, values in rows.items():
            known = [value for value in values if value is not None]
            best = max(known) if rows is curves else min(known)
            numbers = "".join(f"{value:>8.4f}" for value in (known[0], best, known[-1]))
            line = plots.sparkline(values, width)
            lines.append(f"{'  ' + name:<{first}}  {line:<{width}}{numbers}")
    return "\n".join(lines)


def _weights(training: Mapping[str, Any] | None) -> str:
    weights = training["weights"] if training else {}
    if len(set(weights.values())) < 2:
        return ""
    return "Task weights at the end: " + ", ".join(f"{b} {w:.2f}" for b, w in weights.items())


def _blends(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return ""
    lines = ["What the parts count, learned from validation rows (of an item of usual popularity)"]
    for behavior, row in calibration.items():
        parts = ", ".join(f"{part} {weight:.2f}" for part, weight in row["weights"].items())
        lines.append(f"  {behavior}: {parts}")
        network = ", with a network" if row.get("network") else ""
        lines.append(
            f"    value {row['cross_fitted']:.4f} cross-fitted, {row['value']:.4f} on the rows "
            f"learned from, {row['prior']:.4f} with prior weights{network}"
        )
    return "\n".join(lines)


def _health(findings: list[dict[str, Any]]) -> str:
    if not findings:
        return ""
    return "\n".join(["Health", *(f"  {finding['message']}" for finding in findings)])


def _figures(split: str, summary: Mapping[str, Any]) -> str:
    """The averages at the shortest list length."""
    macro = summary["macro"]
    lengths = sorted({int(name.partition("@")[2]) for name in macro})
    if not lengths:
        return ""
    keys = [f"{metric}@{lengths[0]}" for metric in _METRICS if f"{metric}@{lengths[0]}" in macro]
    rows = {**summary["behaviors"], "macro": macro}
    title = f"Averages over users, {split} rows"
    note = [f"  {summary['note']}"] if "note" in summary else []
    first = max(len(title), *(len(name) + 2 for name in rows))
    lines = [f"{title:<{first}}{'users':>9}" + "".join(f"{key.upper():>11}" for key in keys)]
    for name, row in rows.items():
        cells = "".join(f"{'-':>11}" if row[key] is None else f"{row[key]:>11.4f}" for key in keys)
        lines.append(f"{'  ' + name:<{first}}{row.get('users', ''):>9}{cells}")
    return "\n".join([*lines, *note])
