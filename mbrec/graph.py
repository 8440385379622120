"""The heterograph of a shop: users, items, one relation per behavior, and the merged one.

A relation is a pair of canonical edge types, one per direction:
``(user, click, item)`` and ``(item, click-by, user)``. The relation `GLOBAL` is the deduplicated
union of all behaviors. Only training pairs are ever in it.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Pairs:
    """Distinct (user, item) pairs of one relation, as two int32 index arrays of equal length."""

    user_idx: IntArray  # (E,)
    item_idx: IntArray  # (E,)

    def __len__(self) -> int:
        return len(self.user_idx)

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
    """The deduplicated union of the pairs of several relations, sorted by user, then item."""
    keys = [p.user_idx.astype(np.int64) * num_items + p.item_idx for p in relations.values()]
    merged = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    # np.unique hashes before it sorts: many times slower on keys that are nearly all distinct.
    merged.sort()
    merged = merged[np.diff(merged, prepend=-1) != 0]
    users, items = np.divmod(merged, max(num_items, 1))
    return Pairs(users.astype(np.int32), items.astype(np.int32))


def build_graph(relations: Mapping[str, Pairs], num_users: int, num_items: int) -> Any:
    """Build the DGL heterograph of `relations` plus `GLOBAL`, both directions of each.

    Args:
        relations: Behavior → its distinct training pairs, in cascade order.
        num_users: U; users without any edge are nodes all the same.
        num_items: I.

    Returns:
        A `dgl.DGLGraph` with int32 structure, 2 (K + 1) edge types.
    """
    edges: dict[tuple[str, str, str], Any] = {}
    for relation, pairs in {**relations, GLOBAL: merge(relations, num_items)}.items():
        # Copies: arrays that Arrow lends are read-only, which tensors cannot be.
        users, items = torch.tensor(pairs.user_idx), torch.tensor(pairs.item_idx)
        edges[edge_type(relation)] = (users, items)
        edges[reverse_edge_type(relation)] = (items, users)
    return dgl().heterograph(edges, {USER: num_users, ITEM: num_items})


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
