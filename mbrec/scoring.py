"""What a trained method leaves behind: something that scores all items for given users.

Five kinds cover the methods: `Factors` (inner products), `Sparse` (a few items per user),
`ItemToItem` or `ItemNeighbors` (the user's history times item similarities), and `UserNeighbors`
(similarities of users times their histories); `Weighted` weights users and items of one, `Sum`
adds kinds up, and `mbrec.network` adds what it makes of all parts of a sum at once.
All are plain tensors, so a run can hold any of them: see `mbrec.packing`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mbrec.errors import DataError
from mbrec.graph import Pairs

_PRODUCTS = 1 << 20  # of two sparse matrices held at a time


class Scorer(Protocol):
    """Scores of one behavior, by blocks, so that users × items never has to exist at once.

    Blocks may be asked for from several threads at once, and the caller may write into them.
    """

    @property
    def num_users(self) -> int:
        """U."""

    @property
    def num_items(self) -> int:
        """I."""

    @property
    def device(self) -> torch.device:
        """Where it takes user indices and gives scores."""

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start), float32, of items start … stop-1 for users `user_idx` (B,)."""

    def to(self, device: torch.device | str) -> Scorer:
        """The same on another device."""


Kind = TypeVar("Kind", bound="_Movable")


class _Movable:
    """A kind is a dataclass: it moves with all that it holds."""

    def to(self: Kind, device: torch.device | str) -> Kind:
        """The same on another device."""
        held = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self)(*(_moved(part, device) for part in held))


class Composed(_Movable, abc.ABC):
    """A kind that is made of others, which know how many users and items there are."""

    @abc.abstractmethod
    def _ends(self) -> tuple[Scorer, Scorer]:
        """The part that has a row per user, and the one that has a column per item."""

    @property
    def num_users(self) -> int:
        """U."""
        return self._ends()[0].num_users

    @property
    def num_items(self) -> int:
        """I."""
        return self._ends()[1].num_items

    @property
    def device(self) -> torch.device:
        """Where all parts are."""
        return self._ends()[1].device


@dataclass(frozen=True)
class Factors(_Movable):
    """Score = inner product of a user and an item embedding (equation 12 of BiGEL)."""

    user_emb: Tensor  # (U, d) float32
    item_emb: Tensor  # (I, d) float32

    def __post_init__(self) -> None:
        check(self.user_emb.dim() == 2 == self.item_emb.dim(), "embeddings are not matrices")
        check(self.user_emb.shape[1] == self.item_emb.shape[1], "embedding sizes differ")

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_emb)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_emb)

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.item_emb.device

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return self.user_emb[user_idx] @ self.item_emb[start:stop].T


@dataclass(frozen=True)
class Sparse(_Movable):
    """A sparse matrix of scores, rows × items, in CSR form; what is not stored scores 0."""

    indptr: Tensor  # (rows + 1,) int64
    items: Tensor  # (E,) int64, ascending and distinct within a row
    values: Tensor  # (E,) float32
    width: Tensor  # () int64, the number of items

    def __post_init__(self) -> None:
        check(len(self.indptr) > 0 and int(self.indptr[0]) == 0, "CSR rows do not begin at 0")
        check(len(self.items) == len(self.values) == int(self.indptr[-1]), "CSR lengths differ")
        check(bool((self.indptr.diff() >= 0).all()), "a CSR row has a negative length")
        inside = (self.items >= 0) & (self.items < self.width)
        check(bool(inside.all()), "an item is out of range")
        # An item that stands many times in a row would make blocks grow beyond users × items.
        rising = torch.ones(len(self.items) + 1, dtype=torch.bool, device=self.items.device)
        rising[1:-1] = self.items.diff() > 0
        rising[self.indptr] = True  # a new row
        check(bool(rising.all()), "the items of a row are not ascending, or one stands twice")

    @classmethod
    def of(cls, indptr: Tensor, items: Tensor, values: Tensor, num_items: int) -> Sparse:
        """From CSR arrays of any types."""
        return cls(indptr.long(), items.long(), values.float(), torch.tensor(num_items))

    @classmethod
    def from_pairs(
        cls, pairs: Pairs, num_users: int, num_items: int, values: Tensor | None = None
    ) -> Sparse:
        """Pairs sorted by user, then item, each with a value (E,), or 1."""
        counts = np.bincount(pairs.user_idx, minlength=num_users)
        indptr = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
        given = torch.ones(len(pairs)) if values is None else values
        return cls.of(indptr, torch.tensor(pairs.item_idx), given, num_items)

    @property
    def num_users(self) -> int:
        """The number of rows."""
        return len(self.indptr) - 1

    @property
    def num_items(self) -> int:
        """I."""
        return int(self.width)

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.values.device

    @cached_property
    def matrix(self) -> Any:
        """The same as a `scipy.sparse.csr_matrix`, on the CPU; nothing is copied."""
        found = sparse.csr_matrix((self.num_users, self.num_items), dtype=np.float32)
        # Given to the constructor, indices would be copied into 32 bits.
        found.indptr, found.indices, found.data = (
            part.numpy() for part in (self.indptr, self.items, self.values)
        )
        return found

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of some rows (B,): which row (0 … B-1), item and value, each (E,), by row."""
        start = self.indptr[index]
        counts = self.indptr[index + 1] - start
        row = torch.repeat_interleave(torch.arange(len(index), device=self.device), counts)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(row), device=self.device) + (start - first)[row]
        return row, self.items[place], self.values[place]

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return _block(*self.rows(user_idx), len(user_idx), start, stop)


@dataclass(frozen=True)
class ItemToItem(Composed):
    """Score = Σ over the user's history of weight · similarity, with a dense (I, I) matrix."""

    history: Sparse  # (U, I)
    similarity: Tensor  # (I, I) float32, from history item to scored item

    def __post_init__(self) -> None:
        size = self.history.num_items
        check(self.similarity.shape == (size, size), "the similarities do not fit the history")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.history, self.history

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        row, item, value = self.history.rows(user_idx)
        used, place = torch.unique(item, return_inverse=True)
        weights = torch.zeros(len(user_idx), len(used), device=self.device)
        weights[row, place] = value
        return weights @ self.similarity[used, start:stop]


@dataclass(frozen=True)
class ItemNeighbors(Composed):
    """Score = Σ over the user's history of weight · similarity, with few neighbors per item."""

    history: Sparse  # (U, I)
    neighbors: Sparse  # (I, I), row: history item; column: scored item

    def __post_init__(self) -> None:
        size = self.history.num_items
        fits = (self.neighbors.num_users, self.neighbors.num_items) == (size, size)
        check(fits, "the neighbors do not fit the history")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.history, self.neighbors

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return _products(self.history, self.neighbors, user_idx, start, stop)


@dataclass(frozen=True)
class UserNeighbors(Composed):
    """Score = Σ over the user's neighbors of similarity · what they have done."""

    similar: Sparse  # (U, V), row: who is asked about; column: one of the V users known
    histories: Sparse  # (V, I)

    def __post_init__(self) -> None:
        fits = self.similar.num_items == self.histories.num_users
        check(fits, "the histories do not fit the neighbors")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.similar, self.histories

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return _products(self.similar, self.histories, user_idx, start, stop)


@dataclass(frozen=True)
class Weighted(Composed):
    """Score = another one's score times the sum of a factor of the user and one of the item."""

    inner: Scorer
    by_user: Tensor  # (U,) float32
    by_item: Tensor  # (I,) float32

    def __post_init__(self) -> None:
        check(len(self.by_user) == self.inner.num_users, "the factors do not fit the users")
        check(len(self.by_item) == self.inner.num_items, "the factors do not fit the items")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.inner, self.inner

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        return self.weigh(self.inner.scores(user_idx, start, stop), user_idx, start, stop)

    def weigh(self, scores: Tensor, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of the other one, weighted in place."""
        return scores.mul_(self.by_user[user_idx, None] + self.by_item[start:stop])


@dataclass(frozen=True)
class Sum(Composed):
    """Score = the sum of the scores of several parts, each with a weight."""

    parts: tuple[Scorer, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check(0 < len(self.parts) == len(self.weights), "parts and weights differ in number")
        shapes = {(part.num_users, part.num_items) for part in self.parts}
        check(len(shapes) == 1, "the parts are for different numbers of users or items")

    def _ends(self) -> tuple[Scorer, Scorer]:
        return self.parts[0], self.parts[0]

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        """Scores (B, stop - start) of items start … stop-1 for users `user_idx` (B,)."""
        total = self.parts[0].scores(user_idx, start, stop) * self.weights[0]
        for part, weight in zip(self.parts[1:], self.weights[1:], strict=True):
            total.add_(part.scores(user_idx, start, stop), alpha=weight)
        return total


def _moved(part: Any, device: torch.device | str) -> Any:
    """A part of a kind on another device: a tensor, a kind, several of them, or neither."""
    if isinstance(part, tuple):
        return tuple(_moved(one, device) for one in part)
    return part.to(device) if hasattr(part, "to") else part


def _products(left: Sparse, right: Sparse, rows: Tensor, start: int, stop: int) -> Tensor:
    """Some rows (B,) of the product of two sparse matrices, dense: (B, stop - start).

    Memory: 50 bytes for each of `_PRODUCTS` products beside the block, whatever the rows hold.
    """
    if left.device.type == "cpu" and (start, stop) == (0, right.num_items):
        return _whole_products(left, right, rows)
    row, inner, weight = left.rows(rows)
    counts = right.indptr[inner + 1] - right.indptr[inner]
    # Each piece ends with the entry of `left` that fills it. A sum is added up in the same order
    # wherever that is.
    sizes = torch.bincount((counts.cumsum(0) - counts) // _PRODUCTS).tolist()
    block = torch.zeros(len(rows) * (stop - start), device=left.device)
    pieces = (torch.split(part, sizes) for part in (row, inner, weight))
    for at, these, factor in zip(*pieces, strict=True):
        entry, scored, value = right.rows(these)
        _add(block, at[entry], scored, factor[entry] * value, start, stop)
    return block.view(len(rows), stop - start)


def _whole_products(left: Sparse, right: Sparse, rows: Tensor) -> Tensor:
    """`_products` of all columns, by SciPy: the same sums in the same order, four times as fast."""
    block = np.zeros((len(rows), right.num_items), np.float32)
    some = max(_PRODUCTS // max(right.num_items, 1), 1)
    for first in range(0, len(rows), some):
        part = slice(first, first + some)
        (left.matrix[rows[part].numpy()] @ right.matrix).toarray(out=block[part])
    return torch.from_numpy(block)


def _block(row: Tensor, item: Tensor, value: Tensor, height: int, start: int, stop: int) -> Tensor:
    """Sums of values by (row, item) as a dense block (height, stop - start)."""
    block = torch.zeros(height * (stop - start), device=value.device)
    return _add(block, row, item, value, start, stop).view(height, stop - start)


def _add(block: Tensor, row: Tensor, item: Tensor, value: Tensor, start: int, stop: int) -> Tensor:
    """Add values by (row, item) to a flat block of items start … stop-1."""
    inside = (item >= start) & (item < stop)
    place = row[inside] * (stop - start) + item[inside] - start
    return block.index_add_(0, place, value[inside])


def check(holds: bool, problem: str) -> None:
    """Raise a `DataError` if the parts of a kind do not hold together."""
    if not holds:
        raise DataError(f"A scorer does not hold together: {problem}.")
