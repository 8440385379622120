"""Columns of embeddings, split over ranks.

Every rank holds some columns (dimensions) of all rows. Sums over neighbors, residuals and Adam act
on each column by itself, so a rank does them for its own and says nothing to the others. Only what
mixes columns needs them, for the rows of a batch, whose number does not depend on the graph:

* Inner products are sums over ranks (`total`). All compute the same loss from them, so each has the
  gradient of the sum, and nothing is sent backward.
* Gates, norms and the like need whole rows. The batch is split over ranks, each gets the rows of
  its share (`mbrec.parallel.lookup`) and gives back their gradient; a loss is the sum of what the
  shares give.

This is the column-wise split of embedding tables, as TorchRec names it, under a model whose other
weights all ranks have. All draw the same batch, so nobody has to tell which rows it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mbrec.parallel.team import ALONE, Team

_CHUNK = 1 << 14  # rows that are put together at a time where all rows are


class Columns:
    """The columns of tables with `size` of them, as even a split as there is.

    Args:
        team: The ranks; a single one holds all columns, and everything here is free.
        size: d ≥ R.
    """

    def __init__(self, team: Team = ALONE, size: int = 1) -> None:
        self.team, self.size = team, size
        bounds = [rank * size // team.ranks for rank in range(team.ranks + 1)]
        self._slices = [slice(*pair) for pair in pairwise(bounds)]
        self.counts = [stop - start for start, stop in pairwise(bounds)]
        """How many columns each rank has."""

    @property
    def own(self) -> slice:
        """The columns of this rank."""
        return self._slices[self.team.rank]

    @property
    def count(self) -> int:
        """How many those are."""
        return self.counts[self.team.rank]

    @property
    def split(self) -> bool:
        """Whether there are others."""
        return self.team.ranks > 1

    def drawn(self, count: int, fill: Callable[[Tensor], Any]) -> Tensor:
        """Own columns of a new (count, d) table.

        Args:
            count: Rows.
            fill: Fills a tensor by drawing for one element after the other, so that chunks of rows
                get what the whole table would: `uniform_` and `normal_` of torch on the CPU do.

        Returns:
            (count, d / R). The whole table never exists, unless it is this rank's.
        """
        if not self.split:
            table = torch.empty(count, self.size)
            fill(table)
            return table
        own = torch.empty(count, self.count)
        starts = list(range(0, count, _CHUNK))
        # `normal_` draws in groups of 16, and other than in the middle for the last elements of a
        # tensor: chunks are of whole groups, and the last one is not small.
        if len(starts) > 1:
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], count], strict=True):
            chunk = torch.empty(stop - start, self.size)
            fill(chunk)
            own[start:stop] = chunk[:, self.own]
        return own

    def shares(self, rows: Tensor) -> list[Tensor]:
        """Which rows of a batch, (B, …), rank 0, 1, … takes on: as even a split as there is.

        Where there are fewer rows than ranks, some take on none.
        """
        return list(torch.tensor_split(rows, self.team.ranks)) if self.split else [rows]

    def dealt(self, parts: Sequence[Tensor]) -> Tensor:
        """All columns of the rows of this rank, (n_r, d); not differentiable.

        Args:
            parts: Own columns of the rows of rank 0, 1, …. (n_r, d / R) each
        """
        rows = len(parts[self.team.rank])
        found = self.team.exchange(parts, [(rows, count) for count in self.counts])
        return torch.cat(found, dim=1) if self.split else found[0]

    def returned(self, whole: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
        """What `dealt` was given, from what it gave; not differentiable.

        Args:
            whole: All columns of the rows of this rank, in any number of pieces. (…, d) each
            rows: n_r of all ranks.
        """
        shapes = [(sum(len(piece) for piece in whole), count) for count in self.counts]
        parts = self.team.room(shapes, whole[0])
        for part, columns in zip(parts, self._slices, strict=True):
            torch.cat([piece[:, columns] for piece in whole], out=part)
        return self.team.exchange(parts, [(count, self.count) for count in rows])

    def total(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each part (any shape) as a sum over ranks, in one exchange; differentiable."""
        if not self.split or not parts:
            return list(parts)
        summed: tuple[Tensor, ...] = _Total.apply(self.team, *parts)  # type: ignore[no-untyped-call]
        return list(summed)

    def each_row(self, work: Callable[..., Tensor], *tables: Tensor | None) -> Tensor:
        """Own columns of what `work` makes of whole rows, over all rows; not differentiable.

        Args:
            work: Row by row, from (n, d) each to (n, d).
            tables: (N, d / R) each, or None, which `work` gets as it is.

        Memory: that of one chunk of rows, beside the result.
        """
        if not self.split:
            return work(*tables)
        given = [table for table in tables if table is not None]
        parts = []
        for start in range(0, len(given[0]), _CHUNK):
            rows = torch.stack([table[start : start + _CHUNK] for table in given])
            found = iter(self.whole(rows).unbind(0))
            whole = work(*(None if table is None else next(found) for table in tables))
            parts.append(whole[:, self.own].clone())
        return torch.cat(parts)

    def all_rows(self, part: Tensor) -> Tensor:
        """The whole table (N, d) of own columns (N, d / R), by chunks; not differentiable."""
        if not self.split:
            return part
        table = part.new_empty((len(part), self.size))
        for start in range(0, len(part), _CHUNK):
            table[start : start + _CHUNK] = self.whole(part[start : start + _CHUNK])
        return table

    def whole(self, part: Tensor) -> Tensor:
        """All columns, (…, d), of own columns (…, d / R), for all ranks; not differentiable."""
        found = self.joined(part)
        assert found is not None
        return found

    def joined(self, part: Tensor, first_only: bool = False) -> Tensor | None:
        """`whole`, or if `first_only` for rank 0 alone, while the others get None."""
        if not self.split:
            return part
        padded = torch.nn.functional.pad(part.detach(), (0, max(self.counts) - part.shape[-1]))
        found = self.team.gather_first(padded) if first_only else self.team.gather(padded)
        if found is None:
            return None
        columns = [found[rank][..., :count] for rank, count in enumerate(self.counts)]
        return torch.cat(columns, dim=-1)


class _Total(torch.autograd.Function):
    """Adds up over ranks; each rank's part has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, team: Team, *parts: Tensor) -> tuple[Tensor, ...]:
        """The sums of all parts over ranks, each of its part's shape."""
        return tuple(team.sums(parts))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the parts: those of the sums."""
        return None, *gradients
