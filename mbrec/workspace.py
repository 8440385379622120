"""Memory that is kept between the computations that work in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor


class Workspace:
    """Lends memory, and keeps what comes back for the next one who asks.

    On the CPU, a pass over fresh memory takes longer than one over memory that was used before, and
    several times as long where it comes from the system. Whoever asks while it is lent gets other
    memory.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[Tensor]] = {}

    @staticmethod
    def of(owner: Any) -> Workspace:
        """The one that lives as long as `owner`."""
        return _OWNED.setdefault(owner, Workspace())

    @contextmanager
    def lent(self, like: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Contiguous tensors of the shapes, types and devices of `like`, holding anything."""
        key = tuple((e.shape, e.dtype, e.device) for e in like)
        memory = self._kept.pop(key, None) or [e.new_empty(e.shape) for e in like]
        yield memory
        self._kept[key] = memory


_OWNED: WeakKeyDictionary[Any, Workspace] = WeakKeyDictionary()
