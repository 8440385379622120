"""Rows of a batch, looked up in tables whose columns are split over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mbrec.parallel.columns import Columns

_Asked = tuple[int, Sequence[Tensor]]  # which table, and which of its rows rank 0, 1, … needs

Rows = Callable[[], Tensor]
"""What was asked for, (n, d); to be called when all has been asked."""


class Lookup:
    """Rows of tables, as a whole, asked for one by one and fetched in one exchange; differentiable.

    Every rank asks for what all of them need. It can, as all draw the same batch; so only rows are
    sent.

    Args:
        columns: Those of the tables.

    Sends 4 d / R bytes for every row that another rank needs, and in the backward pass as many to
    every other rank for each own row. However often a table is asked, it gets one gradient.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._tables: dict[int, Tensor] = {}
        self._asked: list[list[_Asked]] = []
        self._found: Sequence[Tensor] = ()

    def ask(self, *pieces: tuple[Tensor, Sequence[Tensor]]) -> Rows:
        """Own rows of a table, or of several, one below the other.

        Args:
            pieces: Own columns of a table (N, d / R), and which of its rows rank 0, 1, … needs,
                distinct and ascending. (n_r,) each

        Returns:
            What gives the rows of this rank. (n_r, d), or the sum of the pieces' n_r
        """
        assert not self._found, "it was fetched before all was asked"
        place = len(self._asked)
        asked = []
        for table, rows in pieces:
            self._tables[id(table)] = table
            asked.append((list(self._tables).index(id(table)), rows))
        self._asked.append(asked)
        return lambda: self._fetched()[place]

    def _fetched(self) -> Sequence[Tensor]:
        if not self._found:
            tables = self._tables.values()
            self._found = _Lookup.apply(  # type: ignore[no-untyped-call]
                self._columns, self._asked, *tables
            )
        return self._found


class _Lookup(torch.autograd.Function):
    """Own columns of the rows of all ranks, which become all columns of the rows of this one.

    Nothing is added up on the way, so the gradient goes the same way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        columns: Columns,
        asked: Sequence[Sequence[_Asked]],
        *tables: Tensor,
    ) -> tuple[Tensor, ...]:
        """All columns of this rank's rows, (n, d) for each that was asked for."""
        team = columns.team
        pieces = list(chain(*asked))
        by_rank = [[(place, rows[r]) for place, rows in pieces] for r in range(team.ranks)]
        lengths = [[len(rows) for _, rows in needs] for needs in by_rank]
        parts = team.room([(sum(length), columns.count) for length in lengths], tables[0])
        for needs, length, part in zip(by_rank, lengths, parts, strict=True):
            for (place, rows), piece in zip(needs, torch.split(part, length), strict=True):
                torch.index_select(tables[place], 0, rows, out=piece)
        ctx.columns, ctx.by_rank, ctx.lengths = columns, by_rank, lengths
        ctx.counts = [len(table) for table in tables]
        own = iter(lengths[team.rank])
        ctx.together = [[next(own) for _ in one] for one in asked]
        return torch.split(columns.dealt(parts), [sum(length) for length in ctx.together])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the tables' own columns, from those of the rows of all ranks."""
        if ctx.columns.split:
            parts = ctx.columns.returned(gradients, [sum(length) for length in ctx.lengths])
            found = [torch.split(*part) for part in zip(parts, ctx.lengths, strict=True)]
        else:
            together = zip(gradients, ctx.together, strict=True)
            found = [tuple(chain(*(torch.split(*part) for part in together)))]
        sums: dict[int, Tensor] = {}
        offsets: dict[tuple[int, int], Tensor] = {}  # several tables are asked for the same rows
        for needs, pieces in zip(ctx.by_rank, found, strict=True):
            for (place, rows), piece in zip(needs, pieces, strict=True):
                if place in sums:
                    sums[place].index_add_(0, rows, piece)
                    continue
                count = ctx.counts[place]
                key = id(rows), count
                if key not in offsets:
                    offsets[key] = _offsets(rows, count)
                sums[place] = _spread(piece, offsets[key])
        return None, None, *(sums[place] for place in range(len(ctx.counts)))


def _spread(piece: Tensor, offsets: Tensor) -> Tensor:
    """A table (N, d) that holds `piece` (n, d) in some of its rows, and 0 in the others.

    As bags of one row or none: one pass, where filling with 0 and adding would be two over memory
    that no cache has yet.
    """
    every = torch.arange(len(piece), device=piece.device)
    return F.embedding_bag(every, piece, offsets, mode="sum")


def _offsets(rows: Tensor, count: int) -> Tensor:
    """Where in `rows` (n,) each of `count` rows is, or would be: (count,)."""
    sizes = torch.zeros(count, dtype=torch.int64, device=rows.device).index_fill_(0, rows, 1)
    return sizes.cumsum(0) - sizes
