"""If these fail, a search cannot be started, read by a script, or gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from mbrec.dataset import PreparedDataset
from mbrec.tune import tune as tuning

Mbrec = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arguments(tiny_dataset: PreparedDataset, tmp_path: Path) -> list[object]:
    """Of a small search."""
    small = ["--model", "ease", "--device", "cpu", "--jobs", "0", "--trials", "3"]
    return ["tune", tiny_dataset.path, *small, "--out", tmp_path / "study"]


def test_a_search_says_how_it_goes_what_it_found_and_what_is_next(
    mbrec: Mbrec, arguments: list[object], tmp_path: Path
) -> None:
    code, out, err = mbrec(*arguments)
    assert code == 0, err
    assert err.startswith(
        '[1/3] model.l2 = 300, model.itself = 0.3, model.history = "merged", '
        'model.target = "merged"  ndcg'
    )
    assert len(err.splitlines()) == 3
    assert out.startswith("ease, seed 1: 3 trials (3 finished)\n  valid ndcg@5 0.")
    best = tmp_path / "study" / "best.toml"
    assert f"--config {best}" in out
    code, text, _ = mbrec(*arguments, "--json")
    found = json.loads(text)
    assert (found["start"], len(found["trials"])) == (1, 3)
    assert found["gain"] >= 0
    train = ["train", arguments[1], "--config", best, "--out", tmp_path / "run", "--json"]
    code, text, _ = mbrec(*train)
    value = json.loads(text)["valid"]["macro"]["ndcg@5"]
    assert value == max(trial["value"] for trial in found["trials"])


def test_ctrl_c_says_that_the_same_command_goes_on(
    mbrec: Mbrec, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: object, pool: object, trials: int, timeout: float | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Search, "run", stop)
        code, _, err = mbrec(*arguments)
    assert code == 130
    assert "the same command goes on" in err
    assert mbrec(*arguments)[0] == 0


def test_errors_are_one_line_with_a_remedy(
    mbrec: Mbrec, arguments: list[object], tmp_path: Path
) -> None:
    code, _, err = mbrec(*arguments, "--model", "mostpop")
    assert (code, err.count("\n")) == (2, 1) and "nothing to tune" in err
    code, _, err = mbrec(*arguments, "--model", "eese")
    assert code == 2 and "Did you mean 'ease'" in err
    code, _, err = mbrec(*arguments, "--space", tmp_path / "none.toml")
    assert code == 2 and "none.toml" in err
    assert not (tmp_path / "study").exists()


def test_a_space_can_be_looked_at(mbrec: Mbrec) -> None:
    code, out, _ = mbrec("tune", "--list-space", "ease")
    assert code == 0
    assert out.splitlines()[0] == "model.l2 = 300    of 10 … 3000, log"
