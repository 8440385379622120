"""The tables that `mbrec evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_TITLES = {
    "hr": "HR",
    "ndcg": "NDCG",
    "recall": "Recall",
    "precision": "Precision",
    "mrr": "MRR",
    "map": "MAP",
}
_SLICED = ("hr", "ndcg", "recall", "mrr")  # of the slices, what fits into 80 columns
_GROUPS = {
    "history": "",
    "item": "item ",
    "item_in_behavior": "in behavior: ",
    "activity": "",
}


def metrics_table(summary: dict[str, Any], ks: Sequence[int]) -> str:
    """The averages as text: one block per list length, one line per behavior."""
    heads = {k: f"K = {k}" for k in ks}
    note = f"\n{summary['note']}" if "note" in summary else ""
    return f"Averages over users, {summary['split']} rows{note}\n{_blocks(summary, heads, '')}"


def sampled_table(summary: dict[str, Any], ks: Sequence[int]) -> str:
    """Metrics against sampled negatives as text, with their own names and what they are not."""
    prefix = f"sampled{summary['sampled_negatives']}_"
    blocks = _blocks(summary, {k: f"{prefix}…@{k}" for k in ks}, prefix)
    return f"WARNING: {summary['note']}\n{blocks}"


def _blocks(summary: dict[str, Any], heads: dict[int, str], prefix: str) -> str:
    """One block per list length, under a head of its own."""
    rows = {**summary["behaviors"], "macro": summary["macro"]}
    first = max(len(text) for text in [*rows, *heads.values()])
    lines = []
    for k, head in heads.items():
        lines += ["", f"{head:<{first}}{'users':>9}{_cells(_TITLES.values())}"]
        for name, row in rows.items():
            values = _numbers(row[f"{prefix}{metric}@{k}"] for metric in _TITLES)
            lines.append(f"{name:<{first}}{row.get('users', ''):>9}{_cells(values)}")
    return "\n".join(lines)


def slices_table(slices: dict[str, Any], k: int) -> str:
    """The slices of every behavior as text, at one list length."""
    rows = {
        behavior: {
            _label(group, name, row): row
            for group in _GROUPS
            for name, row in groups[group].items()
        }
        for behavior, groups in slices["behaviors"].items()
    }
    first = 2 + max(len(text) for labels in rows.values() for text in [*labels])
    first = max(first, *(len(behavior) for behavior in rows))
    lines = [f"Slices of the {slices['split']} rows, K = {k}; q: users by number of training pairs"]
    titles = _columns(_TITLES[metric] for metric in _SLICED)
    for behavior, labels in rows.items():
        lines += ["", f"{behavior:<{first}}{'users':>9}{'held out':>10}{titles}"]
        for label, row in labels.items():
            values = _columns(_numbers(row[f"{metric}@{k}"] for metric in _SLICED))
            lines.append(f"{f'  {label}':<{first}}{row['users']:>9}{row['held_out']:>10}{values}")
    return "\n".join(lines)


def beyond_table(slices: dict[str, Any], ks: Sequence[int]) -> str:
    """Coverage, novelty and Gini of the lists as text, one line per behavior and length."""
    first = max(len("Beyond accuracy"), *(len(name) for name in slices["behaviors"]))
    lines = [f"{'Beyond accuracy':<{first}}{'K':>6}{'coverage':>11}{'novelty':>10}{'Gini':>9}"]
    for behavior, groups in slices["behaviors"].items():
        for k in ks:
            row = groups["beyond"]
            coverage, gini = _numbers(row[f"{name}@{k}"] for name in ("coverage", "gini"))
            novelty = row[f"novelty@{k}"]
            bits = "-" if novelty is None else f"{novelty:.2f}"
            lines.append(f"{behavior:<{first}}{k:>6}{coverage:>11}{bits:>10}{gini:>9}")
    return "\n".join(lines)


def _label(group: str, name: str, row: dict[str, Any]) -> str:
    """What a slice is called; a quartile with the numbers of training pairs it goes from and to."""
    if group != "activity":
        return f"{_GROUPS[group]}{name}"
    return f"{name}: {row['low']} to {row['high']} pairs" if row["users"] else f"{name}: nobody"


def _numbers(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:.4f}" for value in values]


def _columns(texts: Iterable[str]) -> str:
    return "".join(f"{text:>8}" for text in texts)


def _cells(texts: Iterable[str]) -> str:
    widths = (max(len(title), 6) + 2 for title in _TITLES.values())
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
