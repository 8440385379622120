"""If these fail, an order study compares a model with itself, or a single behavior is helped."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbrec.arrangement import arrange, cascade
from mbrec.config import Settings, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import DataError, LeakageError, UsageError
from mbrec.evaluation import evaluate_run
from mbrec.graph import edge_type
from mbrec.training import VISIBLE, train_run

SHOP = ("click", "favorite", "cart", "purchase")


def settings(**values: object) -> Settings:
    return from_dict({"method": "lightgcn", **values})


def test_without_a_wish_the_dataset_stays_itself(tiny_dataset: PreparedDataset) -> None:
    assert arrange(tiny_dataset, settings()) is tiny_dataset


def test_orders_by_name_and_by_chance_keep_the_target_last() -> None:
    named = ("cart", "click", "favorite", "purchase")
    assert cascade(SHOP, settings(order=named)) == named
    drawn = [cascade(SHOP, settings(order="random", seed=seed)) for seed in range(20)]
    assert drawn[3] == cascade(SHOP, settings(order="random", seed=3))
    assert {order[-1] for order in drawn} == {"purchase"}
    assert len(set(drawn)) > 3
    assert all(sorted(order) == sorted(SHOP) for order in drawn)


def test_some_behaviors_keep_their_order() -> None:
    assert cascade(SHOP, settings(behaviors=["cart", "click"])) == ("click", "cart")
    assert cascade(SHOP, settings(behaviors=["cart"], order="random")) == ("cart",)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"order": ["click", "purchase"]}, "no permutation of click, favorite, cart, purchase"),
        ({"order": ["purchase", "click", "favorite", "cart"]}, "does not end with the target"),
        ({"behaviors": ["buy"]}, "does not fit: the dataset has click, favorite, cart, purchase"),
        ({"behaviors": ["cart", "cart"]}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(wish: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cascade(SHOP, settings(**wish))


def test_a_view_shows_its_behaviors_only(tiny_dataset: PreparedDataset) -> None:
    whole = PreparedDataset(tiny_dataset.path, VISIBLE)
    view = arrange(whole, settings(behaviors=["favorite", "purchase"]))
    assert list(view.train_relations()) == ["favorite", "purchase"]
    assert view.target == "purchase"
    assert edge_type("click") not in view.graph().canonical_etypes
    assert len(view.timestamps("purchase", "valid")) == len(whole.pairs("purchase", "valid"))
    with pytest.raises(DataError, match="not among the behaviors"):
        view.pairs("click", "train")
    with pytest.raises(LeakageError):
        view.pairs("purchase", "test")


@pytest.mark.parametrize("engine", ["dgl", "torch"])
def test_an_order_and_a_single_behavior_train_and_evaluate(
    tiny_dataset: PreparedDataset, tmp_path: Path, engine: str
) -> None:
    few = {"engine": engine, "train": {"epochs": 1}, "model": {"size": 4}}
    order = ["favorite", "click", "purchase"]
    run = train_run(tiny_dataset.path, tmp_path / "order", settings(order=order, **few))
    assert run.behaviors == tuple(order)
    assert list(evaluate_run(run.path, split="valid", ks=(5,)).results) == [
        "click",
        "favorite",
        "purchase",
    ]
    alone = train_run(tiny_dataset.path, tmp_path / "one", settings(behaviors=["click"], **few))
    assert list(evaluate_run(alone.path, split="valid", ks=(5,)).results) == ["click"]
