"""If these fail, several processes learn something else than one does, or save nothing by it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mbrec.trainer import LAST

STOP = 23  # in the middle of the third epoch
BIGEL: dict[str, Any] = {"method": "bigel", "model": {"size": 10}}
METHODS: dict[str, dict[str, Any]] = {
    "bigel": BIGEL,
    "lightgcn": {"method": "lightgcn", "model": {"size": 12}},
    "mf-bpr": {"method": "mf-bpr", "model": {"size": 12, "embeddings": "behavior"}},
    "crgcn": {"method": "crgcn", "model": {"size": 10, "normalize": False}},
    "gradnorm": {**BIGEL, "train": {"weighting": "gradnorm", "average": 0.9}},
    "uncertainty": {**BIGEL, "train": {"weighting": "uncertainty"}},
    # Batches of fewer pairs of a behavior than there are ranks, or none.
    "few": {**BIGEL, "train": {"batch_size": 6, "epochs": 1, "lr": 0.001}},
}


def _course() -> ModuleType:
    spec = importlib.util.spec_from_file_location("course", Path(__file__).parent / "course.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["course"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


course = _course()


def close(folder: Path, name: str, other: str) -> None:
    """Embeddings and losses of two jobs agree."""
    one, two = (load_file(folder / f"{job}.safetensors") for job in (name, other))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)


def seen(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.rank{rank}.json").read_text())
    return found


def check_team(ranks: int, team_of: Callable[..., Any], folder: Path) -> None:
    """Train by one process and by `ranks`; a resumed training by the other number each."""
    place = str(folder)
    for name, job in METHODS.items():
        course.run(course.Job(name=name, folder=place, **job))
    course.run(course.Job("cut", place, **BIGEL, stop_after=STOP))
    shutil.copytree(folder / "cut.checkpoints", folder / "one-then-many.checkpoints")
    jobs = [course.Job(f"{n}-many", place, **job) for n, job in METHODS.items()]
    jobs += [
        course.Job("cut-many", place, **BIGEL, stop_after=STOP),
        course.Job("one-then-many", place, **BIGEL, resume=True),
        course.Job("large-bigel", place, **BIGEL, train={"epochs": 1}, scale=4),
        course.Job("large-lightgcn", place, **METHODS["lightgcn"], train={"epochs": 1}, scale=4),
    ]
    for done in team_of(ranks, "course.py", course.plan(*jobs)):
        assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "cut-many.checkpoints", folder / "many-then-one.checkpoints")
    course.run(course.Job("many-then-one", place, **BIGEL, resume=True))


def check_course(ranks: int, folder: Path) -> None:
    """The same losses and embeddings, step by step; on all ranks."""
    for name in METHODS:
        close(folder, name, f"{name}-many")
        alone = seen(folder, name)["losses"]
        assert len(alone) >= course.STEPS
        for rank in range(ranks):
            many = seen(folder, f"{name}-many", rank)
            assert many["losses"] == pytest.approx(alone, abs=1e-5)
            # To the last bit, or they would drift apart.
            assert many["common"] == seen(folder, f"{name}-many")["common"]
    for resumed in ("one-then-many", "many-then-one"):
        close(folder, "bigel", resumed)
        rest = seen(folder, "bigel")["losses"][STOP:]
        assert seen(folder, resumed)["losses"] == pytest.approx(rest, abs=1e-5)


def check_costs(ranks: int, folder: Path) -> None:
    """A rank has its share of the embeddings, and sends what the batch needs."""
    for name in ("lightgcn", "mf-bpr"):  # 12 columns
        for kind in ("weights", "moments"):
            whole = seen(folder, name)[kind]
            for rank in range(ranks):
                assert seen(folder, f"{name}-many", rank)[kind] * ranks == whole
    # A batch has 120 pairs and up to one more per behavior, whatever the graph; 19 of the target.
    pairs, target, width = 123, 19, -(-10 // ranks) * 4
    for rank in range(ranks):
        for name in ("lightgcn-many", "large-lightgcn"):
            # Two scores of each pair; the sums of L2 and of who wants to stop.
            bound = 2 * (ranks - 1) / ranks * (8 * pairs + 4 + 4)
            assert 0 < max(seen(folder, name, rank)["sent"]) <= bound
        for name in ("bigel-many", "large-bigel"):
            # A rank needs, for its share of the pairs of every behavior: of three tables the user
            # and two items of each auxiliary pair, of one table those of a target pair; and for CPA
            # its share of the target's users and items, and all of them.
            auxiliary, own = (pairs - target) / ranks + 2, target / ranks + 1
            rows = 9 * auxiliary + 3 * own + 2 * (own + target)
            # There and back; and sums of five losses, of who wants to stop, and of gradients for a
            # projection and two gates of each auxiliary.
            sums = 5 + 1 + 2 * 3 * (10 * 10 + 10)
            bound = 2 * (ranks - 1) * (width * rows + 4 * sums / ranks)
            assert 0 < max(seen(folder, name, rank)["sent"]) <= bound


def check_saved(folder: Path) -> None:
    """A checkpoint does not tell how many processes wrote it."""
    one, many = (folder / f"{name}.checkpoints" / LAST for name in ("cut", "cut-many"))
    first, second = load_file(one), load_file(many)
    assert {n: (t.shape, t.dtype) for n, t in first.items()} == {
        n: (t.shape, t.dtype) for n, t in second.items()
    }


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_does(
    ranks: int, team_of: Callable[..., Any], tmp_path: Path
) -> None:
    check_team(ranks, team_of, tmp_path)
    check_course(ranks, tmp_path)
    check_costs(ranks, tmp_path)
    check_saved(tmp_path)
