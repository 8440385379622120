"""The CPU against a GPU: propagation, step, epoch and evaluation, in one command.

    python benchmarks/gpu.py [--data PREPARED]

On a prepared dataset, if one is given, and on a synthetic log of 20 M events, which is made first
(a minute or two) and kept. Without a GPU, or with `--devices cpu`, only the CPU is timed. The
bytes of propagation are those that it must move at least: a source row and an index per edge, a
target row per node. They are set against a plain copy on the same device. An epoch is the time of
a step times the number of steps.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from logs import describe, synthetic
from steps import Steps
from turns import goal, machine, seconds

from mbrec.columns import GLOBAL
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.engines import TorchEngine
from mbrec.evaluation import evaluate
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.scoring import Factors

Figures = dict[str, float]


def timed(work: Callable[[], object], wait: Callable[[], None], turns: int) -> float:
    """The median of some turns, in seconds, after one that warms up."""

    def whole() -> None:
        work()
        wait()

    whole()
    return statistics.median(seconds(whole) for _ in range(turns))


def copy_rate(device: torch.device, wait: Callable[[], None], size: int) -> float:
    """Bytes read and written per second by a copy of `size` bytes on the device."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / timed(lambda: target.copy_(source), wait, 10)


def propagated_bytes(dataset: PreparedDataset, edges: int, size: int) -> int:
    """What one product in both directions has to move."""
    nodes = dataset.num_users + dataset.num_items
    return 2 * edges * (4 * size + 4) + nodes * (4 * size + 4)


def measure(
    dataset: PreparedDataset, device: torch.device, batch_size: int, turns: int, copy_size: int
) -> Figures:
    """All figures of one dataset on one device."""
    settings = from_dict(
        {
            "method": "bigel",
            "engine": "torch",
            "train": {"batch_size": batch_size, "negatives": 1},
        }
    )
    relations, users, items = dataset.train_relations(), dataset.num_users, dataset.num_items
    steps = Steps(relations, users, items, settings, device)
    steps.in_parts = False
    size = settings.model.model_dump()["size"]
    found: Figures = {"step ms": timed(steps, steps.wait, turns) * 1e3}
    found["epoch s"] = found["step ms"] / 1e3 * steps.sampler.num_steps

    engine = TorchEngine(relations, users, items, device)
    relation = Relation.of(GLOBAL, engine)
    edges = int(relation.engine.degrees(GLOBAL)[0].sum())
    leaves = Nodes(*(torch.randn(n, size, device=device).requires_grad_() for n in (users, items)))
    plain = Nodes(*(part.detach() for part in leaves))

    def there_and_back() -> None:
        torch.autograd.backward(tuple(light_gcn(relation, leaves, 1, "last")), tuple(plain))

    found["propagation, both ways, ms"] = timed(there_and_back, steps.wait, turns) * 1e3
    product = timed(lambda: engine.aggregate(GLOBAL, plain), steps.wait, turns)
    found["product GB/s"] = propagated_bytes(dataset, edges, size) / product / 1e9
    found["copy GB/s"] = copy_rate(device, steps.wait, copy_size) / 1e9
    scorers = dict.fromkeys(dataset.behaviors, Factors(*plain))
    found["evaluation s"] = timed(
        lambda: evaluate(scorers, dataset, "valid"), steps.wait, max(turns // 5, 1)
    )
    return found


def show(figures: dict[str, Figures]) -> None:
    """One row per figure, one column per device."""
    print(f"| what | {' | '.join(figures)} | ratio |")
    print(f"| --- |{' ---: |' * (len(figures) + 1)}")
    for name in next(iter(figures.values())):
        values = [found[name] for found in figures.values()]
        ratio = values[0] / values[-1]
        ratio = 1 / ratio if name.endswith("GB/s") else ratio
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} | {ratio:.1f} |")
    for device, found in figures.items():
        goal(f"product / copy on {device}", found["product GB/s"] / found["copy GB/s"], 0.6)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a prepared dataset with validation rows")
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--turns", type=int, default=5, help="on a GPU, five times as many")
    parser.add_argument("--copy-mib", type=int, default=512)
    args = parser.parse_args()

    print(machine())
    devices = [torch.device(name) for name in args.devices]
    if not torch.cuda.is_available():
        print("No CUDA device: the CPU alone is measured.")
        devices = [torch.device("cpu")]
    elif torch.device("cuda") in devices:
        print(torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}")
    datasets = [] if args.data is None else [PreparedDataset(args.data, ("train", "valid"))]
    datasets.append(synthetic(args.events, args.users, args.items))
    for dataset in datasets:
        print(f"\n{describe(dataset)}; batches of {args.batch_size:,}")
        show(
            {
                device.type: measure(
                    dataset,
                    device,
                    args.batch_size,
                    args.turns * (5 if device.type == "cuda" else 1),
                    args.copy_mib << 20,
                )
                for device in devices
            }
        )


if __name__ == "__main__":
    main()
