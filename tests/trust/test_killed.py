"""If these fail, a killed training loses a night's work, or comes to another result."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError
from mbrec.keeping import BEST
from mbrec.run import EMBEDDINGS, METRICS, Run
from mbrec.trainer import LAST

SETTINGS: dict[str, Any] = {
    "method": "bigel",
    "device": "cpu",
    "model": {"size": 8},
    "train": {"epochs": 6, "batch_size": 64, "lr": 0.02, "patience": 50},
}
CHANGING = {"seconds", "started", "threads"}


class Trainings:
    """Trains in processes that can be killed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._forks = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def train(self, out: Path, kill_after: float | None = None, **job: Any) -> int:
        """Train in `out`, or go on there; the status of the process: 0, or the signal it got."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        job = {"data": str(self.data), "out": str(out), "resume": False, **job}
        self._forks.stdin.write(json.dumps({"settings": SETTINGS, **job}) + "\n")
        process = int(self._forks.stdout.readline())
        if (
            kill_after is not None
            and not select.select([self._forks.stdout], [], [], kill_after)[0]
        ):
            os.kill(process, signal.SIGKILL)
        return int(self._forks.stdout.readline())

    def go_on(self, out: Path, kill_after: float | None = None, **job: Any) -> int:
        """Do what the messages say: `--resume`, or begin where nothing was begun."""
        return self.train(out, kill_after, resume=(out / "run.json").exists(), **job)

    def close(self) -> None:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.stdout.close()
        self._forks.wait()


@pytest.fixture(scope="module")
def trainings(tiny_dataset: PreparedDataset) -> Iterator[Trainings]:
    opened = Trainings(tiny_dataset.path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert trainings.train(out) == 0
    return out


def plain(value: Any) -> Any:
    """Without what differs between two runs that are the same: times, and threads."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in CHANGING}
    return value


def check_same(out: Path, other: Path) -> None:
    """Weights, optimizer states, figures: all of them bit for bit."""
    for name in (EMBEDDINGS, f"checkpoints/{LAST}", f"checkpoints/{BEST}"):
        first, second = load_file(out / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in second)
    lines = [(run / METRICS).read_text().splitlines() for run in (out, other)]
    assert [plain(json.loads(line)) for line in lines[0]] == [
        plain(json.loads(line)) for line in lines[1]
    ]
    first_info, second_info = Run(out).info, Run(other).info
    first_info["files"], second_info["files"] = {}, {}
    for info in (first_info, second_info):
        info.pop("seal", None)
    assert plain(first_info) == plain(second_info)
    leftovers = [entry for entry in out.rglob("*") if entry.name.startswith(".mbrec-")]
    assert leftovers == []


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_to_the_same_run(
    trainings: Trainings, undisturbed: Path, tmp_path: Path, kills: int
) -> None:
    chance = random.Random(kills)
    start = time.monotonic()
    assert trainings.train(tmp_path / "timed") == 0
    whole = time.monotonic() - start
    killed, number = 0, 0
    while killed < kills:
        out = tmp_path / str(number)
        status = trainings.go_on(out, kill_after=chance.uniform(0, whole / 2))
        assert status in (0, signal.SIGKILL)
        killed += status == signal.SIGKILL
        if status == 0:
            check_same(out, undisturbed)
            number += 1
    assert trainings.go_on(out) == 0
    check_same(out, undisturbed)


SHORT = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 2}}


def changes(trainings: Trainings, out: Path, **job: Any) -> int:
    """How many times an undisturbed training changes a file for good."""
    count = out.with_suffix(".count")
    assert trainings.train(out, count_in=str(count), **job) == 0
    return int(count.read_text())


@pytest.mark.parametrize("kills", [5, pytest.param(None, marks=pytest.mark.slow, id="all")])
def test_killed_before_a_change_of_a_file_it_resumes_to_the_same_run(
    trainings: Trainings, tmp_path: Path, kills: int | None
) -> None:
    number = changes(trainings, tmp_path / "whole", settings=SHORT)
    assert number > 40
    moments = random.Random(1).sample(range(1, number + 1), kills or number)
    for moment in moments:
        out = tmp_path / str(moment)
        assert trainings.train(out, die_at=moment, settings=SHORT) == signal.SIGKILL
        assert trainings.go_on(out, settings=SHORT) == 0
        check_same(out, tmp_path / "whole")


def test_killed_while_a_finished_run_is_replaced_it_is_unfinished_and_resumed(
    trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    number = 0
    for name in ("whole", "killed"):
        out = tmp_path / name
        assert trainings.train(out, settings=SHORT) == 0
        if number == 0:
            number = changes(trainings, out, resume=True)
    # At the end: the three files, then run.json, of five calls each; then the lock.
    assert trainings.train(out, resume=True, die_at=number - 10) == signal.SIGKILL
    with pytest.raises(ArtefactError, match="has not finished"):
        Run(out)
    assert trainings.go_on(out) == 0
    check_same(out, undisturbed)


def test_a_change_of_the_number_of_threads_changes_nothing_here(
    trainings: Trainings, undisturbed: Path, tmp_path: Path
) -> None:
    assert trainings.train(tmp_path / "run", settings=SHORT, threads=2) == 0
    assert trainings.train(tmp_path / "run", resume=True, threads=1) == 0
    check_same(tmp_path / "run", undisturbed)
