"""Columns of embeddings, split over ranks.

Every rank holds some columns (dimensions) of all rows. Sums over neighbors, residuals and Adam act
on each column by itself, so a rank does them for its own and says nothing to the others. Only what
mixes columns needs them: inner products, by sums over ranks; and gates, norms and the like, by rows
that are put together. Both are asked for the rows of a batch, whose number does not depend on the
graph.

Losses are computed by all ranks alike, from the same numbers. So every rank has the gradient of
whatever was put together, and takes from it what belongs to its columns: nothing is sent backward.
This is the column-wise split of embedding tables (as TorchRec names it) with the two operators of
Megatron-LM's tensor parallelism (Shoeybi et al., 2019) that are free in the backward pass.
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
        self._counts = [stop - start for start, stop in pairwise(bounds)]

    @property
    def own(self) -> slice:
        """The columns of this rank."""
        return self._slices[self.team.rank]

    @property
    def count(self) -> int:
        """How many those are."""
        return self._counts[self.team.rank]

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

    def rows(self, tables: Sequence[Tensor], index: Tensor) -> list[Tensor]:
        """Some rows as a whole, (B, d), of tables with own columns (N, d / R); differentiable."""
        return self.wholes([table.index_select(0, index) for table in tables])

    def wholes(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """`whole` of several tensors of one shape, in one exchange."""
        return list(self.whole(torch.stack(list(parts))).unbind(0)) if self.split else list(parts)

    def whole(self, part: Tensor) -> Tensor:
        """All columns, (…, d), of rows with own columns (…, d / R); differentiable.

        Sends 4 d / R bytes per row to every other rank.
        """
        if not self.split:
            return part
        found: Tensor = _Whole.apply(part, self)  # type: ignore[no-untyped-call]
        return found

    def total(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each part (any shape) as a sum over ranks, in one exchange; differentiable."""
        if not self.split or not parts:
            return list(parts)
        flat = torch.cat([part.flatten() for part in parts])
        summed: Tensor = _Total.apply(flat, self.team)  # type: ignore[no-untyped-call]
        sizes = [part.numel() for part in parts]
        return [
            found.view(part.shape)
            for found, part in zip(torch.split(summed, sizes), parts, strict=True)
        ]

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
            table[start : start + _CHUNK] = self.whole(part[start : start + _CHUNK].detach())
        return table

    def joined(self, part: Tensor, first_only: bool = False) -> Tensor | None:
        """All columns, without a gradient.

        Args:
            part: (…, d / R).
            first_only: For rank 0 alone; the others get None.
        """
        if not self.split:
            return part
        padded = torch.nn.functional.pad(part.detach(), (0, max(self._counts) - part.shape[-1]))
        found = self.team.gather_first(padded) if first_only else self.team.gather(padded)
        if found is None:
            return None
        columns = [found[rank][..., :count] for rank, count in enumerate(self._counts)]
        return torch.cat(columns, dim=-1)


class _Whole(torch.autograd.Function):
    """Puts rows together; backward takes own columns of the gradient, which all ranks have."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, columns: Columns) -> Tensor:
        ctx.own = columns.own
        whole = columns.joined(part)
        assert whole is not None
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[..., ctx.own].contiguous(), None


class _Total(torch.autograd.Function):
    """Adds up over ranks; each rank's part has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, team: Team) -> Tensor:
        return team.sum(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
