"""If these fail, a method of the registry does not do what every method promises.

A new method is covered as soon as it is in `BUILT_IN`; `-k <name>` runs one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mbrec import training
from mbrec.building import build_method
from mbrec.config import Settings, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import evaluate_run
from mbrec.export import export_run
from mbrec.models import BUILT_IN
from mbrec.models.base import TrainedMethod
from mbrec.models.registry import find
from mbrec.run import EMBEDDINGS, Run
from mbrec.scoring import Scorer
from mbrec.training import train_run

Row = tuple[int, int, str, str]  # user index, item index, behavior, split
METHODS = sorted(BUILT_IN)
BEHAVIORS = ("page.view", "cart", "buy")  # a dot in a name is a trap of torch modules
GROUPS, GROUP_SIZE, USERS = 12, 20, 240
ITEMS = GROUPS * GROUP_SIZE
SMALL: dict[str, Any] = {"epochs": 12, "batch_size": 512, "lr": 0.03, "patience": 99}
OTHER: dict[str, dict[str, Any]] = {}
"""Method → its own small settings, {"model": …, "train": …}, where `SMALL` does not serve."""


def planted_rows() -> list[Row]:
    """Every user likes the 20 items of one of 12 groups, and does all she does among them.

    Popularity knows nothing of it. Half of the users have touched their held-out items before, in
    another behavior (in the one before, where there is one); the others never have. One user has
    no row at all, one bought without a look, and one item is in no row.
    """
    rng = np.random.default_rng(5)
    rows: list[Row] = [(USERS - 2, item, "buy", "train") for item in range(3)]
    for user in range(USERS - 2):
        group = user % GROUPS
        liked = (rng.permutation(GROUP_SIZE - (group == GROUPS - 1)) + group * GROUP_SIZE).tolist()
        known = user // GROUPS % 2 == 0
        view, cart, buy = BEHAVIORS
        train = {
            view: [*liked[:8], int(rng.integers(ITEMS - 1))],
            cart: [*liked[2:6], *(liked[8:10] if known else [])],
            buy: liked[3:5] + liked[10:11],
        }
        held = {
            view: liked[8:10],
            cart: liked[6:8] if known else liked[11:13],
            buy: [liked[5], liked[2]] if known else liked[13:15],
        }
        for behavior in BEHAVIORS:
            rows += [
                (user, item, behavior, "train")
                for item in sorted(set(train[behavior]) - set(held[behavior]))
            ]
            rows += [(user, held[behavior][0], behavior, "valid")]
            rows += [(user, held[behavior][1], behavior, "test")]
    return rows


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory, write_planted: Callable[..., PreparedDataset]
) -> PreparedDataset:
    path = tmp_path_factory.mktemp("planted") / "dataset"
    return write_planted(path, planted_rows(), users=USERS, items=ITEMS, behaviors=BEHAVIORS)


def settings(method: str, **train: Any) -> Settings:
    own = OTHER.get(method, {})
    size = {"size": 16} if "size" in find(method).config.model_fields else {}
    model = {**size, **own.get("model", {})}
    train = {**SMALL, "eval_every": 4, **own.get("train", {}), **train}
    return from_dict({"method": method, "device": "cpu", "model": model, "train": train})


class Trained:
    """A run of a method on the planted data, and the scores it had before they were stored."""

    def __init__(self, method: str, dataset: PreparedDataset, folder: Path) -> None:
        self.method, self.path, self.dataset = method, folder / "run", dataset
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "finish_run", self._spy)
            self.run = train_run(dataset.path, self.path, settings(method))

    def _spy(self, *args: Any) -> None:
        self.before: Mapping[str, Scorer] = args[2]
        FINISH(*args)

    def ndcg(self) -> dict[str, float]:
        """Behavior → NDCG@5 on the test rows."""
        summary = evaluate_run(self.path, split="test", ks=(5,), device="cpu").summary()
        return {name: row["ndcg@5"] for name, row in summary["behaviors"].items()}


FINISH: Callable[..., None] = training.finish_run


@pytest.fixture(scope="module")
def popularity(
    planted: PreparedDataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    return Trained("mostpop", planted, tmp_path_factory.mktemp("popularity")).ndcg()


@pytest.fixture(scope="module", params=METHODS)
def trained(
    request: pytest.FixtureRequest,
    planted: PreparedDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    return Trained(request.param, planted, tmp_path_factory.mktemp(request.param))


def test_it_learns_what_is_planted_for_every_behavior(
    trained: Trained, popularity: dict[str, float]
) -> None:
    if trained.method == "mostpop":
        assert max(popularity.values()) < 0.05, "popularity must know nothing of the tastes"
        return
    found = trained.ndcg()
    assert list(found) == list(BEHAVIORS)
    for behavior, value in found.items():
        assert value > 3 * popularity[behavior] + 0.05, (behavior, found, popularity)


def test_a_stored_run_scores_as_the_method_did(trained: Trained) -> None:
    run, everyone = Run(trained.path), torch.arange(USERS)
    assert tuple(trained.before) == run.behaviors == BEHAVIORS
    for behavior, scorer in trained.before.items():
        expected, found = (s.scores(everyone, 0, ITEMS) for s in (scorer, run.scorer(behavior)))
        assert expected.dtype == torch.float32
        assert expected.shape == (USERS, ITEMS)
        assert bool(expected.isfinite().all())
        assert torch.equal(expected, found)
        block = run.scorer(behavior).scores(everyone[3:9], 50, 100)
        torch.testing.assert_close(block, expected[3:9, 50:100])


def test_every_user_gets_a_full_list_for_every_behavior(trained: Trained, tmp_path: Path) -> None:
    done = export_run(trained.path, tmp_path / "lists.parquet", k=7, device="cpu")
    table = pq.read_table(tmp_path / "lists.parquet")
    assert done.users == USERS
    assert done.short_lists == 0
    assert table.num_rows == USERS * 7 * len(BEHAVIORS)
    keys = table.select(["user_id", "behavior", "item_id"])
    assert keys.group_by(keys.column_names).aggregate([]).num_rows == table.num_rows


def test_three_epochs_and_three_more_are_six(
    trained: Trained, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    """Twice the same, too: a method without training has to give the same scores every time."""
    method = trained.method
    built = build_method(tiny_dataset, settings(method), torch.device("cpu"))
    if isinstance(built, TrainedMethod):
        train_run(tiny_dataset.path, tmp_path / "parts", settings(method, epochs=3, eval_every=1))
    whole, again = (settings(method, epochs=6, eval_every=1) for _ in range(2))
    train_run(tiny_dataset.path, tmp_path / "whole", whole)
    resume = isinstance(built, TrainedMethod)
    train_run(tiny_dataset.path, tmp_path / "parts", again, resume=resume)
    first, second = (load_file(tmp_path / name / EMBEDDINGS) for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
