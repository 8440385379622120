"""From a raw log to ranked lists through the command line, each step in a process of its own.

What comes out is checked against what went in by separate means: pandas on the files, no mbrec.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbrec.cli import main as cli

BEHAVIORS = {"click": "pv", "favorite": "fav", "cart": "cart", "purchase": "buy"}
K = 5


def mbrec(*arguments: object) -> None:
    command = [sys.executable, "-m", "mbrec", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Road:
    """Where the steps have put their results."""

    place: Path

    @property
    def log(self) -> Path:
        return self.place / "log.csv.gz"

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def lists(self) -> Path:
        """All items, ranked, nothing left out."""
        return self.place / "lists.parquet"

    def run(self, model: str) -> Path:
        return self.place / "runs" / model

    def evaluation(self, model: str) -> dict[str, Any]:
        text = (self.run(model) / "evaluation.test.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def interactions(self) -> pd.DataFrame:
        """The rows of the dataset with the shop's ids: user_id, item_id, behavior, split."""
        rows = pd.read_parquet(self.data / "interactions.parquet")
        for side in ("user", "item"):
            ids = pd.read_parquet(self.data / f"{side}s.parquet").set_index(f"{side}_idx")
            rows[f"{side}_id"] = rows[f"{side}_idx"].map(ids[f"{side}_id"])
        return rows


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """The whole road on a small log."""
    road = Road(tmp_path_factory.mktemp("road"))
    size = ("--users", 500, "--items", 160, "--events", 50_000, "--seed", 5)
    mbrec("synth", "--format", "ub", *size, "--out", road.log)
    core = ("--min-user", 5, "--min-item", 5)
    mbrec("prep", "--source", "ub", "--input", road.log, "--out", road.data, *core)
    quick = ("--set", "train.epochs=10", "--set", "train.lr=0.01")
    mbrec("train", road.data, "--out", road.run("bigel"), *quick)
    mbrec("train", road.data, "--out", road.run("mostpop"), "--model", "mostpop")
    for model in ("bigel", "mostpop"):
        mbrec("evaluate", road.run(model))
    everything = ("--k", 160, "--exclude-seen", "none")
    mbrec("export", road.run("bigel"), *everything, "--out", road.lists)
    return road


def test_the_dataset_holds_what_the_log_says(road: Road) -> None:
    log = pd.read_csv(road.log, header=None, names=["user_id", "item_id", "category", "code", "t"])
    log["behavior"] = log["code"].map({code: name for name, code in BEHAVIORS.items()})
    pairs = log.sort_values("t").drop_duplicates(["user_id", "item_id", "behavior"])
    bought = pairs[pairs["behavior"] == "purchase"]
    size = -1
    while size != len(bought):
        size = len(bought)
        bought = bought[bought.groupby("user_id")["item_id"].transform("size") >= 5]
        bought = bought[bought.groupby("item_id")["user_id"].transform("size") >= 5]
    kept = pairs["user_id"].isin(bought["user_id"]) & pairs["item_id"].isin(bought["item_id"])
    key = ["user_id", "item_id", "behavior"]
    expected = pairs.loc[kept, key].sort_values(key).reset_index(drop=True)
    found = road.interactions()[key].astype(expected.dtypes).sort_values(key)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


def test_no_test_row_is_older_than_a_training_row(road: Road) -> None:
    times = road.interactions().groupby("split")["timestamp"].agg(["min", "max"])
    assert times.loc["train", "max"] <= times.loc["valid", "min"]
    assert times.loc["valid", "max"] <= times.loc["test", "min"]


def test_every_user_has_a_full_list_of_raw_ids_per_behavior(road: Road) -> None:
    lists, rows = pd.read_parquet(road.lists), road.interactions()
    assert list(lists.columns) == ["user_id", "behavior", "rank", "item_id", "score"]
    assert set(lists["user_id"]) == set(rows["user_id"])
    assert set(lists["item_id"]) == set(rows["item_id"])
    groups = lists.groupby(["user_id", "behavior"])
    assert (groups.size() == rows["item_id"].nunique()).all()
    assert groups.ngroups == rows["user_id"].nunique() * len(BEHAVIORS)
    assert (groups["item_id"].nunique() == groups.size()).all()
    assert (groups["rank"].max() == groups.size()).all()
    falling = groups["score"].apply(lambda s: s.is_monotonic_decreasing)
    assert falling.all()


def test_the_figures_follow_from_the_exported_lists(road: Road) -> None:
    lists, rows = pd.read_parquet(road.lists), road.interactions()
    said = road.evaluation("bigel")
    assert said["split"] == "test"
    for behavior in BEHAVIORS:
        own = rows[rows["behavior"] == behavior]
        expected = measured(lists[lists["behavior"] == behavior], own)
        found = said["behaviors"][behavior]
        assert found["users"] == len(expected)
        for metric, value in expected.mean().items():
            assert found[f"{metric}@{K}"] == pytest.approx(value, abs=1e-9), (behavior, metric)
        per_user = pd.read_parquet(road.run("bigel") / "per_user.test.parquet")
        per_user = per_user[per_user["behavior"] == behavior].set_index("user_id")
        np.testing.assert_allclose(per_user.loc[expected.index, f"ndcg@{K}"], expected["ndcg"])
    for metric in ("hr", "ndcg", "recall", "precision", "mrr", "map"):
        mean = np.mean([said["behaviors"][b][f"{metric}@{K}"] for b in BEHAVIORS])
        assert said["macro"][f"{metric}@{K}"] == pytest.approx(mean)


def measured(lists: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The metrics at K per user, from full lists and the rows of one behavior."""
    key = ["user_id", "item_id"]
    split = rows.set_index(key)["split"]
    lists = lists.assign(split=split.reindex(pd.MultiIndex.from_frame(lists[key])).to_numpy())
    lists = lists[lists["split"] != "train"].sort_values(["user_id", "rank"])
    lists["place"] = lists.groupby("user_id").cumcount() + 1
    test = rows[rows["split"] == "test"].groupby("user_id").size()
    top = lists[(lists["place"] <= K) & lists["user_id"].isin(test.index)]
    hits = top[top["split"] == "test"].copy()
    hits["found"] = hits.groupby("user_id").cumcount() + 1
    hits["gain"] = 1 / np.log2(hits["place"] + 1)
    hits["precision"] = hits["found"] / hits["place"]
    hits["reciprocal"] = 1 / hits["place"]
    by_user = hits.groupby("user_id").agg(
        number=("gain", "size"),
        gain=("gain", "sum"),
        precision=("precision", "sum"),
        first=("reciprocal", "max"),
    )
    by_user = by_user.reindex(test.index).fillna(0.0)
    reachable = np.minimum(test, K)
    best = np.cumsum(1 / np.log2(np.arange(1, K + 1) + 1))[reachable - 1]
    return pd.DataFrame(
        {
            "hr": (by_user["number"] > 0).astype(float),
            "ndcg": by_user["gain"] / best,
            "recall": by_user["number"] / test,
            "precision": by_user["number"] / K,
            "mrr": by_user["first"],
            "map": by_user["precision"] / reachable,
        }
    )


def test_bigel_is_far_above_the_most_popular_items_on_every_behavior(road: Road) -> None:
    bigel, popular = road.evaluation("bigel"), road.evaluation("mostpop")
    for behavior in BEHAVIORS:
        learned, counted = (e["behaviors"][behavior][f"ndcg@{K}"] for e in (bigel, popular))
        assert learned > 1.3 * counted, behavior
    assert bigel["macro"][f"ndcg@{K}"] > 1.6 * popular["macro"][f"ndcg@{K}"]


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """The one line with which a call ends; in this process, for what fails needs no other."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert stop.value.code == code
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_a_step_does_not_overwrite_what_is_there(
    road: Road, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in road.place.rglob("*") if path.is_file()}
    for arguments in (
        ("prep", "--source", "ub", "--input", road.log, "--out", road.data),
        ("train", road.data, "--out", road.run("mostpop"), "--model", "mostpop"),
        ("export", road.run("mostpop"), "--out", road.lists),
        ("synth", "--out", road.log),
    ):
        message = refusal(capsys, 2, *arguments)
        assert "exists" in message
        assert "--force" in message
    after = {path: path.stat().st_mtime_ns for path in road.place.rglob("*") if path.is_file()}
    assert after == before


def test_a_wrong_path_is_one_line_with_the_remedy(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (("train", road.place, "--out", tmp_path / "run"), "no prepared dataset"),
        (("evaluate", road.data), "no run"),
        (("export", tmp_path / "none", "--out", tmp_path / "lists.csv"), "no run"),
        (("prep", "--source", "ub", "--input", "none.csv", "--out", tmp_path / "d"), "none.csv"),
        (("prep", "--source", "jd", "--input", road.log, "--out", tmp_path / "d"), "no JData"),
    ):
        assert words in refusal(capsys, 1, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_steps_leave_nothing_hidden_behind(road: Road) -> None:
    assert list(road.place.rglob(".*")) == []
