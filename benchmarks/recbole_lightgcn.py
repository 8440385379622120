"""LightGCN, one epoch: ours against RecBole's, same pairs, batch, d, layers and negatives.

    python benchmarks/recbole_lightgcn.py --recbole-python rb/bin/python

RecBole has an environment and a process of its own; `beside.py` says how to make it. Both take a
few steps in turn, and the time of an epoch is that of a step times the number of steps. RecBole's
sampling, collating and loss are in its step, as ours are in ours.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from beside import recbole, write_pairs
from logs import describe, synthetic
from steps import Steps
from turns import Times, goal, machine, seconds

from mbrec.config import from_dict
from mbrec.graph import Pairs, merge


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recbole-python", required=True, help="python of RecBole's environment")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="per turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()

    dataset = synthetic(args.events, args.users, args.items)
    pairs = merge(dataset.train_relations(), dataset.num_items)
    settings = from_dict(
        {
            "method": "lightgcn",
            "model": {"size": args.dim, "layers": args.layers},
            "train": {"batch_size": args.batch_size, "negatives": 1},
        }
    )
    ours = Steps({"all": pairs}, dataset.num_users, dataset.num_items, settings)
    config = {
        "embedding_size": args.dim,
        "n_layers": args.layers,
        "train_batch_size": args.batch_size,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False},
    }
    few = Pairs(*(np.asarray(part[:100]) for part in (pairs.user_idx, pairs.item_idx)))
    with tempfile.TemporaryDirectory() as work, recbole(args.recbole_python, Path(work)) as theirs:
        folder = write_pairs(Path(work) / "log", pairs, few, dataset.num_users, dataset.num_items)
        opened = theirs(open=str(folder), model="LightGCN", config=config)
        times = Times({"mbrec": [], "RecBole": []})
        for turn in range(-1, args.turns):
            mine = seconds(lambda: [ours() for _ in range(args.steps)])
            other = theirs(on=str(folder), train=args.steps)["seconds"]
            if turn >= 0:
                times.seconds["mbrec"].append(mine / args.steps)
                times.seconds["RecBole"].append(other / args.steps)
    print(machine())
    print(f"{describe(dataset)}; merged {len(pairs):,}; d = {args.dim}, {args.layers} layers")
    print(
        f"steps of {args.batch_size:,} pairs; RecBole knows {opened['users']:,} users, "
        f"{opened['items']:,} items and {opened['steps']:,} steps, we {ours.sampler.num_steps:,}"
    )
    times.show("mbrec")
    for name in times.seconds:
        print(f"an epoch of {name}: {times.median(name) * ours.sampler.num_steps:.1f} s")
    goal("RecBole / mbrec", times.ratio("RecBole", "mbrec"), 6)


if __name__ == "__main__":
    main()
