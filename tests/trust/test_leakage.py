"""If these fail, published figures may rest on rows that a method should never have seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mbrec.bench.plan import Cell, make_plan
from mbrec.bench.spec import load_spec
from mbrec.config import from_dict
from mbrec.cross_fitting import FOLDS, CrossFitted
from mbrec.dataset import INTERACTIONS, MANIFEST, PreparedDataset
from mbrec.errors import ArtefactError, LeakageError
from mbrec.evaluation import evaluate_run
from mbrec.guard import seal
from mbrec.interactions import INTERACTIONS_SCHEMA
from mbrec.run import EMBEDDINGS, RUN
from mbrec.training import refit_run, train_run

Row = tuple[int, int, str, str]
MakeDataset = Callable[..., PreparedDataset]


def rows(test_shift: int = 0) -> list[Row]:
    """30 users × 20 items; the shift changes the test rows alone."""
    made: list[Row] = []
    for user in range(30):
        liked = [(user + 3 * step) % 20 for step in range(6)]
        made += [(user, item, "click", "train") for item in liked[:4]]
        made += [(user, item, "buy", "train") for item in liked[1:3]]
        made += [(user, liked[4], name, "valid") for name in ("click", "buy")]
        held = (liked[5] + test_shift) % 20
        assert held not in liked[:5]
        made += [(user, held, name, "test") for name in ("click", "buy")]
    return made


def settings(method: str) -> Any:
    size = {"size": 8} if method != "mostpop" else {}
    train = {"epochs": 2, "batch_size": 64}
    return from_dict({"method": method, "device": "cpu", "model": size, "train": train})


def plant(path: Path, split: str) -> None:
    """Copy the held-out pairs into training, by hand, with every hash made right again."""
    table = pq.read_table(path / INTERACTIONS).to_pylist()
    table += [{**row, "split": "train"} for row in table if row["split"] == split][:5]
    order = {name: place for place, name in enumerate(["click", "buy", "train", "valid", "test"])}
    table.sort(
        key=lambda r: (order[r["behavior"]], order[r["split"]], r["user_idx"], r["item_idx"])
    )
    pq.write_table(pa.Table.from_pylist(table, INTERACTIONS_SCHEMA), path / INTERACTIONS)
    manifest = json.loads((path / MANIFEST).read_text())
    digest = hashlib.sha256((path / INTERACTIONS).read_bytes()).hexdigest()
    manifest["files"][INTERACTIONS] = digest
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_held_out_pairs_planted_in_training_are_caught_on_opening(
    make_dataset: MakeDataset, tmp_path: Path, split: str
) -> None:
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    plant(dataset.path, split)
    with pytest.raises(ArtefactError, match=rf"5 pairs of 'click' stand in train and {split}"):
        train_run(dataset.path, tmp_path / "run", settings("mostpop"))


@pytest.mark.parametrize("method", ["bigel-plus", "bigel"])
def test_other_test_rows_change_nothing_that_is_trained_or_chosen(
    make_dataset: MakeDataset, tmp_path: Path, method: str
) -> None:
    """Weights, early stopping, and what bigel-plus calibrates on validation rows."""
    found = []
    for shift in (0, 4):
        named = {"name": f"data{shift}", "behaviors": ["click", "buy"]}
        dataset = make_dataset(rows(shift), users=30, items=20, **named)
        run = train_run(dataset.path, tmp_path / f"run{shift}", settings(method))
        chosen = {key: run.info.get(key) for key in ("calibration", "best_epoch", "valid")}
        found.append((load_file(run.path / EMBEDDINGS), chosen))
    (first, chosen), *others = found
    if method == "bigel-plus":
        assert chosen["calibration"]
    for tensors, other in others:
        assert other == chosen
        assert all(torch.equal(first[name], tensors[name]) for name in first)


def test_validation_figures_are_of_lists_that_do_not_know_the_users_rows(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    """A stack learned from a user's rows has lists for them; her figures are of other ones."""
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    run = train_run(dataset.path, tmp_path / "run", settings("bigel-plus"))
    assert run.info["valid"]["cross_fitted"] == ["click", "buy"]
    assert evaluate_run(run.path, split="valid").summary() == run.info["valid"]
    everyone = torch.arange(30)
    for behavior, own in run.scorers("valid").items():
        exported = run.scorer(behavior)
        assert isinstance(own, CrossFitted)
        ranked = [fold.scores(everyone[:1], 0, 20) for fold in own.folds]
        assert len(torch.unique(torch.cat(ranked), dim=0)) == FOLDS  # each taught by others
        of_test = run.scorers("test")[behavior].scores(everyone, 0, 20)
        assert torch.equal(of_test, exported.scores(everyone, 0, 20))
        assert not torch.equal(of_test, own.scores(everyone, 0, 20))
    assert "cross_fitted" not in evaluate_run(run.path, split="test").summary()


def test_a_run_that_cannot_rank_its_rows_fairly_says_so(
    make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of an earlier release, which held the stack of all users alone."""
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    run = train_run(dataset.path, tmp_path / "run", settings("bigel-plus"))
    evaluate_run(run.path, split="valid")
    assert "too good" not in caplog.text
    earlier = {name: value for name, value in run.info.items() if name != "cross_fitted"}
    (run.path / RUN).write_text(json.dumps(seal(earlier)))
    evaluate_run(run.path, split="valid")
    assert "figures on them are too good. Train it again." in caplog.text


def test_a_refit_has_no_rows_left_to_be_measured_by(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    train_run(dataset.path, tmp_path / "run", settings("bigel-plus"))
    again = refit_run(tmp_path / "run", tmp_path / "again")
    assert again.info["calibration"]
    assert not again.info["cross_fitted"]


def test_figures_of_another_dataset_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    behaviors = ["click", "buy"]
    mine = make_dataset(rows(), users=30, items=20, behaviors=behaviors, name="mine")
    other = make_dataset(rows(4), users=30, items=20, behaviors=behaviors, name="other")
    train_run(mine.path, tmp_path / "run", settings("mostpop"))
    with pytest.raises(ArtefactError, match=r"is not the dataset that .* was trained on"):
        evaluate_run(tmp_path / "run", data=other.path)


def test_the_search_of_a_bench_sees_no_test_row(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    spec = tmp_path / "small.toml"
    spec.write_text(
        f'seeds = [1]\ntrials = 2\nours = ["lightgcn"]\n[datasets]\nd = "{dataset.path}"\n'
        '[settings]\ndevice = "cpu"\n[methods.lightgcn]\ngrid = {"train.lr" = [0.1, 0.2]}\n'
    )
    search: list[Cell] = [c for lane in make_plan(load_spec(spec, (), ())) for c in lane.trials()]
    assert len(search) == 2
    assert all(cell.splits == ("valid",) for cell in search)


def test_a_dataset_opened_to_train_has_no_way_to_its_test_rows(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset(rows(), users=30, items=20, behaviors=["click", "buy"])
    visible = PreparedDataset(dataset.path, ("train", "valid"))
    for ask in (visible.pairs, visible.timestamps):
        with pytest.raises(LeakageError, match="test rows"):
            ask("buy", "test")
