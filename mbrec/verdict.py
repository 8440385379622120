"""What a comparison of two runs means, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mbrec.significance import ALPHA, LEVEL, Paired

Verdict = Literal["A", "B", "equal", "unclear", "mixed"]

FEW_USERS = 30

_CAVEAT = (
    " This is about users, not about seeds: that a method is better than another takes several "
    "seeds of each."
)
_PARTS: dict[Verdict, str] = {
    "A": "A is better on {names}",
    "B": "B is better on {names}",
    "mixed": "the evidence is mixed on {names}",
    "unclear": "no difference is shown on {names}",
    "equal": "A and B are the same for every user on {names}",
}


@dataclass(frozen=True)
class Row:
    """The comparison of one behavior, with p values corrected over behaviors."""

    paired: Paired
    p_wilcoxon: float
    """Holm-corrected."""
    p_t: float
    """Holm-corrected."""

    @property
    def verdict(self) -> Verdict:
        """Who is better.

        "equal": no user differs. "unclear": no test rejects that it is chance. "mixed": only one
        of the tests does, or the mean and the ranks speak for different runs.
        """
        pair = self.paired
        if pair.equal == pair.n:
            return "equal"
        rejected = [self.p_wilcoxon < ALPHA, self.p_t < ALPHA]
        if not any(rejected):
            return "unclear"
        if not all(rejected) or pair.difference * pair.rank_biserial <= 0:
            return "mixed"
        return "A" if pair.difference > 0 else "B"


def behavior_sentence(behavior: str, row: Row, metric: str) -> str:
    """Which run is better on a behavior, by how much, whether that can be chance, for how many."""
    pair = row.paired
    if row.verdict == "equal":
        same = "the one user" if pair.n == 1 else f"each of the {pair.n:,} users"
        return f"{behavior}: A and B have the same {metric.upper()} for {same}."
    if pair.n == 1:
        better = "A" if pair.difference > 0 else "B"
        return (
            f"{behavior}: {better} is better for the one user there is ({_means(pair)}), which "
            f"says nothing about others."
        )
    said = f"{_lead(row, metric)} {_users(pair)} {_tests(row)}"
    few = f" With {pair.n} users, only large differences can show." if pair.n < FEW_USERS else ""
    return f"{behavior}: {said}{few}"


def overall_sentence(rows: Mapping[str, Row]) -> str:
    """On which behaviors which run is better, and what that does not say."""
    parts = []
    for verdict, part in _PARTS.items():
        names = [behavior for behavior, row in rows.items() if row.verdict == verdict]
        if names:
            parts.append(part.format(names=_and(names)))
    differ = any(row.verdict != "equal" for row in rows.values())
    return f"Overall: {'; '.join(parts)}.{_CAVEAT if differ else ''}"


def _lead(row: Row, metric: str) -> str:
    """Who is ahead, and by how much."""
    pair = row.paired
    interval = f"{LEVEL * 100:.0f} % interval of A - B {pair.low:+.4f} to {pair.high:+.4f}"
    if pair.difference == 0:
        return f"A and B have the same mean {metric.upper()} ({pair.mean_a:.4f}; {interval})."
    better = "A" if pair.difference > 0 else "B"
    is_ = "is better by" if row.verdict in ("A", "B") else "is ahead by"
    amount = f"{abs(pair.difference):.4f} {metric.upper()}{_percent(pair)}"
    return f"{better} {is_} {amount} ({_means(pair)}; {interval})."


def _users(pair: Paired) -> str:
    return (
        f"Of {pair.n:,} users A is better for {pair.a_better:,}, B for {pair.b_better:,}; for "
        f"{pair.equal:,} they are equal."
    )


def _tests(row: Row) -> str:
    """Whether it can be chance, with the corrected p values."""
    values = f"Wilcoxon {_p(row.p_wilcoxon)}, t {_p(row.p_t)}"
    if row.verdict in ("A", "B"):
        return f"That is hardly chance ({values})."
    if row.verdict == "unclear":
        return f"That can be chance ({values})."
    if row.p_wilcoxon < ALPHA and row.p_t < ALPHA:
        return f"It is hardly chance ({values}), but the mean and the ranks favor different runs."
    if row.p_t < ALPHA:
        return f"The tests disagree ({values}): the means differ, the ranks may by chance."
    return f"The tests disagree ({values}): the ranks differ, the means may by chance."


def _percent(pair: Paired) -> str:
    """How much better the better one is, as a share of the other's mean."""
    low, high = sorted((pair.mean_a, pair.mean_b))
    if not low:
        return ""
    share = (high - low) / low
    return f" or {share * 100:.1f} %" if share < 10 else f", {high / low:.0f} times as much"


def _means(pair: Paired) -> str:
    return f"A {pair.mean_a:.4f}, B {pair.mean_b:.4f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
