"""What training and ranking cost as logs grow: processor time and memory, and formulas for them.

    python benchmarks/scaling.py [--events 1000000,10000000] [--sizes 16,64] [--models bigel]

On synthetic UserBehavior logs in the proportions of the published one (a user per 100 rows, an item
per 24), and on one with a tenth of the users and items, for nodes to be told from edges. Every
figure comes from a process of its own with one thread: seconds are those of its processor, not of
the clock on the wall, and memory is its peak. The constants of the formulas are fitted by least
squares of relative errors, and none is below 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from figures import Figures, Kept, fit, peak_memory, show, timed
from logs import synthetic
from steps import Steps
from turns import machine

from mbrec import metrics, propagation
from mbrec.averaging import WeightAverage
from mbrec.columns import GLOBAL
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.export import write_lists
from mbrec.graph import Pairs
from mbrec.list_tables import Ids
from mbrec.models.base import layers_of
from mbrec.ranking import Exclusion, top_k
from mbrec.scoring import Factors

K = 20
CACHE = 8 << 20  # bytes: rows of tables beyond it take longer (where, and by √d, fits best)


def train(data: PreparedDataset, model: str, size: int, count: int) -> Figures:
    """Seconds of a step by part, after two steps that do not count, and memory.

    "graph" is propagation forward and back, timed inside; "losses" what is left of both ways.
    """
    spent: list[float] = []
    propagation._light_gcn = timed(propagation._light_gcn, spent)
    settings = from_dict({"method": model, "model": {"size": size}})
    steps = Steps(data.train_relations(), data.num_users, data.num_items, settings)
    steps.clock = time.process_time
    average = WeightAverage(steps.method, settings.train.average)
    built, rows = peak_memory(), []
    for _ in range(count + 2):
        spent.clear()
        steps()
        part, inside = {name: taken[-1] for name, taken in steps.parts.items()}, sum(spent)
        timed(average.update, spent)()
        around = sum(part[name] for name in ("propagation", "losses", "backward"))
        adam = part["optimizer"] + spent[-1]
        rows.append(
            {"graph": inside, "losses": around - inside, "adam": adam, "sampling": part["sampling"]}
        )
    found = {name: statistics.median(row[name] for row in rows[2:]) for name in rows[0]}
    return {
        **found,
        **counted(data, model, size, settings.train),
        "built": built,
        "peak": peak_memory(),
    }


def counted(data: PreparedDataset, model: str, size: int, config: Any) -> Figures:
    """What the formulas multiply."""
    pairs = {name: len(part) for name, part in data.train_relations().items()}
    pairs[GLOBAL] = data.manifest["counts"]["global_train_pairs"]
    layers = {GLOBAL: 3}
    if model == "bigel":
        own = dict(zip(data.behaviors, layers_of((), data.behaviors), strict=True))
        layers = {**own, GLOBAL: 2}
    cells = (data.num_users + data.num_items) * size
    epoch = sum(pairs.values()) - pairs[GLOBAL]
    edges = 4 * sum(pairs[name] * count for name, count in layers.items())  # both ways, and back
    batch = min(config.batch_size, epoch)
    return {
        "edges": sum(pairs.values()),
        "visits": edges * size,
        "misses": edges * size**0.5 * max(0.0, math.log(4 * cells / CACHE)),
        "passes": cells * sum(2 * (1 + 2 * count) for count in layers.values()),
        "propagated": cells * len(layers),
        "tables": cells * (7 + len(layers)),  # weights, gradient, moments, average, two buffers
        "cells": cells,
        "rows": batch * (2 + config.negatives) * size,
        "products": batch * (2 + config.negatives) * size**2 * (model == "bigel"),
        "steps": -(-epoch // config.batch_size),
    }


def rank(data: PreparedDataset, size: int, count: int) -> Figures:
    """Seconds per 1,000 lists of the target, of random factors, and memory."""
    held_out = data.pairs(data.target, "valid")
    users = np.unique(held_out.user_idx)[:count]
    few = held_out.user_idx <= users[-1]
    relevant = Pairs(
        np.searchsorted(users, held_out.user_idx[few]).astype(np.int32), held_out.item_idx[few]
    )
    seen = Exclusion.from_pairs(data.pairs(data.target, "train"), data.num_users)
    factors = Factors(*(torch.randn(n, size) for n in (data.num_users, data.num_items)))
    ids, wanted = Ids(data.user_ids, data.item_ids), torch.from_numpy(users).long()

    def evaluate() -> None:
        lists = top_k(factors, wanted, K, seen).items.numpy()
        metrics.per_user(lists, relevant, (5, 10, K))

    def export() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "lists.parquet"
            write_lists(out, ids, wanted, K, [(data.target, factors, seen)])

    found: dict[str, list[float]] = {"evaluation": [], "export": []}
    for _ in range(2):  # the second counts
        timed(evaluate, found["evaluation"])()
        timed(export, found["export"])()
    each = {name: 1e3 / len(users) * taken[-1] for name, taken in found.items()}
    scores = 1e3 * data.num_items
    return {**each, "scores": scores, "scored": scores * size, "memory": peak_memory()}


def do(what: str, events: str, users: str, items: str, size: str, count: str) -> Figures:
    """One thing, in a process of its own."""
    torch.set_num_threads(1)
    data = synthetic(int(events), int(users), int(items))
    if what == "log":  # that it is prepared here does not count for what is measured on it
        pairs = sum(len(part) for part in data.train_relations().values())
        return {"users": data.num_users, "items": data.num_items, "pairs": pairs}
    if what == "ranking":
        return rank(data, int(size), int(count))
    return train(data, what, int(size), int(count))


def main() -> None:
    """Read the options; measure each in a process of its own; print tables and formulas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", default="1000000,10000000,100000000")
    parser.add_argument("--trained", type=float, default=1e9, help="larger logs are only ranked")
    parser.add_argument("--dense", type=int, default=10_000_000, help="events; 0: no such log")
    parser.add_argument("--sizes", default="16,64", help="d")
    parser.add_argument("--models", default="bigel,lightgcn")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--ranked", type=int, default=256, help="users")
    parser.add_argument("--memory", type=float, default=1e3, help="GB that a process may take")
    parser.add_argument("--kept", type=Path, help="a file of figures that are not measured again")
    parser.add_argument("--alone", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory * 1e9),) * 2)
        print(json.dumps(do(*options.alone)))
        return
    print(machine())
    kept = Kept(Path(__file__), options.memory, options.kept)
    logs = [(int(n), int(n) // 100, int(n) // 24) for n in options.events.split(",")]
    logs += [(options.dense, options.dense // 1000, options.dense // 240)] * (options.dense > 0)
    trained, ranked = [], []
    for log in logs:
        for row in kept.measured("log", *log, 0, 0):
            print(f"{log[0]:,} events:", *(f"{row[n]:,} {n}" for n in ("users", "items", "pairs")))
        for size in map(int, options.sizes.split(",")):
            for model in options.models.split(",") if log[0] <= options.trained else ():
                trained += kept.measured(model, *log, size, options.steps)
            ranked += kept.measured("ranking", *log, size, options.ranked)
    show(trained, GIVEN, TRAINED)
    show(ranked, GIVEN, RANKED)
    for name, terms in FORMULAS.items():
        fit(ranked if name in RANKED else trained, name, terms)


GIVEN = ("what", "events", "users", "", "d", "")
TRAINED = ("graph", "losses", "adam", "sampling", "steps", "built", "peak")
RANKED = ("evaluation", "export", "memory")
FORMULAS = {
    "graph": ("visits", "misses", "passes"),
    "losses": ("rows", "products", "propagated"),
    "adam": ("cells",),
    "sampling": ("rest",),
    "peak": ("rest", "tables", "edges"),
    "evaluation": ("scored", "scores", "rest"),
    "export": ("scored", "scores", "rest"),
}

if __name__ == "__main__":
    main()
