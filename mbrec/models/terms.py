"""What the losses of several methods are made of, for the rows of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.autograd.function import once_differentiable

from mbrec.losses import bpr
from mbrec.parallel.columns import Columns
from mbrec.propagation import Nodes
from mbrec.sampling import Batch

_BLOCK = {"cpu": 1 << 18}
"""Numbers that are looked up at a time for the scores of pairs, by kind of device: on the CPU,
1 MiB, which its cache holds."""

_LARGE_BLOCK = 1 << 26
"""The same for all others, where it counts to launch little."""

PerBehavior = NonNegativeFloat | dict[str, NonNegativeFloat]
"""One weight, or a table of behavior → weight; a behavior that the table does not name has 0."""


def gather(table: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows of one table for several index lists, by one lookup.

    The backward of every lookup fills and adds a gradient as large as the table; one lookup for all
    behaviors does so once.

    Args:
        table: (N, d).
        rows: Index tensors of any shapes.

    Returns:
        One tensor per index list, of its shape plus (d,).
    """
    found = _Gather.apply(  # type: ignore[no-untyped-call]
        table, *(index.flatten() for index in rows)
    )
    shapes = [(*index.shape, table.shape[1]) for index in rows]
    return [part.view(shape) for part, shape in zip(found, shapes, strict=True)]


class _Gather(torch.autograd.Function):
    """Lookups of one table, whose gradients are added to one tensor."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Rows (n, d) of a table (N, d) for every index (n,)."""
        ctx.count, ctx.rows = len(table), rows
        ctx.set_materialize_grads(False)
        return tuple(table.index_select(0, index) for index in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient of the table (N, d), from those of all lookups (n, d)."""
        total = None
        for index, gradient in zip(ctx.rows, gradients, strict=True):
            if gradient is not None:
                total = gradient.new_zeros(ctx.count, gradient.shape[1]) if total is None else total
                total.index_add_(0, index, gradient)
        return total, *(None for _ in gradients)


def distinct(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nodes that an index names, once each: cheaper than sorting.

    Args:
        index: Of any shape.
        count: How many nodes there are.

    Returns:
        The nodes, ascending, and where each of the index (flattened) stands among them.
    """
    flat = index.flatten()
    named = torch.zeros(count, dtype=torch.bool, device=flat.device).index_fill_(0, flat, True)
    place = named.cumsum(0).sub_(1)
    return named.nonzero().squeeze(1), place.index_select(0, flat)


def near_identity(nodes: Tensor, learned: Tensor) -> Tensor:
    """W e of all nodes, where what is learned is d (W - I).

    Such a map starts as the identity if `learned` starts as 0. At one learning rate of Adam, a
    plain d × d matrix would run far ahead of the embeddings: hence d.

    Args:
        nodes: e. (N, d)
        learned: d (W - I). (d, d)
    """
    return nodes + nodes @ (learned.T / len(learned))


def pair_scores(user: Tensor, items: Tensor) -> Tensor:
    """Inner products of every user with her items, (B, M), from (B, d) and (B, M, d)."""
    scores: Tensor = _PairScores.apply(user, items)  # type: ignore[no-untyped-call]
    return scores


class _PairScores(torch.autograd.Function):
    """Inner products by `bmm`.

    Its own backward multiplies matrices with a single row or column, for which the CPU takes five
    times as long as for the same products element by element.
    """

    @staticmethod
    def forward(ctx: Any, user: Tensor, items: Tensor) -> Tensor:
        """Scores (B, M) of users (B, d) and items (B, M, d)."""
        ctx.save_for_backward(user, items)
        return torch.bmm(items, user.unsqueeze(2)).squeeze(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of users and items, from that of the scores (B, M)."""
        user, items = ctx.saved_tensors
        each = gradient.unsqueeze(2)  # (B, M, 1)
        of_user = torch.zeros_like(user)
        for column, item in zip(each.unbind(1), items.unbind(1), strict=True):
            of_user.addcmul_(column, item)
        return of_user, each * user.unsqueeze(1)


def looked_up_scores(user: Tensor, item: Tensor, user_rows: Tensor, item_rows: Tensor) -> Tensor:
    """`pair_scores` of rows of two tables, without a copy of all these rows.

    Args:
        user: (N, d).
        item: (M, d).
        user_rows: Rows of `user`. (B,)
        item_rows: Rows of `item`, several for every user. (B, n)

    Returns:
        Inner products. (B, n)

    Memory: O((N + M) d), and the rows of one block of the batch.
    """
    scores: Tensor = _LookedUpScores.apply(  # type: ignore[no-untyped-call]
        user, item, user_rows, item_rows
    )
    return scores


class _LookedUpScores(torch.autograd.Function):
    """Looks the rows up block by block, once forward and once more backward."""

    @staticmethod
    def forward(
        ctx: Any, user: Tensor, item: Tensor, user_rows: Tensor, item_rows: Tensor
    ) -> Tensor:
        """Scores (B, n) of rows (B,) of `user` and rows (B, n) of `item`."""
        ctx.save_for_backward(user, item, user_rows, item_rows)
        scores = user.new_empty(item_rows.shape)
        for block, users, items, _ in _blocks(user, item, user_rows, item_rows):
            torch.linalg.vecdot(items, users.unsqueeze(1), out=scores[block])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients of both tables, from that of the scores (B, n)."""
        user, item, user_rows, item_rows = ctx.saved_tensors
        of_user, of_item = torch.zeros_like(user), torch.zeros_like(item)
        for block, users, items, flat in _blocks(user, item, user_rows, item_rows):
            each = gradient[block].unsqueeze(2)  # (n, M, 1)
            of_item.index_add_(0, flat, (each * users.unsqueeze(1)).flatten(0, 1))
            of_user.index_add_(0, user_rows[block], items.mul_(each).sum(1))
        return of_user, of_item, None, None


def _blocks(
    user: Tensor, item: Tensor, user_rows: Tensor, item_rows: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Which rows of a batch, their users (n, d) and items (n, M, d), and the items' flat index."""
    count, several = item_rows.shape
    size = _BLOCK.get(user.device.type, _LARGE_BLOCK) // max(1, several * user.shape[1])
    for start in range(0, count, max(1, size)):
        block = slice(start, start + max(1, size))
        flat = item_rows[block].flatten()
        items = item.index_select(0, flat).view(-1, several, item.shape[1])
        yield block, user.index_select(0, user_rows[block]), items, flat


def bpr_terms(
    embeddings: Mapping[str, Nodes], batch: Batch, columns: Columns | None = None
) -> dict[str, Tensor]:
    """The BPR loss of every behavior from embeddings of its own, as terms "bpr/<behavior>".

    Args:
        embeddings: Behavior → embeddings of all nodes, (U, d) and (I, d).
        batch: Behavior → its triples.
        columns: Those of the embeddings; all by default.
    """
    scores = []
    for behavior, triples in batch.items():
        (user,) = gather(embeddings[behavior].user, [triples.user_idx])
        (items,) = gather(embeddings[behavior].item, [triples.items])
        scores.append(pair_scores(user, items))  # (B, 1+N)
    summed = columns.total(scores) if columns is not None else scores
    return {
        f"bpr/{behavior}": bpr(found[:, 0], found[:, 1:])
        for behavior, found in zip(batch, summed, strict=True)
    }


def base_l2(
    user_emb: Tensor,
    item_emb: Tensor,
    batch: Batch,
    weights: PerBehavior = 1.0,
    columns: Columns | None = None,
) -> Tensor:
    """½ ‖e⁰‖² of the batch's rows, per behavior averaged over its pairs, summed over behaviors.

    Args:
        user_emb: (U, d).
        item_emb: (I, d).
        batch: Behavior → its triples, at least one.
        weights: β, or β per behavior.
        columns: Those of the embeddings; all by default.

    Returns:
        A scalar.
    """
    users = [triples.user_idx for triples in batch.values()]
    items = [triples.items for triples in batch.values()]
    shares = [0.5 / len(rows) for rows in users]
    factor = 1.0
    if isinstance(weights, Mapping):
        shares = [s * weights.get(b, 0.0) for b, s in zip(batch, shares, strict=True)]
    else:
        factor = weights
    found = _weighted_l2(user_emb, users, shares) + _weighted_l2(item_emb, items, shares)
    return factor * (columns.total([found])[0] if columns is not None else found)


def _weighted_l2(table: Tensor, rows: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Σ over index lists of share · Σ ‖row‖²."""
    flat = torch.cat([index.flatten() for index in rows])
    weights = torch.cat(
        [table.new_full((index.numel(),), share) for index, share in zip(rows, shares, strict=True)]
    )
    if 4 * len(flat) < len(table):
        table = table.index_select(0, flat)
    else:  # so many rows that all nodes cost no more: each once, by how often it stands there
        weights = table.new_zeros(len(table)).index_add_(0, flat, weights)
    squares: Tensor = _WeightedSquares.apply(table, weights)  # type: ignore[no-untyped-call]
    return squares


class _WeightedSquares(torch.autograd.Function):
    """Σ_n w_n ‖row n‖², for constant weights; its gradient is 2 w_n times row n."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor) -> Tensor:
        """The sum, a scalar, of a table (N, d) and weights (N,)."""
        ctx.save_for_backward(table, weights)
        return torch.dot(weights, torch.linalg.vector_norm(table, dim=1).square_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """The gradient of the table (N, d), from that of the sum."""
        table, weights = ctx.saved_tensors
        return (2 * outer * weights).unsqueeze(1) * table, None
