"""If these fail, `--processes` is no way to train, rank or export what one process does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mbrec.dataset import PreparedDataset
from mbrec.run import CHECKPOINTS, EMBEDDINGS, METRICS, Run
from mbrec.trainer import LAST

pytestmark = pytest.mark.slow

MBREC = (sys.executable, "-m", "mbrec")
PATIENCE = 300  # seconds; what hangs fails its test
SETTINGS = ("--engine", "torch", "--set", "model.size=6", "--set", "train.batch_size=64")
LONG = (*SETTINGS, "--set", "train.epochs=100000", "--set", "train.patience=100000")


def run_of(*arguments: str | Path, command: Sequence[str] = MBREC) -> str:
    """Standard output of a command that ends well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def training(data: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks in the middle of a long training."""
    command = [*MBREC, "train", str(data), "--out", str(out), *LONG, "--processes", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: epochs(out) >= 2 or process.poll() is not None)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def epochs(out: Path) -> int:
    journal = out / METRICS
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def rank_process(launcher: int, rank: int) -> int:
    """The process id of a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_training_and_it_can_be_gone_on_with(
    rank: int, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with training(tiny_dataset.path, out) as process:
        os.kill(rank_process(process.pid, rank), signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors.count("Error:") == 1
    last = errors.splitlines()[-1]
    assert f"Error: Rank {rank} of 2 was ended by SIGKILL" in last
    assert "go on with: mbrec train" in last
    more = f"train.epochs={epochs(out) + 2}"
    run_of("train", tiny_dataset.path, "--out", out, "--resume", "--set", more)
    assert Run(out).info["status"] == "finished"


def test_a_terminated_team_saves_and_goes_on_in_one_process(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with training(tiny_dataset.path, out) as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.count("everything up to there is saved") == 1
    assert (out / CHECKPOINTS / LAST).is_file()
    total = f"train.epochs={epochs(out) + 1}"
    run_of("train", tiny_dataset.path, "--out", out, "--resume", "--set", total)
    whole = tmp_path / "whole"
    run_of("train", tiny_dataset.path, "--out", whole, *LONG, "--set", total)
    one, other = (load_file(path / EMBEDDINGS) for path in (whole, out))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-4)


def test_ranks_evaluate_and_export_what_one_process_does(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_of("train", tiny_dataset.path, "--out", run, *SETTINGS, "--set", "train.epochs=2")
    one = run_of("evaluate", run, "--json", "--slices")
    assert run_of("evaluate", run, "--json", "--slices", "--processes", "2") == one
    for count in ("1", "3"):
        out = tmp_path / f"{count}.parquet"
        run_of("export", run, "--k", "4", "--out", out, "--processes", count)
    tables = [pq.read_table(tmp_path / f"{count}.parquet") for count in "13"]
    assert tables[0].equals(tables[1])


def test_torchrun_starts_ranks_too(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    options = ("--nproc-per-node", "2", "-m", "mbrec")
    said = run_of(
        "train",
        tiny_dataset.path,
        "--out",
        out,
        *SETTINGS,
        "--set",
        "train.epochs=2",
        command=(*torchrun, *options),
    )
    assert len(re.findall("Next: mbrec evaluate", said)) == 1
    assert Run(out).info["processes"] == 2
