"""If these fail, a refit learns from test rows, or forgets what validation rows have chosen."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mbrec import arrangement
from mbrec.columns import VISIBLE
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, LeakageError, StoppedError, UsageError
from mbrec.evaluation import evaluate_run
from mbrec.export import export_run
from mbrec.joined import joined
from mbrec.run import EMBEDDINGS, Run
from mbrec.training import refit_run, train_run

METHODS: dict[str, dict[str, Any]] = {
    "lightgcn": {"size": 4},
    "bigel-plus": {"size": 4, "context_size": 4},
    "ease": {},
}


def first_run(dataset: PreparedDataset, path: Path, method: str = "lightgcn") -> Run:
    values: dict[str, Any] = {"method": method, "device": "cpu", "model": METHODS[method]}
    if method != "ease":
        values["train"] = {"epochs": 4, "lr": 0.05, "batch_size": 64}
    return train_run(dataset.path, path, from_dict(values))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / EMBEDDINGS)


def keys(dataset: PreparedDataset, behavior: str, *splits: Any) -> set[int]:
    found = [dataset.pairs(behavior, split).keys(dataset.num_items) for split in splits]
    return set(np.concatenate(found).tolist())


def test_validation_rows_are_training_rows_and_nothing_else_changes(
    tiny_dataset: PreparedDataset,
) -> None:
    view = joined(tiny_dataset)
    for name in tiny_dataset.behaviors:
        assert keys(view, name, "train") == keys(tiny_dataset, name, "train", "valid")
        assert keys(view, name, "test") == keys(tiny_dataset, name, "test")
        assert not len(view.pairs(name, "valid"))
        pairs = view.pairs(name, "train")
        assert np.all(np.diff(pairs.keys(view.num_items)) > 0)
        times = dict(
            zip(
                pairs.keys(view.num_items).tolist(),
                view.timestamps(name, "train").to_pylist(),
                strict=True,
            )
        )
        for split in VISIBLE:
            own = tiny_dataset.pairs(name, split).keys(view.num_items).tolist()
            own_times = tiny_dataset.timestamps(name, split).to_pylist()
            assert [times[key] for key in own] == own_times
    edges = sum(view.graph().num_edges(etype) for etype in view.graph().canonical_etypes)
    assert edges > sum(
        tiny_dataset.graph().num_edges(etype) for etype in tiny_dataset.graph().canonical_etypes
    )
    assert joined(view) is view


def test_the_test_part_stays_out_of_sight(tiny_dataset: PreparedDataset) -> None:
    view = joined(PreparedDataset(tiny_dataset.path, VISIBLE))
    with pytest.raises(LeakageError):
        view.pairs("click", "test")


@pytest.mark.parametrize("method", METHODS)
def test_a_refit_is_the_training_with_all_rows_for_the_epochs_of_the_best(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str
) -> None:
    first = first_run(tiny_dataset, tmp_path / "first", method)
    refit = refit_run(first.path, tmp_path / "refit")
    assert refit.refitted
    assert not first.refitted
    assert refit.info["valid"] is None
    epochs = first.info.get("best_epoch")
    assert refit.info.get("epochs") == epochs
    assert refit.info.get("calibration") == first.info.get("calibration")
    if method == "bigel-plus":
        assert refit.info["refit"]["epochs"] == first.info["best_epochs"]
        assert max(first.info["best_epochs"].values()) == epochs
        return
    values = {"method": method, "device": "cpu", "model": METHODS[method], "rows": "train+valid"}
    if epochs:
        values["train"] = {"epochs": epochs, "lr": 0.05, "batch_size": 64}
    plain = train_run(tiny_dataset.path, tmp_path / "plain", from_dict(values))
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(refit)[name]), name
    assert any(
        tensor.shape != weights(first)[name].shape or not torch.equal(tensor, weights(first)[name])
        for name, tensor in weights(refit).items()
    )


def test_every_part_is_trained_for_its_own_epochs(
    tiny_dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_run(tiny_dataset, tmp_path / "first", "bigel-plus")
    wanted = {"cascade-1": 1, "cascade-2": 3, "context": 2}
    monkeypatch.setitem(first.info, "best_epochs", wanted)
    monkeypatch.setitem(first.info, "best_epoch", 3)
    monkeypatch.setattr(
        "mbrec.training.Run", lambda path: first if path == first.path else Run(path)
    )
    found: dict[str, list[int]] = {name: [] for name in wanted}

    class Watch:
        def step(self, epoch: int, *_: Any) -> None: ...

        def epoch(self, record: Any) -> None:
            for name in wanted:
                file = tmp_path / "refit" / "checkpoints" / f"best.{name}.safetensors"
                tables = load_file(file).items()
                found[name].append(hash(tuple((k, *v.flatten().tolist()) for k, v in tables)))

    refit_run(first.path, tmp_path / "refit", observer=Watch())
    for name, epochs in wanted.items():
        assert len(set(found[name])) == epochs, name


def test_a_refit_that_was_stopped_goes_on_to_the_same_weights(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    first = first_run(tiny_dataset, tmp_path / "first", "bigel-plus")
    whole = refit_run(first.path, tmp_path / "whole")
    asked = iter([False, False, False, True])
    with pytest.raises(StoppedError):
        refit_run(first.path, tmp_path / "cut", stop=nullcontext(lambda: next(asked)))
    resumed = refit_run(first.path, tmp_path / "cut", resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_lists_of_a_refit_leave_out_what_it_was_trained_on(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    refit = refit_run(first_run(tiny_dataset, tmp_path / "first").path, tmp_path / "refit")
    figures = evaluate_run(refit.path, split="test", ks=(5,)).summary()
    assert figures["behaviors"]["click"]["users"] > 0
    out = tmp_path / "lists.parquet"
    export_run(refit.path, out, k=30, exclude_seen="same")
    dataset = refit.dataset(splits=("train", "test"))
    assert keys(dataset, "click", "train") == keys(tiny_dataset, "click", "train", "valid")
    with pytest.raises(UsageError, match="trained on the validation rows"):
        evaluate_run(refit.path, split="valid")


def test_a_learned_order_stays_that_of_the_first_run(
    tiny_dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"method": "bigel", "order": "learned", "device": "cpu", "model": {"size": 4}}
    first = train_run(
        tiny_dataset.path,
        tmp_path / "first",
        from_dict({**values, "train": {"epochs": 1, "batch_size": 64}}),
    )
    other = (*first.behaviors[:-1][::-1], first.behaviors[-1])
    monkeypatch.setattr(arrangement, "learned_order", lambda dataset: other)
    refit = refit_run(first.path, tmp_path / "refit")
    assert refit.behaviors == first.behaviors != other


def test_what_another_release_has_learned_is_refused_before_the_training(
    tiny_dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_run(tiny_dataset, tmp_path / "first", "bigel-plus")
    monkeypatch.setitem(first.info, "calibration", {"click": {"weights": {}, "branch_alone": 0.1}})
    monkeypatch.setattr(
        "mbrec.training.Run", lambda path: first if path == first.path else Run(path)
    )
    asked: list[int] = []
    with pytest.raises(ArtefactError, match="no stack"):
        refit_run(first.path, tmp_path / "refit", stop=nullcontext(lambda: bool(asked.append(1))))
    assert not asked


def test_what_cannot_be_refitted_is_refused(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    refit = refit_run(first_run(tiny_dataset, tmp_path / "first").path, tmp_path / "refit")
    with pytest.raises(UsageError, match="already"):
        refit_run(refit.path, tmp_path / "again")
    values = {"method": "ease", "rows": "train+valid"}
    blind = train_run(tiny_dataset.path, tmp_path / "blind", from_dict(values))
    assert blind.refitted
    with pytest.raises(UsageError, match="already"):
        refit_run(blind.path, tmp_path / "again")
