"""Full ranking: the K best of all items for every user, in memory that does not grow with U × I.

Scores are computed tile by tile (some users × some items). A tile is first reduced to the maxima
of groups of `GROUP` neighboring items; only groups whose maximum beats the user's K-th best score
so far are looked at again. After the first tiles hardly any does, so ranking costs little more
than the matrix product.

**Ties.** Of equal scores the item with the lower index ranks first, at the K-th place too.

**Independence of chunks.** The grid of tiles follows from the numbers of users and items and the
kind of device alone; `user_batch` and `item_block` only say how many tiles are ranked at a time.
Every score thus comes from the same call of the scorer whatever they are, and the result is equal
to the last bit. Asking for *other users* may move a user to another row of a tile; whether her
scores keep their last bit then is up to the matrix product (with MKL they did in our tests).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.scoring import Scorer

GROUP = 32  # neighboring items that share a maximum
_TILE = {"cpu": (512, 8192), "cuda": (2048, 65536)}  # users × items, by device type
_MIN_ROWS = 16  # products of fewer rows run other kernels, whose last bits differ


class TopK(NamedTuple):
    """The best items of N users, best first."""

    items: Tensor  # (N, k) int64; -1 where fewer than k items are left
    scores: Tensor  # (N, k) float32; -inf there


@dataclass(frozen=True)
class Exclusion:
    """Items that are not ranked, per user, in CSR form."""

    indptr: Tensor  # (U + 1,) int64
    items: Tensor  # (E,) int32

    @classmethod
    def from_pairs(cls, pairs: Pairs, num_users: int) -> Exclusion:
        """Index pairs that are sorted by user."""
        counts = np.bincount(pairs.user_idx, minlength=num_users)
        indptr = np.concatenate(([0], np.cumsum(counts)))
        return cls(torch.from_numpy(indptr), torch.tensor(pairs.item_idx))

    def rows(self, user_idx: Tensor) -> tuple[Tensor, Tensor]:
        """The excluded items of users (B,): rows 0 … B-1 and items, sorted by item."""
        start = self.indptr[user_idx]
        counts = self.indptr[user_idx + 1] - start
        rows = torch.repeat_interleave(torch.arange(len(user_idx)), counts)
        first = torch.cumsum(counts, 0) - counts
        items, order = self.items[torch.arange(len(rows)) + (start - first)[rows]].sort()
        return rows[order], items.long()


@dataclass(frozen=True)
class _Grid:
    """The tiles: of fixed shape, whatever the chunks are."""

    height: int
    width: int
    num_items: int

    @classmethod
    def of(cls, num_items: int, device: torch.device) -> _Grid:
        height, width = _TILE.get(device.type, _TILE["cuda"])
        tiles = max(-(-num_items // width), 1)
        # Tiles of equal width: a narrow last one would cost nearly as much as a full one.
        return cls(height, _round_up(max(num_items, 1), tiles * GROUP) // tiles, num_items)

    def users(self, count: int, user_batch: int | None) -> Iterator[tuple[int, int]]:
        step = _round_up(user_batch or self.height, self.height)
        return ((start, min(start + step, count)) for start in range(0, count, step))

    def items(self, item_block: int | None) -> Iterator[tuple[int, int]]:
        step = _round_up(item_block or self.width, self.width)
        stops = range(0, self.num_items, step)
        return ((start, min(start + step, self.num_items)) for start in stops)


@torch.no_grad()
def top_k(
    scorer: Scorer,
    user_idx: Tensor,
    k: int,
    exclude: Exclusion | None = None,
    *,
    user_batch: int | None = None,
    item_block: int | None = None,
) -> TopK:
    """Rank all items for some users.

    Args:
        scorer: Scores one behavior. An item scored -inf is never ranked.
        user_idx: (N,) integer; the result is on its device, which must be the scorer's.
        k: Length of the lists.
        exclude: Items to leave out, e.g. those of training.
        user_batch: Users ranked at a time, rounded up to whole tiles; by default one tile.
        item_block: Items scored at a time, likewise.

    Returns:
        Lists in the order of `user_idx`. They depend neither on `user_batch` nor on `item_block`.

    Raises:
        UsageError: `k`, `user_batch` or `item_block` is below 1.
        TrainingError: A score is not a number.

    Time is that of the matrix product plus about a third; memory is O(user_batch × item_block).
    """
    for name, value in (("k", k), ("user_batch", user_batch), ("item_block", item_block)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}.", "It must be at least 1.")
    grid = _Grid.of(scorer.num_items, user_idx.device)
    parts = [
        _rank(scorer, user_idx[start:stop], k, exclude, grid, item_block)
        for start, stop in grid.users(len(user_idx), user_batch)
    ]
    if not parts:
        return _empty(0, k, user_idx.device)
    return TopK(torch.cat([p.items for p in parts]), torch.cat([p.scores for p in parts]))


def _rank(
    scorer: Scorer,
    user_idx: Tensor,
    k: int,
    exclude: Exclusion | None,
    grid: _Grid,
    item_block: int | None,
) -> TopK:
    """Rank all items for one batch of users."""
    best = _empty(len(user_idx), k, user_idx.device)
    if exclude is not None:
        rows, items = (part.to(user_idx.device) for part in exclude.rows(user_idx.cpu()))
    for start, stop in grid.items(item_block):
        scores = _scores(scorer, user_idx, start, stop, grid)
        if exclude is not None:
            first, last = torch.searchsorted(items, torch.tensor([start, stop]).to(items)).tolist()
            scores[rows[first:last], items[first:last] - start] = -torch.inf
        best = _update(best, scores, start)
    return best


def _scores(scorer: Scorer, user_idx: Tensor, start: int, stop: int, grid: _Grid) -> Tensor:
    """Scores (B, stop - start), float32, always computed by whole tiles."""
    tiles = []
    for top in range(0, len(user_idx), grid.height):
        users = user_idx[top : top + grid.height]
        missing = max(_MIN_ROWS - len(users), 0)
        padded = torch.cat([users, users[:1].expand(missing)])
        row = [
            scorer.scores(padded, left, min(left + grid.width, stop))[: len(users)].float()
            for left in range(start, stop, grid.width)
        ]
        tiles.append(torch.cat(row, dim=1) if len(row) > 1 else row[0])
    # A scorer may return an expanded tensor, which could not be written to.
    return torch.cat(tiles) if len(tiles) > 1 else tiles[0].contiguous()


def _update(best: TopK, scores: Tensor, start: int) -> TopK:
    """Merge scores (B, n) of items start … start+n-1 into the best so far (of lower indices)."""
    rows, columns, values = _candidates(best, scores)
    if not len(rows):
        return best
    count, k = best.items.shape
    sizes = torch.bincount(rows, minlength=count)
    places = k + torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
    longest = int(sizes.max())
    merged = _empty(count, k + longest, rows.device)
    merged.items[:, :k], merged.scores[:, :k] = best
    merged.items[rows, places] = columns + start
    merged.scores[rows, places] = values
    # Places ascend with item indices, so a stable sort keeps the lower index first among equals.
    ordered, order = merged.scores.sort(dim=1, descending=True, stable=True)
    return TopK(merged.items.gather(1, order[:, :k]), ordered[:, :k])


def _candidates(best: TopK, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the scores (B, n) that may enter, by row, then column.

    A score equal to the K-th best so far stays out: its item has a higher index.
    """
    width = scores.shape[1]
    whole = width - width % GROUP
    maxima = scores[:, :whole].unflatten(1, (-1, GROUP)).amax(2)  # (B, groups)
    if whole < width:
        maxima = torch.cat([maxima, scores[:, whole:].amax(1, keepdim=True)], dim=1)
    if bool(maxima.isnan().any()):
        raise TrainingError(
            "The model gives scores that are not numbers (NaN).",
            "Its training has diverged; train again with a lower learning rate.",
        )
    lower = _lower_bound(best, scores, maxima)
    rows, groups = (maxima > lower[:, None]).nonzero(as_tuple=True)
    columns = groups[:, None] * GROUP + torch.arange(GROUP, device=scores.device)  # (C, GROUP)
    values = scores[rows[:, None], columns.clamp(max=width - 1)]
    which, inside = ((values > lower[rows, None]) & (columns < width)).nonzero(as_tuple=True)
    return rows[which], columns[which, inside], values[which, inside]


def _lower_bound(best: TopK, scores: Tensor, maxima: Tensor) -> Tensor:
    """A value (B,) that every score which can still enter exceeds."""
    kth, k = best.scores[:, -1], best.scores.shape[1]
    if bool((kth > -torch.inf).all()) or k > scores.shape[1]:
        return kth
    # k groups have a maximum of at least the k-th maximum, so k scores are at least that.
    enough = maxima if maxima.shape[1] >= 2 * k else scores
    bound = enough.topk(k, dim=1).values[:, -1]
    return torch.maximum(kth, torch.nextafter(bound, torch.full_like(bound, -torch.inf)))


def _empty(count: int, k: int, device: torch.device) -> TopK:
    return TopK(
        torch.full((count, k), -1, dtype=torch.int64, device=device),
        torch.full((count, k), -torch.inf, device=device),
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
