"""If these fail, `mbrec train` breaks its contract with those who call it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mbrec.cli.stopping import StopSignal
from mbrec.dataset import PreparedDataset
from mbrec.run import EMBEDDINGS, Run

Mbrec = Callable[..., tuple[int, str, str]]  # the fixture of conftest.py
SMALL = ["--device", "cpu", "--set", "model.size=8", "--set", "train.batch_size=64"]


def test_a_run_is_made_and_said(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, said, progress = mbrec(
        "train", tiny_dataset.path, "--out", out, *SMALL, "--set", "train.epochs=2"
    )
    assert code == 0
    assert "bigel, seed 1, 2 epochs" in said
    assert f"mbrec evaluate {out}" in said
    assert "epoch   1  loss" in progress
    assert "ndcg@5" in progress
    names = {path.name for path in out.iterdir()}
    assert {"run.json", "config.toml", "metrics.jsonl", "embeddings.safetensors"} <= names
    assert Run(out).info["versions"]["torch"] == str(torch.__version__)
    assert Run(out).user_ids.to_pylist() == tiny_dataset.user_ids.to_pylist()


def test_json_is_all_that_stands_on_stdout(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    code, said, _ = mbrec(
        "train", tiny_dataset.path, "--out", tmp_path / "r", "--model", "mostpop", "--json"
    )
    assert code == 0
    assert json.loads(said)["model"] == "mostpop"


def test_a_config_file_gives_the_settings_and_resume_takes_the_runs_own(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    config, out = tmp_path / "mine.toml", tmp_path / "run"
    config.write_text(
        'method = "lightgcn"\nseed = 4\n[model]\nsize = 8\n[train]\nepochs = 1\npatience = 9\n'
    )
    assert mbrec("train", tiny_dataset.path, "--out", out, "--config", config)[0] == 0
    again = ["train", tiny_dataset.path, "--out", out, "--resume", "--set", "train.epochs=3"]
    assert mbrec(*again)[0] == 0
    info = Run(out).info
    assert (info["model"], info["seed"], info["epochs"]) == ("lightgcn", 4, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "model.cgff=0"], 2, "Did you mean model.cgf?"),
        (["--model", "bigle"], 2, "Did you mean 'bigel'?"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
        (["--resume"], 1, "no training to go on with"),
        (["--resume", "--force"], 2, "Give only one"),
        (["--set", "model.layers=[1,2]"], 2, "2 numbers for 3 behaviors"),
        pytest.param(
            ["--device", "cuda"],
            1,
            "--device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA"),
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(
    mbrec: Mbrec,
    tiny_dataset: PreparedDataset,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    out = tmp_path / "run"
    got, said, error = mbrec("train", tiny_dataset.path, "--out", out, *arguments)
    assert (got, said) == (code, "")
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_data_that_is_none_is_one_line(mbrec: Mbrec, tmp_path: Path) -> None:
    code, _, error = mbrec("train", tmp_path / "none", "--out", tmp_path / "run")
    assert code == 1
    assert "no prepared dataset" in error
    assert "mbrec prep" in error
    assert not (tmp_path / "run").exists()


def test_a_second_run_into_the_same_folder_is_refused(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    call = ["train", tiny_dataset.path, "--out", tmp_path / "run", "--model", "mostpop"]
    assert mbrec(*call)[0] == 0
    code, _, error = mbrec(*call)
    assert code == 2
    assert "--force" in error
    assert mbrec(*call, "--force")[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_to_go_on_and_goes_on(
    tiny_dataset: PreparedDataset, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "mbrec", "train", str(tiny_dataset.path)]
    command += ["--out", str(tmp_path / "run"), *SMALL]
    long = ["--set", "train.epochs=100000", "--set", "train.patience=100000"]
    process = subprocess.Popen([*command, *long], stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert "--resume" in error
    assert "Traceback" not in error
    assert re.search(r"Stopped in epoch \d+, after step \d+ of 5", error)
    done = len(journal.read_text().splitlines())
    more = ["--resume", "--set", f"train.epochs={done + 1}"]
    finished = subprocess.run([*command[:7], *more], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert Run(tmp_path / "run").info["epochs"] == done + 1
    whole = [*command[:6], str(tmp_path / "whole"), *SMALL, "--set", f"train.epochs={done + 1}"]
    subprocess.run([*whole, *long[2:]], capture_output=True, check=True)
    first, second = (load_file(tmp_path / name / EMBEDDINGS) for name in ("run", "whole"))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_second_signal_ends_it_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopSignal()
    with pytest.raises(KeyboardInterrupt), stop as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)
