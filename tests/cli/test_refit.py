"""If these fail, `mbrec refit` breaks its contract with those who call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mbrec.dataset import PreparedDataset
from mbrec.run import Run

Mbrec = Callable[..., tuple[int, str, str]]  # the fixture of conftest.py


def test_a_run_is_trained_once_more_with_all_rows(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    first, out = tmp_path / "first", tmp_path / "refit"
    small = ["--device", "cpu", "--set", "model.size=8", "--set", "train.epochs=2"]
    assert mbrec("train", tiny_dataset.path, "--out", first, "--model", "lightgcn", *small)[0] == 0
    code, said, progress = mbrec("refit", first, "--out", out)
    assert code == 0
    assert f"mbrec export {out}" in said
    assert "epoch   1  loss" in progress
    assert "valid" not in progress
    assert Run(out).refitted
    assert mbrec("evaluate", out)[0] == 0
    assert mbrec("export", out, "--out", tmp_path / "lists.csv")[0] == 0
    assert mbrec("inspect", out)[0] == 0

    code, _, wrong = mbrec("refit", first, "--out", out)
    assert code == 2
    assert "exists already" in wrong
    assert mbrec("refit", first, "--out", out, "--force")[0] == 0
    code, _, wrong = mbrec("refit", out, "--out", tmp_path / "again")
    assert code == 2
    assert "trained on the validation rows already" in wrong
    code, _, wrong = mbrec("evaluate", out, "--split", "valid")
    assert code == 2
    assert "--split test" in wrong
    code, _, wrong = mbrec("refit", tmp_path / "nowhere", "--out", tmp_path / "again")
    assert code == 1
    assert "is no run" in wrong
