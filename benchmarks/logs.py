"""The data that benchmarks run on: synthetic logs, prepared once, and random pairs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from mbrec.dataset import PreparedDataset
from mbrec.errors import MbrecError
from mbrec.graph import Pairs

CACHE = Path(tempfile.gettempdir()) / "mbrec-benchmarks"


def synthetic(events: int, users: int, items: int) -> PreparedDataset:
    """A log as `mbrec synth --format ub` makes it, prepared with the defaults; kept in `CACHE`."""
    out = CACHE / f"synthetic-{events}-{users}-{items}"
    try:
        return PreparedDataset(out)
    except MbrecError:
        CACHE.mkdir(parents=True, exist_ok=True)
    from mbrec.data_prep import PrepOptions, prepare
    from mbrec.data_prep.synth import SynthOptions, write_log

    print(f"Preparing a log of {events:,} events in {out} …", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        log = Path(folder) / "log.csv"
        write_log(log, SynthOptions(users=users, items=items, events=events))
        prepare(PrepOptions(source="ub", inputs=(str(log),), out=out, force=True))
    return PreparedDataset(out)


def random_pairs(edges: int, users: int, items: int, seed: int = 0) -> Pairs:
    """Distinct pairs of log-normally active users and items with Zipf-like popularity, sorted."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 0.7, users)
    popularity = rng.permutation((np.arange(items) + 10.0) ** -0.85)
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < edges:
        missing = int((edges - len(keys)) * 1.2) + 1
        user, item = (
            rng.choice(len(weights), missing, p=weights / weights.sum())
            for weights in (activity, popularity)
        )
        keys = np.union1d(keys, user * items + item)
    keys = np.sort(rng.choice(keys, edges, replace=False))
    return Pairs(*(part.astype(np.int32) for part in np.divmod(keys, items)))


def describe(dataset: PreparedDataset) -> str:
    """Name and size, in one line."""
    train = sum(len(pairs) for pairs in dataset.train_relations().values())
    return (
        f"{dataset.path.name}: {dataset.num_users:,} users × {dataset.num_items:,} items, "
        f"{len(dataset.behaviors)} behaviors, {train:,} training pairs"
    )
