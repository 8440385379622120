"""Full-ranking evaluation of all behaviors against a full sort of dense scores, and RecBole.

    python benchmarks/evaluation.py [--data PREPARED] [--recbole-python rb/bin/python]

All rank the same users over the same items by the same random factors, leave the same training
items out, and give six metrics at 5, 10 and 20. RecBole runs in an environment of its own (see
`beside.py`), its BPR model holds the factors, and what it takes over all behaviors is added up. As
it comes, it ranks one user at a time where there are more than 4,096 items.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from beside import recbole, write_pairs
from logs import describe, synthetic
from ranking import dense
from turns import Times, goal, machine, seconds

from mbrec import metrics
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import DEFAULT_KS, evaluate
from mbrec.graph import Pairs
from mbrec.ranking import Exclusion
from mbrec.scoring import Factors

NAMES = {"hr": "hit", "ndcg": "ndcg", "recall": "recall", "precision": "precision", "mrr": "mrr"}
Means = dict[str, dict[str, float]]  # behavior → metric → mean over users


def ours(factors: Factors, dataset: PreparedDataset) -> Means:
    """Behavior → metric → mean over users, by mbrec."""
    found: Means = evaluate(dict.fromkeys(dataset.behaviors, factors), dataset, "valid").summary()[
        "behaviors"
    ]
    return found


def sorted_in_full(factors: Factors, dataset: PreparedDataset) -> Means:
    """Dense scores of some users at a time, masked, sorted in full."""
    found = {}
    for behavior in dataset.behaviors:
        held_out = dataset.pairs(behavior, "valid")
        users, rows = np.unique(held_out.user_idx, return_inverse=True)
        train = Exclusion.from_pairs(dataset.pairs(behavior, "train"), dataset.num_users)
        lists = dense(factors, torch.from_numpy(users).long(), max(DEFAULT_KS), train)
        relevant = Pairs(rows.astype(np.int32), held_out.item_idx)
        values = metrics.per_user(lists.items, relevant, DEFAULT_KS)
        found[behavior] = {name: float(value.mean()) for name, value in values.items()}
    return found


class Theirs:
    """RecBole's evaluation of every behavior."""

    def __init__(
        self, python: str, factors: Factors, dataset: PreparedDataset, together: int | None
    ):
        self._open, self.seconds = ExitStack(), 0.0
        work = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self._order = self._open.enter_context(recbole(python, work))
        np.savez(work / "factors.npz", user=factors.user_emb.numpy(), item=factors.item_emb.numpy())
        users, items = dataset.num_users, dataset.num_items
        config: dict[str, object] = {
            "embedding_size": factors.user_emb.shape[1],
            "metrics": ["Hit", "NDCG", "Recall", "Precision", "MRR", "MAP"],
            "topk": list(DEFAULT_KS),
            "valid_metric": "NDCG@5",
            "metric_decimal_place": 9,
        }
        if together:
            config["eval_batch_size"] = together * (items + 1)  # RecBole counts scores, not users
        self._folders = {}
        for place, behavior in enumerate(dataset.behaviors):
            pairs = (dataset.pairs(behavior, split) for split in ("train", "valid"))
            folder = str(write_pairs(work / f"behavior{place}", *pairs, users, items))
            opened = self._order(open=folder, model="BPR", config=config)
            assert (opened["users"], opened["items"]) == (users, items)
            self._order(on=folder, factors=str(work / "factors.npz"))
            self._folders[behavior] = folder

    def __call__(self) -> Means:
        answers = {b: self._order(on=f, evaluate=True) for b, f in self._folders.items()}
        self.seconds = sum(answer["seconds"] for answer in answers.values())
        return {behavior: answer["metrics"] for behavior, answer in answers.items()}

    def close(self) -> None:
        """End RecBole's process."""
        self._open.close()


def largest_difference(a: Means, b: Means, names: Mapping[str, str]) -> float:
    """Of any mean of any behavior."""
    return max(
        abs(means[f"{name}@{k}"] - b[behavior][f"{other}@{k}"])
        for behavior, means in a.items()
        for name, other in names.items()
        for k in DEFAULT_KS
    )


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a prepared dataset with validation rows")
    parser.add_argument("--recbole-python", help="python of RecBole's environment")
    parser.add_argument("--recbole-users", type=int, default=256, help="that RecBole ranks at once")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()

    if args.data is None:
        dataset = synthetic(args.events, args.users, args.items)
    else:
        dataset = PreparedDataset(args.data, ("train", "valid"))
    random = torch.Generator().manual_seed(0)
    sizes = (dataset.num_users, dataset.num_items)
    factors = Factors(*(torch.randn(n, args.dim, generator=random) for n in sizes))
    works: dict[str, Callable[[], Means]] = {
        "mbrec": lambda: ours(factors, dataset),
        "dense + argsort": lambda: sorted_in_full(factors, dataset),
    }
    theirs: dict[str, Theirs] = {}
    if args.recbole_python:
        for name, together in (
            ("RecBole, as it comes", None),
            (f"RecBole, {args.recbole_users} users at once", args.recbole_users),
        ):
            theirs[name] = Theirs(args.recbole_python, factors, dataset, together)
    works.update(theirs)
    means = {name: work() for name, work in works.items()}
    times = Times({name: [] for name in works})
    for _ in range(args.turns):
        for name, work in works.items():
            taken = seconds(work)
            times.seconds[name].append(theirs[name].seconds if name in theirs else taken)
    for other in theirs.values():
        other.close()

    print(machine())
    ranked = sum(len(np.unique(dataset.pairs(b, "valid").user_idx)) for b in dataset.behaviors)
    print(f"{describe(dataset)}; {ranked:,} lists, d = {args.dim}")
    times.show("mbrec", 1.0, "s")
    same = {name: name for name in metrics.METRICS}
    apart = largest_difference(means["mbrec"], means["dense + argsort"], same)
    print(f"largest difference of a metric from dense + argsort: {apart:.1e}")
    for name in theirs:
        apart = largest_difference(means["mbrec"], means[name], NAMES)
        print(f"largest difference of a metric from {name} (MAP is another there): {apart:.1e}")
        goal(f"{name} / mbrec", times.ratio(name, "mbrec"), 10)
    goal("dense + argsort / mbrec", times.ratio("dense + argsort", "mbrec"), 10)


if __name__ == "__main__":
    main()
