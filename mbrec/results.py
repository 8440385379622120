"""What was measured for one behavior, user by user, and the averages of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mbrec.metrics import FloatArray

HeldOut = Literal["valid", "test"]
Progress = Callable[[str, int, int], None]  # behavior, users done, users in all


@dataclass(frozen=True)
class BehaviorResult:
    """What was measured for one behavior."""

    user_idx: npt.NDArray[np.int32]  # (N,) users with a held-out row, ascending
    values: dict[str, FloatArray]  # "<metric>@<K>" → (N,)
    lists: npt.NDArray[np.int32] | None = None  # (N, ≤ max K), best first, if they were kept

    def means(self) -> dict[str, float | None]:
        """Averages over users; all null if there is none."""
        return means(self.values)


def means(values: Mapping[str, FloatArray]) -> dict[str, float | None]:
    """The plain mean of every metric over users; null where there are none."""
    return {name: float(v.mean()) if len(v) else None for name, v in values.items()}


def averages(results: Mapping[str, BehaviorResult], names: Sequence[str]) -> dict[str, Any]:
    """Averages over users per behavior, and their plain mean over behaviors ("macro").

    A behavior without held-out rows has 0 users and null metrics, and is not in the macro.

    Args:
        results: Behavior → what was measured.
        names: The metrics.
    """
    behaviors: dict[str, dict[str, Any]] = {
        behavior: {"users": len(result.user_idx), **result.means()}
        for behavior, result in results.items()
    }
    counted = [row for row in behaviors.values() if row["users"]]
    macro = {
        name: sum(row[name] for row in counted) / len(counted) if counted else None
        for name in names
    }
    return {"behaviors": behaviors, "macro": macro}
