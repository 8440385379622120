"""Training steps of R processes with one thread each, against one process with one thread.

    python benchmarks/processes.py [--processes 2] [--events 2000000]

On a synthetic log. All processes are there from the start and wait while it is not their turn; a
step of a team ends when its slowest rank is done. Before the timing, the losses of both are
compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from logs import describe, synthetic
from turns import goal, in_turns, machine

from mbrec.config import Settings, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.parallel.launching import MEETING
from mbrec.processes import Worker


def serve(pipe: Connection, environment: Mapping[str, str], data: str, config: Any) -> None:
    """A rank: for every number that comes, do so many steps; answers with loss, time and bytes."""
    os.environ.update(environment)
    from steps import Steps

    from mbrec.parallel.joining import joined

    settings = from_dict(config)
    dataset = PreparedDataset(data, ("train",))
    with joined("cpu") as team:
        steps = Steps(
            dataset.train_relations(), dataset.num_users, dataset.num_items, settings, team=team
        )
        pipe.send(None)  # ready
        for count in iter(pipe.recv, 0):
            start, sent, loss = time.perf_counter(), team.sent, 0.0
            for _ in range(count):
                loss = float(steps())
            spent = time.perf_counter() - start
            pipe.send((loss, spent / count, (team.sent - sent) // count))


class Contender:
    """A team that trains when it is called.

    Args:
        ranks: How many processes.
        folder: Where they meet.
        data: A prepared dataset.
        settings: What to train.
        steps: Per call.
    """

    def __init__(
        self, ranks: int, folder: Path, data: Path, settings: Settings, steps: int
    ) -> None:
        self._steps = steps
        common = {
            "WORLD_SIZE": str(ranks),
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            MEETING: str(folder / f"meeting-{ranks}"),
        }
        self._workers = [
            Worker(serve, ({**common, "RANK": str(r)}, str(data), settings.to_dict()), 1)
            for r in range(ranks)
        ]
        for worker in self._workers:
            worker.pipe.recv()
        self.loss, self.sent = 0.0, 0

    def __call__(self) -> None:
        """Some steps."""
        for worker in self._workers:
            worker.pipe.send(self._steps)
        answers = [worker.pipe.recv() for worker in self._workers]
        self.loss, self.sent = answers[0][0], max(sent for *_, sent in answers)

    def end(self) -> None:
        """End its processes."""
        for worker in self._workers:
            worker.pipe.send(0)
        for worker in self._workers:
            worker.end()


def measure(
    dataset: PreparedDataset, settings: Settings, ranks: int, steps: int, turns: int
) -> None:
    """Print both times, their ratio, the losses and the bytes."""
    one_name, many_name = "1 process × 1 thread", f"{ranks} processes × 1 thread"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        contenders = {
            name: Contender(count, place, dataset.path, settings, steps)
            for name, count in ((one_name, 1), (many_name, ranks))
        }
        try:
            times = in_turns(contenders, turns)
        finally:
            for contender in contenders.values():
                contender.end()
    print(f"\n{describe(dataset)}; {settings.method}, batches of {settings.train.batch_size:,}")
    print(f"{steps} steps a turn, {turns} turns")
    times.show(many_name)
    one, many = contenders[one_name], contenders[many_name]
    count = (turns + 1) * steps
    print(f"loss of step {count}: {one.loss:.7f} and {many.loss:.7f}")
    print(f"a rank sends {many.sent:,} bytes in a step")
    goal(f"{one_name} / {many_name}", times.ratio(one_name, many_name), 1.6, at_most=False)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default="bigel", help="bigel, lightgcn, mf-bpr or crgcn")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--engine", choices=["dgl", "torch"], default="dgl")
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=4, help="in a turn")
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    print(machine())
    model = {"normalize": False} if args.model == "crgcn" else {}
    config = {
        "method": args.model,
        "engine": args.engine,
        "device": "cpu",
        "model": model,
        "train": {"batch_size": args.batch_size, "negatives": 1},
    }
    dataset = synthetic(args.events, args.users, args.items)
    measure(dataset, from_dict(config), args.processes, args.steps, args.turns)


if __name__ == "__main__":
    main()
