"""Lists for new users, folded in, against lists after training with them.

    python benchmarks/fold_in.py DATA --model lightgcn --users 2000 [--set train.epochs=10]

Takes the training rows of some users out of DATA, trains twice, with and without these rows, and
measures the lists for these users on their validation rows: once by the run that was trained with
them, once folded in from the rows into the run that was not. The last row ranks by popularity.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from mbrec import settings, train_run
from mbrec.dataset import INTERACTIONS, ITEMS, REJECTS, USERS, PreparedDataset, write_dataset
from mbrec.folding import FoldIn
from mbrec.graph import Pairs
from mbrec.metrics import per_user
from mbrec.ranking import Exclusion, top_k
from mbrec.scoring import Factors, Scorer

METRICS = ("hr@20", "ndcg@20")


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="lightgcn")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{options.model}, {options.data.name}, {options.users} users held out, load {load}")
    chosen = settings(options={"method": options.model}, overrides=options.overrides)
    whole = PreparedDataset(options.data, ("train", "valid"))
    held = np.random.default_rng(1).permutation(whole.num_users)[: options.users]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        less = without(whole, held, folder / "data")
        with_them = train_run(whole.path, folder / "with", chosen)
        without_them = train_run(less.path, folder / "without", chosen)
        relations = whole.train_relations()
        new = {b: renumbered(pairs, held) for b, pairs in relations.items()}
        fold = FoldIn(less.train_relations(), new, less.num_users, len(held), less.num_items)
        print("| behavior | lists | users | " + " | ".join(METRICS) + " |")
        print("| --- | --- | ---: |" + " ---: |" * len(METRICS))
        for behavior, pairs in relations.items():
            valid = renumbered(whole.pairs(behavior, "valid"), held)
            counts = np.bincount(pairs.item_idx, minlength=whole.num_items)
            popular = Factors(torch.ones(len(held), 1), torch.from_numpy(counts)[:, None].float())
            trained = RowsOf(with_them.scorer(behavior), held)
            folded = fold.scorer(without_them.scorer(behavior), behavior)
            for lists, scorer in (
                ("trained with them", trained),
                ("folded in", folded),
                ("popularity", popular),
            ):
                print(row(behavior, lists, scorer, new[behavior], valid), flush=True)


class RowsOf:
    """A scorer whose user n is the n-th of some users of another one."""

    def __init__(self, scorer: Scorer, users: np.ndarray) -> None:
        self.scorer, self.users = scorer, torch.from_numpy(users)
        self.num_users, self.num_items, self.device = len(users), scorer.num_items, scorer.device

    def scores(self, user_idx: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return self.scorer.scores(self.users[user_idx], start, stop)


def without(whole: PreparedDataset, held: np.ndarray, path: Path) -> PreparedDataset:
    """The dataset without the training rows of some users."""
    with write_dataset(path) as writer:
        for name in (USERS, ITEMS, REJECTS):
            (writer.folder / name).write_bytes((whole.path / name).read_bytes())
        table = pq.read_table(whole.path / INTERACTIONS)
        theirs = pc.is_in(table["user_idx"], value_set=pa.array(held, pa.int32()))
        training = pc.equal(table["split"].cast(pa.string()), "train")
        kept = table.filter(pc.invert(pc.and_(theirs, training)))
        pq.write_table(kept, writer.folder / INTERACTIONS)
        writer.finish(whole.behaviors, {"source": "held out"})
    return PreparedDataset(path, ("train",))


def renumbered(pairs: Pairs, held: np.ndarray) -> Pairs:
    """The pairs of some users, who are called by their position."""
    place = np.full(max(int(held.max()), int(pairs.user_idx.max(initial=0))) + 1, -1)
    place[held] = np.arange(len(held))
    users = place[pairs.user_idx]
    mine = users >= 0
    order = np.lexsort((pairs.item_idx[mine], users[mine]))
    return Pairs(users[mine][order].astype(np.int32), pairs.item_idx[mine][order].astype(np.int32))


def row(behavior: str, lists: str, scorer: Scorer, done: Pairs, valid: Pairs) -> str:
    """A row of the table: the lists of a behavior, over its users with validation rows."""
    users, position = np.unique(valid.user_idx, return_inverse=True)
    exclude = Exclusion.from_pairs(done, scorer.num_users)
    best = top_k(scorer, torch.from_numpy(users.astype(np.int64)), 20, exclude)
    found = per_user(best.items, Pairs(position.astype(np.int32), valid.item_idx), (20,))
    figures = " | ".join(f"{found[name].mean():.4f}" for name in METRICS)
    return f"| {behavior} | {lists} | {len(users):,} | {figures} |"


if __name__ == "__main__":
    main()
