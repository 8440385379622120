"""Rank random scores in random chunks, and compare with a sort of all scores.

    python tests/fuzz/chunkings.py --count 1000000

The tiles of `mbrec.ranking` are made small, so that small cases have many of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mbrec import metrics, ranking
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion, top_k

PER_CASE = 200  # chunkings of the same scores


@dataclass(frozen=True)
class Dense:
    """A scorer that looks scores up, (U, I)."""

    table: Tensor

    @property
    def num_users(self) -> int:
        return self.table.shape[0]

    @property
    def num_items(self) -> int:
        return self.table.shape[1]

    @property
    def device(self) -> torch.device:
        return self.table.device

    def scores(self, user_idx: Tensor, start: int, stop: int) -> Tensor:
        return self.table[user_idx, start:stop]


class Case:
    """Random scores with ties, excluded and held-out items, and the right lists and metrics."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.users, self.items = int(rng.integers(1, 10)), int(rng.integers(1, 161))
        self.k = int(rng.integers(1, 25))
        levels = int(rng.choice([1, 2, 7, 1000, 10**6]))
        table = rng.integers(-levels, levels, (self.users, self.items)).astype(np.float32)
        mask = rng.random((self.users, self.items)) < rng.choice([0, 0.1, 0.9, 1])
        users, items = np.nonzero(mask)
        pairs = Pairs(users.astype(np.int32), items.astype(np.int32))
        self.exclude = Exclusion.from_pairs(pairs, self.users)
        self.scorer = Dense(torch.from_numpy(table))
        self.everyone = torch.arange(self.users)
        table[mask] = -np.inf
        order = np.argsort(-table, axis=1, kind="stable")[:, : self.k]
        lists = np.where(np.take_along_axis(table, order, 1) == -np.inf, -1, order)
        self.lists = np.pad(lists, ((0, 0), (0, self.k - lists.shape[1])), constant_values=-1)
        held = rng.integers(0, self.items, self.users).astype(np.int32)
        self.held_out = Pairs(np.arange(self.users, dtype=np.int32), held)
        self.values = metrics.per_user(self.lists, self.held_out, [self.k])
        # The table was changed in place, and the scorer sees it: excluded items are -inf there,
        # too, which a scorer may say. Half of the cases leave it to the exclusion alone.
        if seed % 2:
            table[mask] = levels

    def fails(self, user_batch: int | None, item_block: int | None) -> bool:
        """Whether lists or metrics are not the right ones in these chunks."""
        found = top_k(
            self.scorer,
            self.everyone,
            self.k,
            self.exclude,
            user_batch=user_batch,
            item_block=item_block,
        ).items.numpy()
        if not np.array_equal(found, self.lists):
            return True
        values = metrics.per_user(found, self.held_out, [self.k])
        return any(not np.array_equal(values[name], self.values[name]) for name in self.values)


def check(count: int, seed: int, per_case: int = PER_CASE) -> list[tuple[int, int, int]]:
    """Rank in `count` random chunkings; give the seed and the chunks of those that fail."""
    failures, before = [], ranking._TILE["cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(-(-count // per_case)):
            case = Case(seed * 10**6 + number)
            rng = np.random.default_rng([seed, number])
            for _ in range(min(per_case, count - number * per_case)):
                tile = int(rng.integers(1, 6)), int(rng.choice([32, 64, 96]))
                ranking._TILE["cpu"] = tile
                user_batch = int(rng.integers(1, case.users + 2))
                item_block = int(rng.integers(1, case.items + 2))
                if case.fails(user_batch, item_block):
                    failures.append((seed * 10**6 + number, user_batch, item_block))
    finally:
        ranking._TILE["cpu"] = before
        torch.set_num_threads(threads)
    return failures


def main() -> int:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    done, failures, started = 0, 0, time.process_time()
    while done < options.count:
        part = min(20_000, options.count - done)
        found = check(part, options.seed + done // 20_000)
        done, failures = done + part, failures + len(found)
        print(
            f"{done:,} chunkings, {failures} failures {found[:3] or ''}, "
            f"{time.process_time() - started:.0f} s CPU",
            flush=True,
        )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
