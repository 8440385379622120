"""Full ranking: the K best of all items for every user, in memory that does not grow with U × I.

Scores are computed tile by tile (some users × some items). A tile is first reduced to the maxima
of groups of `GROUP` neighboring items; only groups whose maximum beats the user's K-th best score
so far are looked at again. After the first tiles hardly any does, so ranking costs little more
than the matrix product.

**Ties.** Of equal scores the item with the lower index ranks first, at the K-th place too.

**Independence of chunks.** The grid of tiles follows from the numbers of users and items and the
kind of device alone; `user_batch` and `item_block` only say how many tiles are ranked at a time.
Every score thus comes from the same call of the scorer whatever they are, and the result is equal
to the last bit. Asking for *other users*, or with another number of threads, may compute a score in
another place of a product; its last bit is then up to the library that multiplies (MKL kept it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.scoring import Scorer

GROUP = 32  # neighboring items that share a maximum
_TILE = {"cpu": (128, 16384), "cuda": (2048, 65536)}  # users × items, by device type
_EMPTY = torch.iinfo(torch.int64).min  # the key of no item
_LOW = (1 << 32) - 1
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
        """The excluded items of users (B,): rows 0 … B-1 and items, both (E,), by row."""
        start = self.indptr[user_idx]
        counts = self.indptr[user_idx + 1] - start
        rows = torch.repeat_interleave(torch.arange(len(user_idx)), counts)
        first = torch.cumsum(counts, 0) - counts
        return rows, self.items[torch.arange(len(rows)) + (start - first)[rows]].long()

    def blocks(self, user_idx: Tensor, starts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """What `rows` gives, block of items by block, counted from the block's start."""
        rows, items = self.rows(user_idx.cpu())
        bounds = [0, len(items)]
        if len(starts) > 1:
            items, order = items.sort()
            rows = rows[order]
            bounds[:1] = torch.searchsorted(items, torch.tensor(starts)).tolist()
        rows, items = rows.to(user_idx.device), items.to(user_idx.device)
        for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
            yield rows[first:last], items[first:last] - start


@dataclass(frozen=True)
class _Grid:
    """The tiles: of fixed shape, whatever the chunks are."""

    height: int
    width: int
    num_items: int

    @classmethod
    def of(cls, num_items: int, device: torch.device) -> _Grid:
        """The grid for so many items on a kind of device."""
        height, width = _TILE.get(device.type, _TILE["cuda"])
        tiles = max(-(-num_items // width), 1)
        # Tiles of equal width: a narrow last one would cost nearly as much as a full one.
        return cls(height, _round_up(max(num_items, 1), tiles * GROUP) // tiles, num_items)

    def users(self, count: int, user_batch: int | None, threads: int) -> Iterator[slice]:
        """Batches, one for each thread at a time; at least two unless one tile holds all users."""
        together = min(user_batch or threads * self.height, count)
        step = _round_up(-(-together // threads), self.height)
        return (slice(start, start + step) for start in range(0, count, step or 1))

    def items(self, item_block: int | None) -> Iterator[tuple[int, int]]:
        """First item and end of every block."""
        step = _round_up(item_block or self.width, self.width)
        stops = range(0, self.num_items, step)
        return ((start, min(start + step, self.num_items)) for start in stops)


def tile_height(device: torch.device) -> int:
    """Users of a tile: who splits users by whole tiles gets the same scores, to the last bit."""
    return _TILE.get(device.type, _TILE["cuda"])[0]


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
        user_idx: (N,) integer.
        k: Length of the lists.
        exclude: Items to leave out, e.g. those of training.
        user_batch: Users ranked at a time by all threads together, rounded up to whole tiles; by
            default one tile per thread.
        item_block: Items scored at a time, rounded up to whole tiles; by default one tile.

    Returns:
        Lists in the order of `user_idx`, on the scorer's device. They depend neither on
        `user_batch` nor on `item_block`.

    Raises:
        UsageError: `k`, `user_batch` or `item_block` is below 1.
        TrainingError: A score is not a number.

    On the CPU, batches of users are ranked in as many threads as torch uses. From some ten thousand
    items on, time is little more than that of the matrix product; memory is
    O(user_batch × item_block + N k).
    """
    for name, value in (("k", k), ("user_batch", user_batch), ("item_block", item_block)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}.", "It must be at least 1.")
    grid, user_idx = _Grid.of(scorer.num_items, scorer.device), user_idx.to(scorer.device)
    threads = torch.get_num_threads() if scorer.device.type == "cpu" else 1
    batches = [user_idx[rows] for rows in grid.users(len(user_idx), user_batch, threads)]
    parts = _in_threads(
        lambda users: _rank(scorer, users, k, exclude, grid, item_block), batches, threads
    )
    return _unpack(torch.cat([_empty(0, k, user_idx.device), *parts]))


def _in_threads(
    work: Callable[[Tensor], Tensor], batches: list[Tensor], threads: int
) -> list[Tensor]:
    """Do each batch in one thread: small operations gain little from many, and wait for all."""
    if min(threads, len(batches)) < 2:
        return [work(batch) for batch in batches]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "mbrec", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(work, batches))
    finally:
        torch.set_num_threads(before)  # what threads that start later begin with


@torch.no_grad()
def _rank(
    scorer: Scorer,
    user_idx: Tensor,
    k: int,
    exclude: Exclusion | None,
    grid: _Grid,
    item_block: int | None,
) -> Tensor:
    """Rank all items for one batch of users: keys (B, k)."""
    best = _empty(len(user_idx), k, user_idx.device)
    blocks = list(grid.items(item_block))
    masks = (
        exclude.blocks(user_idx, [start for start, _ in blocks]) if exclude is not None else None
    )
    for start, stop in blocks:
        scores = _scores(scorer, user_idx, start, stop, grid)
        if masks is not None:
            scores[next(masks)] = -torch.inf
        best = _update(best, scores, start)
    return best


def _scores(scorer: Scorer, user_idx: Tensor, start: int, stop: int, grid: _Grid) -> Tensor:
    """Scores (B, n) float32 of items start … stop-1, always computed by whole tiles.

    n is stop - start, but at least `GROUP`; beyond `stop` stands -inf.
    """
    rows = []
    for top in range(0, len(user_idx), grid.height):
        users = user_idx[top : top + grid.height]
        padded = torch.cat([users, users[:1].expand(max(_MIN_ROWS - len(users), 0))])
        tiles = [
            scorer.scores(padded, left, min(left + grid.width, stop))[: len(users)].float()
            for left in range(start, stop, grid.width)
        ]
        rows.append(torch.cat(tiles, dim=1) if len(tiles) > 1 else tiles[0])
    scores = torch.cat(rows) if len(rows) > 1 else rows[0]
    if stop - start < GROUP:
        scores = torch.nn.functional.pad(scores, (0, GROUP - (stop - start)), value=-torch.inf)
    return scores.contiguous()  # a scorer may expand one row: that could not be written to


def _update(best: Tensor, scores: Tensor, start: int) -> Tensor:
    """Merge the scores (B, n) of items from `start` on into the keys of the best so far (B, k)."""
    count, k = best.shape
    rows, columns, values = _candidates(best, scores)
    if not len(rows):
        return best
    sizes = torch.bincount(rows, minlength=count)
    places = k + torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
    merged = _empty(count, k + int(sizes.max()), rows.device)
    merged[:, :k] = best
    merged[rows, places] = _pack(values, columns + start)
    return merged.topk(k, dim=1).values


def _candidates(best: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values, by row, of the scores (B, n) that may enter.

    A score equal to the K-th best so far stays out: its item has a higher index.
    """
    width = scores.shape[1]
    whole = width - width % GROUP
    maxima = torch.unflatten(scores[:, :whole], 1, (-1, GROUP)).amax(2)  # (B, groups)
    if whole < width:
        maxima = torch.cat([maxima, scores[:, whole:].amax(1, keepdim=True)], dim=1)
    if bool(maxima.isnan().any()):
        raise TrainingError(
            "The model gives scores that are not numbers (NaN).",
            "Its training has diverged; train again with a lower learning rate.",
        )
    rows, groups, lower = _groups(best, maxima)
    # A last group that is not whole is read together with the end of the one before it.
    first = (groups * GROUP).clamp(max=width - GROUP)
    values = scores.view(-1).unfold(0, GROUP, 1).index_select(0, rows * width + first)  # (C, GROUP)
    hits = (values > lower[rows, None]).view(-1).nonzero().squeeze(1)
    which = torch.div(hits, GROUP, rounding_mode="floor")
    columns = first[which] + hits % GROUP
    own = columns >= groups[which] * GROUP
    return rows[which][own], columns[own], values.view(-1)[hits][own]


def _groups(best: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which groups may hold a score that can enter, from the maxima (B, G) of all groups.

    Returns:
        Rows (C,) and groups (C,), by row, and a value (B,) that such a score exceeds.
    """
    (count, width), k = maxima.shape, best.shape[1]
    kth = _unpack(best[:, -1]).scores
    if bool((kth > -torch.inf).all()):
        rows, groups = (maxima > kth[:, None]).nonzero(as_tuple=True)
        if len(rows) <= k * count:
            return rows, groups, kth
    # The K best scores lie in the K groups of the best maxima, ties settled in the same way: each
    # better group holds a better score. However many scores are equal, this bounds the candidates.
    keys = _pack(maxima, torch.arange(width, device=maxima.device)).topk(min(k, width), dim=1)
    rows = torch.arange(count, device=maxima.device).repeat_interleave(keys.indices.shape[1])
    if width < k:
        return rows, keys.indices.view(-1), kth
    weakest = _unpack(keys.values[:, -1]).scores
    below = torch.nextafter(weakest, torch.full_like(weakest, -torch.inf))
    return rows, keys.indices.view(-1), torch.maximum(kth, below)


def _pack(scores: Tensor, items: Tensor) -> Tensor:
    """One int64 key per (score, item): keys order by score, then by lower item index."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 the 0.0 that it equals
    return (_flip(bits).long() << 32) | (_LOW - items)


def _unpack(keys: Tensor) -> TopK:
    """The (score, item) of each key."""
    empty = keys == _EMPTY
    scores = _flip((keys >> 32).int()).view(torch.float32).masked_fill(empty, -torch.inf)
    return TopK((_LOW - (keys & _LOW)).masked_fill(empty, -1), scores)


def _flip(bits: Tensor) -> Tensor:
    """Float bits ↔ integers in the order of the floats: negative ones are stored reversed."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _empty(count: int, k: int, device: torch.device) -> Tensor:
    return torch.full((count, k), _EMPTY, dtype=torch.int64, device=device)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
