"""Full ranking against dense scores and a full sort, on random factors, in the same run.

    python benchmarks/ranking.py --users 4096 --items 100000 --dim 64

The two are timed in turns; medians and their ratio are printed. The plain matrix product, which
neither can do without, is timed beside them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from mbrec.graph import Pairs
from mbrec.ranking import Exclusion, TopK, top_k
from mbrec.scoring import Factors

DENSE_BATCH = 256  # users; all at once would not fit into memory


def dense(factors: Factors, users: torch.Tensor, k: int, exclude: Exclusion) -> TopK:
    """Scores of all items, masked, sorted in full."""
    lists = []
    for batch in users.split(DENSE_BATCH):
        scores = factors.scores(batch, 0, factors.num_items)
        scores[exclude.rows(batch)] = -torch.inf
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        lists.append((order, scores.gather(1, order)))
    return TopK(*(torch.cat(part) for part in zip(*lists, strict=True)))


def product(factors: Factors, users: torch.Tensor) -> None:
    for batch in users.split(DENSE_BATCH):
        factors.scores(batch, 0, factors.num_items)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Time the three in turns, check that they agree, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--seen", type=int, default=50, help="training items per user")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    factors = Factors(
        torch.randn(args.users, args.dim, generator=generator),
        torch.randn(args.items, args.dim, generator=generator),
    )
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, args.users * args.items, args.users * args.seen))
    rows, items = (part.astype(np.int32) for part in np.divmod(keys, args.items))
    exclude = Exclusion.from_pairs(Pairs(rows, items), args.users)
    users = torch.arange(args.users)

    ours = top_k(factors, users, args.k, exclude)
    theirs = dense(factors, users, args.k, exclude)
    same = (ours.items == theirs.items).float().mean()
    times: dict[str, list[float]] = {"top_k": [], "dense + argsort": [], "matrix product": []}
    for _ in range(args.repeat):
        times["top_k"].append(seconds(lambda: top_k(factors, users, args.k, exclude)))
        times["dense + argsort"].append(seconds(lambda: dense(factors, users, args.k, exclude)))
        times["matrix product"].append(seconds(lambda: product(factors, users)))
    print(
        f"{args.users} users × {args.items} items, d = {args.dim}, K = {args.k}, "
        f"{torch.get_num_threads()} threads, median of {args.repeat}; "
        f"{float(same):.4%} of the places hold the same item"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        each = value / (args.users * args.items) * 1e9
        print(f"  {name:<16}{value:>8.3f} s {each:>8.2f} ns per score")
    print(f"  ratio {medians['dense + argsort'] / medians['top_k']:.1f}")


if __name__ == "__main__":
    main()
