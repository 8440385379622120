"""If these fail, a method made of several does not keep each of them at its best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mbrec import keeping, training
from mbrec.building import build_method
from mbrec.checkpoint import Progress, Standing
from mbrec.config import Settings, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import evaluate
from mbrec.models.bigel.model import Bigel
from mbrec.run import CHECKPOINTS, EMBEDDINGS, METRICS, Run
from mbrec.training import train_run

PARTS = ("cascade-1", "cascade-2", "context")


def settings(epochs: int, patience: int) -> Settings:
    return from_dict(
        {
            "method": "bigel-plus",
            "device": "cpu",
            "model": {"size": 4, "context_size": 4, "context_negatives": 5},
            "train": {"epochs": epochs, "batch_size": 64, "lr": 0.02, "patience": patience},
        }
    )


def best(run: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(run / CHECKPOINTS / f"best.{part}.safetensors")


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation that goes by a plan: the second cascade is best at epoch 2, context at 1."""
    plan = {
        "cascade-1": iter((0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        "cascade-2": iter((0.1, 0.2, 0.1, 0.1, 0.1, 0.1)),
        "context": iter((0.2, 0.1, 0.1, 0.1, 0.1, 0.1)),
    }
    current: list[Iterator[float]] = []

    class Found:
        def __init__(self, value: float, names: list[str]) -> None:
            self.value, self.names = value, names

        def summary(self) -> Any:
            return {"behaviors": {name: {"ndcg@5": self.value} for name in self.names}}

    def fake(scorers: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("ks") != (5,):
            return evaluate(scorers, *arguments, **options)
        return Found(next(current[0]), list(scorers))

    def validate(self: keeping.Keeper, validate: keeping.Validate) -> Any:
        found = {}
        for name in self.learning:
            current[:] = [plan[name]]
            with self.averages[name].applied():
                found[name] = validate(self.parts[name])
        return found

    monkeypatch.setattr(keeping.Keeper, "validate", validate)
    monkeypatch.setattr(training, "evaluate", fake)


@pytest.mark.usefixtures("planned")
def test_every_part_is_kept_at_its_best_and_rests_after_its_patience(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", settings(6, patience=2))
    parts = journal(tmp_path / "run")[-1]["parts"]
    assert {name: parts[name]["best_epoch"] for name in PARTS} == {
        "cascade-1": 6,
        "cascade-2": 2,
        "context": 1,
    }
    assert Run(tmp_path / "run").info["epochs"] == 6
    assert Run(tmp_path / "run").info["best_epoch"] == 6
    # What rests does not move: the last weights of the context are those of epoch 3.
    last = load_file(tmp_path / "run" / CHECKPOINTS / "last.safetensors")
    steps = {name: int(last[f"average-{name}-model/steps"]) for name in PARTS}
    per_epoch = steps["cascade-1"] // 6
    assert steps == {
        "cascade-1": 6 * per_epoch,
        "cascade-2": 4 * per_epoch,
        "context": 3 * per_epoch,
    }
    assert int(best(tmp_path / "run", "context")["average-context-model/steps"]) == per_epoch


def test_two_epochs_and_more_are_all_of_them_where_parts_rest(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_run(tiny_dataset.path, whole, settings(9, patience=1))
    train_run(tiny_dataset.path, cut, settings(2, patience=1))
    train_run(tiny_dataset.path, cut, settings(9, patience=1), resume=True)
    first, second = load_file(whole / EMBEDDINGS), load_file(cut / EMBEDDINGS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    strip = [[{**r, "seconds": 0} for r in journal(run)] for run in (whole, cut)]
    assert strip[0] == strip[1]
    rested = [r["parts"] for r in journal(whole)][-1]
    assert len({row["best_epoch"] for row in rested.values()}) > 1, "the parts ran in step"


def test_the_run_ranks_by_the_best_weights_of_its_parts(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    plain = settings(5, patience=1)
    model = plain.model.model_copy(update={"context": False, "blend": False})
    run = train_run(tiny_dataset.path, tmp_path / "run", plain.model_copy(update={"model": model}))
    found = Run(tmp_path / "run").scorer(tiny_dataset.behaviors[-1])
    users = torch.arange(tiny_dataset.num_users)
    scores = found.scores(users, 0, tiny_dataset.num_items)
    expected = torch.zeros_like(scores)
    for part in ("cascade-1", "cascade-2"):
        method = build_method(
            PreparedDataset(tiny_dataset.path, training.VISIBLE),
            from_dict({"method": "bigel", "device": "cpu", "model": {"size": 4, "gce": False}}),
            torch.device("cpu"),
        )
        assert isinstance(method, Bigel)
        tensors = best(tmp_path / "run", part)
        with torch.no_grad():
            for place, weight in enumerate(method.parameters()):
                weight.copy_(tensors[f"average-{part}-model/{place}"])
        own = method.scorers()[tiny_dataset.behaviors[-1]]
        table = own.scores(users, 0, tiny_dataset.num_items)
        expected += table / table.std(dim=1, correction=0, keepdim=True)
    spread = expected.std(dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(scores, expected / spread, atol=1e-4, rtol=1e-4)
    assert run.info["epochs"] >= 2


def test_a_part_that_rests_has_waited_and_the_whole_waits_with_the_last() -> None:
    progress = Progress()
    for epoch, (one, other) in enumerate(((0.1, 0.3), (0.2, 0.2), (0.1, 0.1)), start=1):
        progress = progress.after(epoch, {"one": {"b": one}, "other": {"b": other}}, 1.0)
    assert progress.parts["other"] == Standing(1, 0.3, 2, {"b": 0.3})
    assert (progress.best_epoch, progress.waited, progress.seconds) == (2, 1, 3.0)
    assert Progress.read(json.dumps({"epoch": 3})) == Progress(3)
