"""Top-K lists on random factors: users per second against implicit, and a full sort.

    python benchmarks/ranking.py --users 8192 --items 100000 --dim 64

implicit (its C++ top-K, `AlternatingLeastSquares.recommend`) takes part where it is installed
(`pip install implicit`). The full sort of dense scores, and the plain matrix product that none can
do without, do a part of the users, and are counted per user.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# implicit multiplies by the BLAS of SciPy in threads of its own, and asks for this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import torch
from logs import random_pairs
from scipy.sparse import csr_matrix
from turns import Times, goal, in_turns, machine

from mbrec.export import write_lists
from mbrec.graph import Pairs
from mbrec.list_tables import Ids
from mbrec.ranking import Exclusion, TopK, top_k
from mbrec.scoring import Factors

DENSE_BATCH = 256  # users; all at once would not fit into memory
DENSE_USERS = 512  # that are sorted in full, which takes long

Lists = Callable[[], tuple[np.ndarray, np.ndarray]]


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
    """Nothing but the scores of all items."""
    for batch in users.split(DENSE_BATCH):
        factors.scores(batch, 0, factors.num_items)


def written(factors: Factors, users: torch.Tensor, k: int, exclude: Exclusion) -> None:
    """Rank and write a Parquet file, as `mbrec export` does."""
    ids = Ids(*(pa.array(range(n)) for n in (factors.num_users, factors.num_items)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lists.parquet"
        write_lists(out, ids, users, k, [("purchase", factors, exclude)])


def implicit_lists(factors: Factors, pairs: Pairs, k: int) -> Lists | None:
    """implicit's lists of all users, or None where it is not installed."""
    try:
        from implicit.als import AlternatingLeastSquares
    except ImportError:
        return None
    model = AlternatingLeastSquares(factors=factors.user_emb.shape[1], use_gpu=False)
    model.user_factors, model.item_factors = factors.user_emb.numpy(), factors.item_emb.numpy()
    shape = (factors.num_users, factors.num_items)
    seen = csr_matrix((np.ones(len(pairs)), (pairs.user_idx, pairs.item_idx)), shape, np.float32)
    users = np.arange(factors.num_users)
    return lambda: model.recommend(users, seen, N=k, filter_already_liked_items=True)


def show(times: Times, users: dict[str, int]) -> None:
    """Users per second of every contender."""
    print("| what | users | median s | users per second |")
    print("| --- | ---: | ---: | ---: |")
    for name, count in users.items():
        median = times.median(name)
        print(f"| {name} | {count:,} | {median:.3f} | {count / median:,.0f} |")


def main() -> None:
    """Time all in turns, and print users per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=8192)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--seen", type=int, default=50, help="training items per user")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    random = torch.Generator().manual_seed(0)
    factors = Factors(
        *(torch.randn(n, args.dim, generator=random) for n in (args.users, args.items))
    )
    pairs = random_pairs(args.users * args.seen, args.users, args.items)
    exclude = Exclusion.from_pairs(pairs, args.users)
    users, few = torch.arange(args.users), torch.arange(min(args.users, DENSE_USERS))
    works: dict[str, Callable[[], object]] = {
        "mbrec": lambda: top_k(factors, users, args.k, exclude),
        "mbrec, to Parquet": lambda: written(factors, users, args.k, exclude),
        "dense + argsort": lambda: dense(factors, few, args.k, exclude),
        "matrix product": lambda: product(factors, few),
    }
    theirs = implicit_lists(factors, pairs, args.k)
    if theirs is not None:
        works["implicit"] = theirs
    times = in_turns(works, args.turns)
    counts = {name: len(users) for name in works}
    counts.update({"dense + argsort": len(few), "matrix product": len(few)})

    print(machine())
    print(f"{args.users:,} users × {args.items:,} items, d = {args.dim}, K = {args.k}")
    show(times, counts)
    ours = top_k(factors, users, args.k, exclude).items.numpy()
    same = float((ours[: len(few)] == dense(factors, few, args.k, exclude).items.numpy()).mean())
    print(f"{same:.4%} of the places hold what the full sort has there")
    rate = {name: counts[name] / times.median(name) for name in works}
    print(
        f"mbrec / dense + argsort, users per second: {rate['mbrec'] / rate['dense + argsort']:.1f}"
    )
    if theirs is None:
        print("implicit is not installed.")
        return
    print(f"{float((ours == theirs()[0]).mean()):.4%} of the places hold what implicit has there")
    goal("mbrec / implicit, users per second", rate["mbrec"] / rate["implicit"], 1)


if __name__ == "__main__":
    main()
