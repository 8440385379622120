"""What `mbrec demo` shows at its end: a table of metrics, and a few users with their lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

CODES = {"click": "pv", "favorite": "fav", "cart": "cart", "purchase": "buy"}
SHOWN_USERS = 3
SHOWN_ITEMS = 6
_METRICS = {"ndcg@5": "NDCG@5", "hr@5": "HR@5"}
_NAMES = {"bigel": "BiGEL", "mostpop": "MostPop"}


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """BiGEL beside MostPop, per behavior.

    Args:
        metrics: Model → summary of its evaluation.
    """
    bigel, popular = metrics["bigel"], metrics["mostpop"]
    head = "".join(f"{_NAMES[m]:>9} {title:<7}" for title in _METRICS.values() for m in _NAMES)
    lines = ["", "On the test rows, averages over users:", f"{'behavior':<10}{'users':>6}{head}"]
    rows = [*bigel["behaviors"], "macro"]
    for name in rows:
        pair = [m["macro"] if name == "macro" else m["behaviors"][name] for m in (bigel, popular)]
        cells = "".join(f"{_number(row[key]):>16} " for key in _METRICS for row in pair)
        lines.append(f"{name:<10}{pair[0].get('users', ''):>6}{cells}".rstrip())
    return "\n".join(lines)


def lists_text(log: Path, lists: Path) -> str:
    """A few users: what they did last, and what they are shown, per behavior.

    Items are shown with a letter for their category, so that a reader sees what the lists have to
    do with the history.
    """
    events = pd.read_csv(log, header=None, names=["user", "item", "category", "code", "time"])
    ranked = pd.read_csv(lists)
    letters = {c: _letter(n) for n, c in enumerate(sorted(events["category"].unique()))}
    category = events.drop_duplicates("item").set_index("item")["category"].map(letters)
    lines = ["", "A few users (letter: category of the item; first the latest):"]
    users = sorted(ranked["user_id"].unique())
    for user in users[:: max(1, len(users) // SHOWN_USERS)][:SHOWN_USERS]:
        own = events[events["user"] == user].sort_values("time", ascending=False, kind="stable")
        lines.append(f"user {user}")
        for behavior, code in CODES.items():
            did = own.loc[own["code"] == code, "item"].drop_duplicates()
            gets = ranked[(ranked["user_id"] == user) & (ranked["behavior"] == behavior)]
            lines.append(f"  {behavior:<9} did  {_items(did, category)}")
            lines.append(f"  {'':<9} gets {_items(gets.sort_values('rank')['item_id'], category)}")
    return "\n".join(lines)


def _items(items: pd.Series, category: pd.Series) -> str:
    return " ".join(f"{category[item]}:{item:<5}" for item in items[:SHOWN_ITEMS]) or "-"


def _letter(number: int) -> str:
    """A … Z, AA, AB …: as the columns of a spreadsheet."""
    high, low = divmod(number, 26)
    return (_letter(high - 1) if high else "") + chr(ord("A") + low)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
