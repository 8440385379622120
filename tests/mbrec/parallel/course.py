"""A course of training on planted pairs, by one process or by a rank of several.

    python course.py PLAN

PLAN is a JSON list of jobs, the fields of `Job`. Every rank writes what it saw of each job to
<folder>/<name>.rank<r>.json, and rank 0 the whole embeddings to <folder>/<name>.safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrec.config import Settings, from_dict
from mbrec.engines import TorchEngine
from mbrec.errors import StoppedError
from mbrec.graph import Pairs
from mbrec.models.base import Context, TrainedMethod
from mbrec.models.registry import find
from mbrec.packing import pack
from mbrec.parallel import tensor_file
from mbrec.parallel.joining import joined
from mbrec.parallel.team import ALONE, Team
from mbrec.randomness import generator
from mbrec.sampling import BatchSampler
from mbrec.trainer import Silent, Trainer
from mbrec.weighting import make_weighting

BEHAVIORS = {"click": 600, "cart": 300, "purchase": 150}  # behavior → pairs
USERS, ITEMS = 60, 40
STEPS = 50


@dataclass(frozen=True)
class Job:
    """A training."""

    name: str
    folder: str
    method: str
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    scale: int = 1  # users, items and pairs, in multiples
    stop_after: int = 0  # steps; 0: none
    resume: bool = False


def settings_of(job: Job) -> Settings:
    """60 steps in epochs of 9, from one negative: with the defaults, all but the checkpoints."""
    train = {"epochs": 6, "batch_size": 120, "lr": 0.01, "negatives": 1, **job.train}
    return from_dict({"method": job.method, "engine": "torch", "model": job.model, "train": train})


def planted(scale: int) -> dict[str, Pairs]:
    """Behavior → distinct random pairs, sorted by user, then item."""
    rng, found = np.random.default_rng(0), {}
    users, items = USERS * scale, ITEMS * scale
    for behavior, count in BEHAVIORS.items():
        keys = np.sort(rng.choice(users * items, count * scale, replace=False))
        found[behavior] = Pairs(*(part.astype(np.int32) for part in np.divmod(keys, items)))
    return found


class Watch(Silent):
    """Remembers losses and bytes of every step, and asks to stop."""

    def __init__(self, team: Team, stop_after: int) -> None:
        self.team, self.stop_after = team, stop_after
        self.losses: list[float] = []
        self.sent: list[int] = []  # by every step but the first of an epoch, which follows a save
        self._before = 0

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        self.losses.append(loss())
        if step > 1:
            self.sent.append(self.team.sent - self._before)
        self._before = self.team.sent

    def stop(self) -> bool:
        # One rank asks; all have to stop.
        return self.team.rank == self.team.ranks - 1 and len(self.losses) == self.stop_after


def run(job: Job, team: Team = ALONE) -> None:
    """Train, and write what there is to compare."""
    settings, relations = settings_of(job), planted(job.scale)
    users, items = USERS * job.scale, ITEMS * job.scale
    context = Context(
        tuple(relations),
        users,
        items,
        relations,
        TorchEngine(relations, users, items),
        generator(settings.seed, "init"),
        torch.device("cpu"),
        team=team,
    )
    method = find(settings.method).build(settings.model, context)
    assert isinstance(method, TrainedMethod)
    watch, folder = Watch(team, job.stop_after), Path(job.folder)
    config = settings.train
    sampler = BatchSampler(
        relations, users, items, batch_size=config.batch_size, negatives=config.negatives
    )
    trainer = Trainer(
        method,
        make_weighting(config, tuple(relations), method.shared_parameters(), team),
        sampler,
        config,
        settings.seed,
        folder / f"{job.name}.checkpoints",
        observer=watch,
        stop=watch.stop,
        team=team,
    )
    if job.resume:
        trainer.resume()
    try:
        trainer.run()
    except StoppedError:
        assert job.stop_after
    tensors = pack(method.scorers())[1]
    path = folder / f"{job.name}.safetensors" if team.first else None
    tensor_file.write(path, tensors, dict.fromkeys(tensors, method.columns))
    moments = [
        value.nbytes
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if value.dim() == 2
    ]
    common = [
        weight.detach().flatten()
        for name, weight in method.named_parameters()
        if name not in method.divided()
    ]
    seen = {
        "common": torch.cat(common).tolist() if common else [],
        "losses": watch.losses,
        "sent": watch.sent,
        "weights": sum(table.nbytes for table in method.shared_parameters()),
        "moments": sum(moments),
    }
    (folder / f"{job.name}.rank{team.rank}.json").write_text(json.dumps(seen))


def thread_names() -> list[str]:
    """What the threads of this process are called; none where the system does not tell."""
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]


def plan(*jobs: Job) -> str:
    """What `main` reads."""
    return json.dumps([asdict(job) for job in jobs])


def main() -> None:
    torch.set_num_threads(1)
    jobs = [Job(**entry) for entry in json.loads(sys.argv[1])]
    with joined("cpu") as team:
        for job in jobs:
            run(job, team)
    # A thread of gloo that outlives its group may abort the process when the interpreter ends.
    assert not [name for name in thread_names() if "gloo" in name]


if __name__ == "__main__":
    main()
