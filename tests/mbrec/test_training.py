"""If these fail, nights of training are lost, or the figures of a run cannot be trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mbrec import memory, trainer, training
from mbrec.config import Settings, from_dict
from mbrec.dataset import GRAPH, PreparedDataset
from mbrec.errors import (
    ArtefactError,
    DeviceError,
    LeakageError,
    StoppedError,
    TrainingError,
    UsageError,
)
from mbrec.evaluation import evaluate
from mbrec.run import EMBEDDINGS, METRICS, Run
from mbrec.trainer import Silent
from mbrec.training import train_run

Rows = list[tuple[int, int, str, str]]


def settings(epochs: int = 4, method: str = "bigel", **train: Any) -> Settings:
    return from_dict(
        {
            "method": method,
            "device": "cpu",
            "model": {} if method == "mostpop" else {"size": 8},
            "train": {"epochs": epochs, "batch_size": 64, "lr": 0.02, "patience": 50, **train},
        }
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / EMBEDDINGS)


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


class StopAt(Silent):
    """Dies like an interrupted process, at a step or after an epoch."""

    def __init__(self, epoch: int, step: int | None = None) -> None:
        self.at = epoch, step

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        if (epoch, step) == self.at:
            raise KeyboardInterrupt

    def epoch(self, record: Mapping[str, Any]) -> None:
        if (record["epoch"], None) == self.at:
            raise KeyboardInterrupt


def test_the_same_seed_gives_the_same_run(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_run(tiny_dataset.path, tmp_path / name, settings())
    assert same(tmp_path / "a", tmp_path / "b")
    other = settings().model_copy(update={"seed": 2})
    train_run(tiny_dataset.path, tmp_path / "c", other)
    assert not same(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("method", ["bigel", "lightgcn"])
def test_two_epochs_and_two_more_are_four(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str
) -> None:
    train_run(tiny_dataset.path, tmp_path / "whole", settings(4, method))
    train_run(tiny_dataset.path, tmp_path / "parts", settings(2, method))
    train_run(tiny_dataset.path, tmp_path / "parts", settings(4, method), resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert [r["valid"] for r in journal(tmp_path / "whole")] == [
        r["valid"] for r in journal(tmp_path / "parts")
    ]
    assert Run(tmp_path / "parts").info["epochs"] == 4


@pytest.mark.parametrize("stop", [StopAt(1, 1), StopAt(3, 2), StopAt(2)])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tiny_dataset: PreparedDataset, tmp_path: Path, stop: StopAt
) -> None:
    train_run(tiny_dataset.path, tmp_path / "whole", settings())
    with pytest.raises(KeyboardInterrupt):
        train_run(tiny_dataset.path, tmp_path / "cut", settings(), observer=stop)
    with pytest.raises(ArtefactError, match="has not finished"):
        Run(tmp_path / "cut")
    with (tmp_path / "cut" / METRICS).open("a") as stream:
        stream.write('{"epoch": 3, "lo')  # a line that was being written
    train_run(tiny_dataset.path, tmp_path / "cut", settings(), resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert [r["epoch"] for r in journal(tmp_path / "cut")] == [1, 2, 3, 4]


class StopAfter:
    """Asks to stop when it is asked the n-th time: after the n-th step, or while validating."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{**record, "seconds": 0} for record in journal(run)]


# An epoch of tiny_dataset has 5 steps at this batch size, and 3 behaviors are validated.
@pytest.mark.parametrize(
    ("method", "weighting", "stops", "place"),
    [
        ("bigel", "equal", (1,), "epoch 1, after step 1 of 5"),
        ("bigel", "equal", (7,), "epoch 1, after step 5 of 5"),  # the 2nd behavior validated
        ("bigel", "uncertainty", (12, 2), "epoch 2, after step 4 of 5"),
        ("lightgcn", "gradnorm", (6, 1, 4, 1), "epoch 1, after step 5 of 5"),
        ("mbgcl", "equal", (12, 3), "epoch 2, after step 4 of 5"),  # draws of its own
        ("bvae", "equal", (12, 3), "epoch 2, after step 4 of 5"),
    ],
)
def test_a_training_that_was_asked_to_stop_goes_on_after_the_step(
    tiny_dataset: PreparedDataset,
    tmp_path: Path,
    method: str,
    weighting: str,
    stops: tuple[int, ...],
    place: str,
) -> None:
    chosen = settings(3, method, weighting=weighting, gradnorm_every=2)
    train_run(tiny_dataset.path, tmp_path / "whole", chosen)
    said = []
    for number, times in enumerate(stops):
        with pytest.raises(StoppedError) as caught:
            train_run(
                tiny_dataset.path,
                tmp_path / "cut",
                chosen,
                resume=number > 0,
                stop=nullcontext(StopAfter(times)),
            )
        said.append(str(caught.value))
    assert place in said[0]
    run = train_run(tiny_dataset.path, tmp_path / "cut", chosen, resume=True)
    assert (run.info["epochs"], len(journal(tmp_path / "cut"))) == (3, 3)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "cut")


def test_resuming_a_finished_run_changes_nothing(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", settings(2))
    before = weights(tmp_path / "run")
    train_run(tiny_dataset.path, tmp_path / "run", settings(2), resume=True)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items()
    )


def test_the_best_epoch_is_kept_and_training_stops(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = train_run(tiny_dataset.path, tmp_path / "run", settings(60, patience=3, lr=0.1))
    records = journal(tmp_path / "run")
    values = [record["valid"]["macro"] for record in records]
    best = int(np.argmax(values)) + 1
    assert run.info["best_epoch"] == best
    assert len(records) == best + 3 or len(records) == 60
    factors = {behavior: run.factors(behavior) for behavior in run.behaviors}
    summary = evaluate(factors, PreparedDataset(tiny_dataset.path), "valid").summary()
    assert summary["macro"]["ndcg@5"] == pytest.approx(max(values), abs=1e-6)
    assert run.info["valid"]["macro"]["ndcg@5"] == pytest.approx(max(values), abs=1e-6)


@pytest.mark.parametrize("engine", ["dgl", "torch"])
@pytest.mark.parametrize("method", ["bigel", "lightgcn"])
def test_trained_methods_learn_what_is_planted(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str, engine: str
) -> None:
    """Users like the items of their own residue: popularity knows nothing of it."""
    train_run(tiny_dataset.path, tmp_path / "pop", settings(method="mostpop"))
    chosen = settings(30, method).model_copy(update={"engine": engine})
    train_run(tiny_dataset.path, tmp_path / "run", chosen)
    figures = {}
    for name in ("pop", "run"):
        run = Run(tmp_path / name)
        factors = {behavior: run.factors(behavior) for behavior in run.behaviors}
        summary = evaluate(factors, PreparedDataset(tiny_dataset.path), "test").summary()
        figures[name] = {b: v["ndcg@5"] for b, v in summary["behaviors"].items() if v["users"]}
    for behavior, value in figures["run"].items():
        assert value > 1.5 * figures["pop"][behavior], (behavior, figures)


def test_training_cannot_read_a_test_row(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    opened: list[PreparedDataset] = []

    class Spy(PreparedDataset):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "PreparedDataset", Spy)
        train_run(tiny_dataset.path, tmp_path / "run", settings(1))
    assert opened
    for dataset in opened:
        with pytest.raises(LeakageError, match="test rows"):
            dataset.pairs("click", "test")


def test_a_loss_that_is_not_finite_stops_with_its_name(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"not finite in epoch \d+, step \d+: .*bpr/click"):
        train_run(tiny_dataset.path, tmp_path / "run", settings(30, lr=1e30))
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()


def test_without_validation_rows_the_last_epoch_is_kept(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    rows: Rows = [(u, i, "click", "train") for u in range(6) for i in range(6) if (u + i) % 2]
    dataset = make_dataset(rows, users=6, items=6, behaviors=["click"])
    run = train_run(dataset.path, tmp_path / "run", settings(3))
    assert (run.info["best_epoch"], run.info["epochs"], run.info["valid"]) == (3, 3, None)


def test_a_behavior_without_validation_rows_is_named(
    make_dataset: Callable[..., PreparedDataset],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows: Rows = [(u, i, "click", "train") for u in range(6) for i in range(6) if (u + i) % 2]
    rows += [(0, 0, "click", "valid"), (1, 0, "purchase", "train")]
    dataset = make_dataset(rows, users=6, items=6, behaviors=["click", "purchase"])
    train_run(dataset.path, tmp_path / "run", settings(1))
    assert "'purchase' has no validation rows" in caplog.text


def test_a_resumed_training_keeps_its_settings_and_data(
    tiny_dataset: PreparedDataset,
    make_dataset: Callable[..., PreparedDataset],
    tmp_path: Path,
) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", settings(1))
    with pytest.raises(UsageError, match=r"another train\.lr"):
        train_run(tiny_dataset.path, tmp_path / "run", settings(2, lr=0.5), resume=True)
    other = make_dataset([(0, 0, "click", "train")], users=2, items=2)
    with pytest.raises(ArtefactError, match="not the dataset"):
        train_run(other.path, tmp_path / "run", settings(2), resume=True)
    with pytest.raises(ArtefactError, match="no training to go on with"):
        train_run(tiny_dataset.path, tmp_path / "none", settings(2), resume=True)
    assert not (tmp_path / "none").exists()


def test_without_dgl_the_torch_engine_goes_the_whole_road(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    def missing() -> None:
        raise DeviceError("DGL cannot be imported.")

    rows: Rows = [(u, i, "click", "train") for u in range(6) for i in range(6) if (u + i) % 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mbrec.graph.dgl", missing)
        patch.setattr("mbrec.engines.dgl", missing)
        dataset = make_dataset(rows, users=6, items=6, behaviors=["click"])
        assert not (dataset.path / GRAPH).exists()
        chosen = settings(1).model_copy(update={"engine": "torch"})
        assert train_run(dataset.path, tmp_path / "torch", chosen).info["epochs"] == 1
        with pytest.raises(DeviceError, match="DGL cannot be imported"):
            train_run(dataset.path, tmp_path / "dgl", settings(1))
    assert not (tmp_path / "dgl").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_named(
    tiny_dataset: PreparedDataset, tmp_path: Path, damage: str
) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", settings(1))
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    content = bytearray(path.read_bytes())
    content[10:40] = b"\xff" * 30
    path.write_bytes({"cut": content[:100], "flip": content, "empty": b""}[damage])
    with pytest.raises(ArtefactError, match=re.escape(str(path))):
        train_run(tiny_dataset.path, tmp_path / "run", settings(2), resume=True)


def test_nothing_is_replaced_unasked(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", settings(1))
    with pytest.raises(UsageError, match="exists already"):
        train_run(tiny_dataset.path, tmp_path / "run", settings(1))
    train_run(tiny_dataset.path, tmp_path / "run", settings(2), force=True)
    assert Run(tmp_path / "run").info["epochs"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other things"):
        train_run(tiny_dataset.path, tmp_path / "mine", settings(1), force=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_leaves_nothing_behind(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    chosen = settings(1).model_copy(update={"device": "cuda"})
    with pytest.raises(DeviceError, match="sees no CUDA device"):
        train_run(tiny_dataset.path, tmp_path / "run", chosen)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["bigel", "lightgcn"])
def test_a_weight_of_an_unknown_behavior_is_refused(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str
) -> None:
    wrong = from_dict({"method": method, "model": {"l2": {"purchas": 0.1}}})
    with pytest.raises(UsageError, match=r"model\.l2 names 'purchas'.*'purchase'\?"):
        train_run(tiny_dataset.path, tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


def test_layers_must_fit_the_behaviors(tiny_dataset: PreparedDataset, tmp_path: Path) -> None:
    wrong = from_dict({"model": {"layers": [1, 2]}})
    with pytest.raises(UsageError, match="2 numbers for 3 behaviors"):
        train_run(tiny_dataset.path, tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


def test_tables_that_fit_one_by_one_but_not_together_are_refused_before_a_run_begins(
    tiny_dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, once = {"size": 8192}, {"epochs": 1}
    values = {"method": "mf-bpr", "device": "cpu", "model": size, "train": once}
    tables = [n * 8192 * 4 for n in (tiny_dataset.num_users, tiny_dataset.num_items)]
    free = 4 * max(tables)
    assert free < 3 * sum(tables)
    monkeypatch.setattr(memory, "free_memory", lambda device="cpu": free)
    with pytest.raises(TrainingError, match=r"To learn .* weights .*Lower model\.size"):
        train_run(tiny_dataset.path, tmp_path / "run", from_dict(values))
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("lr", [0.02, 1e30])
def test_memory_that_training_kept_is_given_back_however_it_ends(
    lr: float, tmp_path: Path, tiny_dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("keep_freed_memory", "return_freed_memory"):
        monkeypatch.setattr(trainer, name, partial(calls.append, name))
    with nullcontext() if lr < 1 else pytest.raises(TrainingError, match="not finite"):
        train_run(tiny_dataset.path, tmp_path / "run", settings(1, lr=lr))
    assert calls == ["keep_freed_memory", "return_freed_memory"]
