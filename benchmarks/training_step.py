"""A training step of BiGEL against the sum of its bare sparse and dense matrix products.

    python benchmarks/training_step.py [--data PREPARED]

On a prepared dataset, if one is given, and on a synthetic log. The floor: DGL's `copy_u_sum` for
every layer and direction, forward and backward, and the dense products of one step with the same
operands; no sampling, no gathering of rows, no element-wise pass, no optimizer.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from logs import describe, synthetic
from steps import PARTS, Steps, dense_floor, sparse_floor
from turns import goal, in_turns, machine

from mbrec.columns import GLOBAL
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.models.base import layers_of
from mbrec.models.bigel import BigelConfig


def measure(dataset: PreparedDataset, batch_size: int, turns: int) -> None:
    """Print step, floor and parts."""
    settings = from_dict({"method": "bigel", "train": {"batch_size": batch_size, "negatives": 1}})
    config = settings.model
    assert isinstance(config, BigelConfig)
    steps = Steps(dataset.train_relations(), dataset.num_users, dataset.num_items, settings)
    layers = dict(zip(dataset.behaviors, layers_of(config.layers, dataset.behaviors), strict=True))
    sparse = sparse_floor(steps, {**layers, GLOBAL: config.global_layers}, config.size)
    dense = dense_floor(steps)
    for name in PARTS:
        steps.parts[name].clear()
    times = in_turns(
        {"step": steps, "sparse products": sparse, "dense products": dense.again}, turns
    )
    print(f"\n{describe(dataset)}; d = {config.size}, batches of {batch_size:,}")
    times.show("step")
    floor = times.median("sparse products") + times.median("dense products")
    best = sum(min(times.seconds[name]) for name in ("sparse products", "dense products"))
    goal("step / floor", times.median("step") / floor, 1.5, at_most=True)
    goal("step / floor, best of each", min(times.seconds["step"]) / best, 1.5, at_most=True)
    for name in PARTS:
        values = steps.parts[name][-turns:]
        print(
            f"  {name:<12}{statistics.median(values) * 1e3:8.2f} ms, best {min(values) * 1e3:.2f}"
        )


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a prepared dataset, e.g. of JD")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--turns", type=int, default=25)
    args = parser.parse_args()
    print(machine())
    if args.data is not None:
        measure(PreparedDataset(args.data, ("train",)), args.batch_size, args.turns)
    measure(synthetic(args.events, args.users, args.items), args.batch_size, args.turns)


if __name__ == "__main__":
    main()
