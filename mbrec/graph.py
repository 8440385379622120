"""The heterograph of a shop: users, items, one relation per behavior, and the merged one.

A relation is a pair of canonical edge types, one per direction:
``(user, click, item)`` and ``(item, click-by, user)``. The relation `GLOBAL` is the deduplicated
union of all behaviors. Only training pairs are ever in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbrec.backend import dgl
from mbrec.columns import GLOBAL, ITEM, USER

IntArray = npt.NDArray[np.int32]
_PROBE = 1 << 20  # bytes
_ROWS = 1 << 20  # of a relation that are merged at a time


@dataclass(frozen=True)
class Pairs:
    """Distinct (user, item) pairs of one relation, as two int32 index arrays of equal length."""

    user_idx: IntArray  # (E,)
    item_idx: IntArray  # (E,)

    def __len__(self) -> int:
        return len(self.user_idx)

    def keys(self, num_items: int) -> npt.NDArray[np.int64]:
        """One number per pair (E,), which ascends with user and item."""
        keys: npt.NDArray[np.int64] = self.user_idx.astype(np.int64)
        keys *= num_items
        keys += self.item_idx
        return keys

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """User and item indices as int64 tensors (E,), copied: a dataset's arrays are read-only."""
        users, items = (
            torch.from_numpy(a.astype(np.int64)) for a in (self.user_idx, self.item_idx)
        )
        return users.to(device), items.to(device)


def edge_type(relation: str) -> tuple[str, str, str]:
    """The canonical edge type of `relation` from users to items."""
    return USER, relation, ITEM


def reverse_edge_type(relation: str) -> tuple[str, str, str]:
    """The canonical edge type of `relation` from items to users."""
    return ITEM, f"{relation}-by", USER


def merge(relations: Mapping[str, Pairs], num_items: int) -> Pairs:
    """The deduplicated union of the pairs of several relations, sorted by user, then item.

    Memory: 8 bytes per pair of the union, if all relations are sorted by user.
    """
    users, items = (np.empty(sum(map(len, relations.values())), dtype=np.int32) for _ in "ui")
    count = 0
    for group in by_users(list(relations.values())):
        keys = np.concatenate([pairs.keys(num_items) for pairs in group])
        # np.unique hashes before it sorts: many times slower on keys that are nearly all distinct.
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) != 0]
        rows = slice(count, count + len(keys))
        users[rows], items[rows] = np.divmod(keys, max(num_items, 1))
        count = rows.stop
    return Pairs(users[:count], items[:count])  # memory beyond was never touched


def by_users(relations: Sequence[Pairs], rows: int = _ROWS) -> Iterator[list[Pairs]]:
    """Cut relations at the same users, so that all pairs of a user come together.

    Args:
        relations: If one is not sorted by user, there is no cut.
        rows: Of one relation, about so many come at a time.
    """
    columns = [pairs.user_idx for pairs in relations]
    cuts = np.empty(0, dtype=np.int32)
    if not columns:
        return
    if all(np.all(users[1:] >= users[:-1]) for users in columns):
        cuts = np.unique(np.concatenate([users[rows::rows] for users in columns]))
    starts = [0] * len(columns)
    for cut in cuts:
        stops = [int(np.searchsorted(users, cut)) for users in columns]
        yield _sliced(relations, starts, stops)
        starts = stops
    yield _sliced(relations, starts, [len(users) for users in columns])


def _sliced(relations: Sequence[Pairs], starts: Sequence[int], stops: Sequence[int]) -> list[Pairs]:
    return [
        Pairs(pairs.user_idx[start:stop], pairs.item_idx[start:stop])
        for pairs, start, stop in zip(relations, starts, stops, strict=True)
    ]


def build_graph(relations: Mapping[str, Pairs], num_users: int, num_items: int) -> Any:
    """Build the DGL heterograph of `relations` plus `GLOBAL`, both directions of each.

    Args:
        relations: Behavior → its distinct training pairs, in cascade order.
        num_users: U; users without any edge are nodes all the same.
        num_items: I.

    Returns:
        A `dgl.DGLGraph` with int32 structure, 2 (K + 1) edge types.
    """
    return whole_graph({**relations, GLOBAL: merge(relations, num_items)}, num_users, num_items)


def whole_graph(relations: Mapping[str, Pairs], num_users: int, num_items: int) -> Any:
    """See `build_graph`; here `GLOBAL` is among `relations`.

    The graph uses their arrays, which must not be changed.
    """
    edges: dict[tuple[str, str, str], Any] = {}
    for relation, pairs in relations.items():
        users, items = (_tensor(array) for array in (pairs.user_idx, pairs.item_idx))
        edges[edge_type(relation)] = (users, items)
        edges[reverse_edge_type(relation)] = (items, users)
    return dgl().heterograph(edges, {USER: num_users, ITEM: num_items})


def _tensor(array: IntArray) -> Tensor:
    # Arrays that Arrow lends are read-only, which tensors cannot be.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def save_graph(graph: Any, path: Path) -> None:
    """Write `graph` to `path` in DGL's own binary format."""
    try:
        dgl().save_graphs(str(path), [graph])  # a Path is refused
    except Exception:
        with path.open("ab") as file:  # DGL does not say why it could not write; Python does
            file.write(b"\0" * _PROBE)
        raise


def load_graph(
    path: Path, relations: Mapping[str, Pairs], num_users: int, num_items: int
) -> Any | None:
    """Read the graph that `save_graph` wrote to `path`, if it is the one of `relations`.

    Args:
        path: The file.
        relations: See `build_graph`.
        num_users: U.
        num_items: I.

    Returns:
        None where DGL cannot read the file, or it holds another graph.
    """
    library = dgl()
    try:
        graphs, _ = library.load_graphs(str(path))
        return graphs[0] if _is_graph_of(graphs[0], relations, num_users, num_items) else None
    except Exception:  # whatever it is that DGL cannot do with it, the graph can be made again
        return None


def _is_graph_of(
    graph: Any, relations: Mapping[str, Pairs], num_users: int, num_items: int
) -> bool:
    """Whether `build_graph` would make the same graph."""
    if [graph.num_nodes(USER), graph.num_nodes(ITEM)] != [num_users, num_items]:
        return False
    whole = {**relations, GLOBAL: merge(relations, num_items)}
    ways = (edge_type, reverse_edge_type)
    if {way(name) for name in whole for way in ways} != set(graph.canonical_etypes):
        return False
    for name, pairs in whole.items():
        there = tuple(torch.from_numpy(a.copy()) for a in (pairs.user_idx, pairs.item_idx))
        for way, expected in ((edge_type, there), (reverse_edge_type, there[::-1])):
            found = graph.edges(etype=way(name))
            if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
                return False
    return True
