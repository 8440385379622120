"""`mbrec inspect` and `mbrec explain` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbrec.cli.plots import Plots
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.run import METRICS, RUN
from mbrec.training import train_run

Mbrec = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tiny_dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    steps = {"epochs": 3, "batch_size": 64, "lr": 0.02}
    values = {"method": "lightgcn", "engine": "torch", "model": {"size": 8}, "train": steps}
    train_run(tiny_dataset.path, out, from_dict(values))
    return out


def test_the_figures_of_a_dataset_are_right(mbrec: Mbrec, tiny_dataset: PreparedDataset) -> None:
    code, out, _ = mbrec("inspect", tiny_dataset.path, "--json")
    shown = json.loads(out)
    assert code == 0
    clicks, buys = (tiny_dataset.pairs(b, "train") for b in ("click", "purchase"))
    assert shown["behaviors"]["click"]["train"] == len(clicks)
    assert shown["behaviors"]["purchase"]["users"] == len(np.unique(buys.user_idx))
    mine = set(zip(clicks.user_idx.tolist(), clicks.item_idx.tolist(), strict=True))
    both = [p in mine for p in zip(buys.user_idx.tolist(), buys.item_idx.tolist(), strict=True)]
    assert shown["overlap"]["purchase"]["click"] == pytest.approx(np.mean(both))
    counts = np.sort(np.bincount(buys.item_idx, minlength=30))[::-1]
    assert shown["long_tail"]["purchase"]["top_10_percent"] == counts[:3].sum() / counts.sum()
    held = shown["held_out"]["test"]["purchase"]
    # Item 29 of user 0 is in no training row; what was bought at last had been clicked before.
    assert held["rows"] == 24 and held["cold_items"] == 1 / 24 and held["explored"] == 0.0
    assert shown["held_out"]["valid"]["purchase"]["explored"] == 1.0
    assert shown["time"]["without"] == 0 and sum(shown["time"]["bins"]) == shown["interactions"]


def test_a_dataset_and_a_run_are_told_apart(
    mbrec: Mbrec, tiny_dataset: PreparedDataset, trained: Path
) -> None:
    code, out, _ = mbrec("inspect", tiny_dataset.path, "--ascii")
    assert code == 0 and out.startswith("Prepared dataset") and out.isascii()
    assert "\nLong tail (training pairs)" in out and "\nRows of test" in out
    code, out, _ = mbrec("inspect", trained, "--ascii")
    assert code == 0 and "lightgcn, seed 1, finished" in out and "Learning: 3 epochs" in out
    assert f"mbrec evaluate {trained}" in out
    assert "train.batch_size = 64" in out and "train.patience" not in out


def test_a_training_that_has_not_finished_can_be_looked_at(
    mbrec: Mbrec, trained: Path, tmp_path: Path
) -> None:
    info = json.loads((trained / RUN).read_text())
    kept = {key: value for key, value in info.items() if key not in ("seal", "valid")}
    (tmp_path / RUN).write_text(json.dumps({**kept, "files": {}}))
    whole = (trained / METRICS).read_text()
    (tmp_path / METRICS).write_text(whole + '{"epoch": 4, "lo')
    code, out, _ = mbrec("inspect", tmp_path)
    assert code == 0 and ", training" in out and "3 epochs" in out and "--resume" in out


@pytest.mark.parametrize("verb", ["inspect", "explain"])
def test_what_is_neither_is_said_in_a_line(mbrec: Mbrec, tmp_path: Path, verb: str) -> None:
    more = ("--user", "1", "--item", "2") if verb == "explain" else ()
    for place in (tmp_path, tmp_path / "gone"):
        code, out, err = mbrec(verb, place, *more)
        assert code == 1 and not out and err.count("\n") == 1 and "mbrec train" in err


def test_shares_are_shown_and_add_up(mbrec: Mbrec, trained: Path) -> None:
    code, out, _ = mbrec("explain", trained, "--user", "u3", "--item", "1006", "--json")
    told = json.loads(out)
    assert code == 0 and told["how"] == "exact" and told["user"] == "u3" and told["item"] == 1006
    assert sum(row["value"] for row in told["parts"]) == pytest.approx(told["score"], abs=1e-5)
    code, out, _ = mbrec("explain", trained, "--user", "u3", "--item", "1006", "--top", "2")
    assert code == 0 and "own embedding" in out and "Neighbors, the largest 2 of" in out


def test_unknown_users_are_an_error_with_an_example(mbrec: Mbrec, trained: Path) -> None:
    code, _, err = mbrec("explain", trained, "--user", "nobody", "--item", "1006")
    assert code == 1 and "no user 'nobody'" in err and "'u0'" in err


def test_plots_fit_and_need_no_more_than_ascii() -> None:
    for plots in (Plots(True), Plots(False)):
        assert len(plots.bar(0.5, 10)) == 10 and len(plots.bar(2.0, 10)) == 10
        assert plots.bar(0.0, 4) == "    " and plots.bar(1e-6, 4).strip()
        assert len(plots.sparkline(list(range(100)), 40)) == 40
        assert plots.sparkline([]) == "" and plots.sparkline([None, 1.0])[0] == " "
        assert len(set(plots.sparkline([2.0, 2.0]))) == 1
    assert Plots(False).sparkline([0, 1, 2]).isascii() and Plots(False).bar(0.3).isascii()
