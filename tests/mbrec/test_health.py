"""If these fail, a training that goes wrong says nothing, or one that goes well cries wolf."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PositiveInt
from torch import Tensor, nn

from mbrec.building import build_method
from mbrec.config import Settings, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError
from mbrec.health import (
    CHECK_EVERY,
    Finding,
    FiniteWatch,
    HealthWatch,
    collapsed_gates,
    falling_auxiliaries,
    first_not_finite,
    gate_shares,
    sparse_behaviors,
)
from mbrec.models import registry
from mbrec.models.base import Context, Entry, MethodConfig, TrainedMethod
from mbrec.models.bigel import Bigel, BigelConfig
from mbrec.sampling import Batch
from mbrec.scoring import Factors
from mbrec.training import train_run

Rows = list[tuple[int, int, str, str]]


def test_gate_shares_count_the_values_at_both_ends() -> None:
    values = torch.tensor([[0.0, 0.019, 0.02, 0.5], [0.98, 0.981, 1.0, 0.7]])
    assert gate_shares({"click": {"cgf": values}}) == {
        "click": {"cgf": {"closed": 2 / 8, "open": 2 / 8}}
    }


@pytest.mark.parametrize(
    ("closed", "opened", "words"),
    [
        (0.95, 0.01, "95% of its values are below 0.02, so it lets nothing in"),
        (0.0, 0.9, "90% of its values are above 0.98, so it lets everything in"),
        (0.5, 0.45, "50% of its values are below 0.02, 45% above 0.98"),
        (0.5, 0.3, None),
        (0.0, 0.0, None),
    ],
)
def test_a_gate_that_does_not_choose_any_more_is_named(
    closed: float, opened: float, words: str | None
) -> None:
    found = collapsed_gates({"click": {"cgf": {"closed": closed, "open": opened}}})
    assert len(found) == (words is not None)
    if words is not None:
        assert words in found[0].message
        assert "The cgf gate of 'click'" in found[0].message
        assert "Lower train.lr" in found[0].message


def history(click: list[float], purchase: list[float]) -> list[Mapping[str, float]]:
    return [{"click": c, "purchase": p} for c, p in zip(click, purchase, strict=True)]


FALLING, RISING = [8, 7.9, 7.8, 7.7, 7.2, 7, 6.9, 6.8], [3, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7]


def test_an_auxiliary_that_falls_while_the_target_rises_is_named() -> None:
    (found,) = falling_auxiliaries(history(FALLING, RISING), "purchase")
    assert found.behavior == "click"
    assert "'click' fell by 11%" in found.message  # 1 - 27.9 / 31.4
    assert "'purchase' rose by 13%" in found.message  # 14.2 / 12.6 - 1
    assert "train.task_weights" in found.message


@pytest.mark.parametrize(
    ("click", "purchase"),
    [
        (FALLING[1:], RISING[1:]),  # too early to say
        (RISING, RISING),
        (FALLING, FALLING),  # the target falls too: overfitting, patience sees to it
        (FALLING, [3, 3.1, 3.2, 3.3, 3.4, 3.25, 3.6, 3.7]),  # the target goes up and down
        ([8, 7.9, 7.8, 7.7, 7.2, 7.75, 6.9, 6.8], RISING),  # the auxiliary goes up and down
        ([8, 8, 8, 8, 7.9, 7.9, 7.9, 7.9], RISING),  # it falls, but by 1 %
        ([0] * 8, RISING),
    ],
)
def test_noise_and_common_falls_are_not_called_falling(
    click: list[float], purchase: list[float]
) -> None:
    assert falling_auxiliaries(history(click, purchase), "purchase") == []


def test_only_the_last_validations_count() -> None:
    long = history([1.0] * 20 + FALLING, [9.0] * 20 + RISING)
    assert falling_auxiliaries(long, "purchase")
    assert not falling_auxiliaries([*long, *history([8.0] * 4, [4.0] * 4)], "purchase")
    assert falling_auxiliaries(history(FALLING, RISING), "favorite") == []  # never validated


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_random_ups_and_downs_hardly_ever_look_like_a_fall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = history(*(rng.normal(0.1, 0.02, (2, 30)).tolist()))
    alarms = sum(bool(falling_auxiliaries(noise[:n], "purchase")) for n in range(8, 31))
    assert alarms <= 3


@pytest.mark.parametrize(
    ("pairs", "held_out", "finding"),
    [
        ({"click": 5000}, {"click": 300}, None),
        ({"click": 100}, {"click": 100}, None),
        ({"click": 99}, {"click": 300}, "too sparse to learn"),
        ({"click": 5000}, {"click": 99}, "too sparse to validate"),
        ({"click": 5000}, {"click": 0}, None),  # not validated at all: said elsewhere
    ],
)
def test_a_behavior_too_sparse_to_rank_is_named(
    pairs: dict[str, int], held_out: dict[str, int], finding: str | None
) -> None:
    found = sparse_behaviors(pairs, held_out, num_users=1000)
    assert [one.finding for one in found] == ([finding] if finding else [])
    assert all("'click' has 99" in one.message for one in found)


def test_the_first_step_that_is_not_finite_is_found() -> None:
    nan, inf = float("nan"), float("inf")
    fine = {"bpr/click": 0.5, "l2": 0.1}
    assert first_not_finite([(1, fine), (2, fine)]) is None
    steps = [(7, fine), (8, {"bpr/click": inf, "l2": 0.1}), (9, {"bpr/click": nan, "l2": nan})]
    assert first_not_finite(steps) == (8, {"bpr/click": inf})


def test_a_loss_is_looked_at_every_so_many_steps_and_at_the_end() -> None:
    watch = FiniteWatch(epoch=3)
    good, bad = {"l2": torch.tensor(1.0)}, {"l2": torch.tensor(1.0), "cpa": torch.tensor(torch.nan)}
    watch.check()
    watch.add(1, good)
    watch.add(2, bad)
    for step in range(3, CHECK_EVERY):
        watch.add(step, good)
    with pytest.raises(TrainingError, match=r"epoch 3, step 2: cpa = nan"):
        watch.add(CHECK_EVERY, good)
    watch.add(CHECK_EVERY + 1, bad)
    with pytest.raises(TrainingError, match=rf"epoch 3, step {CHECK_EVERY + 1}: cpa"):
        watch.check()


def record(epoch: int, closed: float) -> dict[str, Any]:
    gates = {"click": {"cgf": {"closed": closed, "open": 0.0}}}
    valid = {"metric": "ndcg@5", "macro": 0.1, "click": 0.1, "purchase": 0.1}
    return {"epoch": epoch, "valid": valid, "gates": gates}


def test_a_finding_is_told_once_until_it_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    watch = HealthWatch("purchase", [Finding("too sparse to learn", "click", "few clicks")])
    watch.start()
    assert caplog.messages == ["few clicks"]
    told = []
    for epoch, closed in enumerate((0.5, 0.95, 0.97, 0.4, 0.99), start=1):
        found = watch.look(record(epoch, closed))
        assert found[0]["message"] == "few clicks"
        assert len(found) == 1 + (closed > 0.9)
        told.append(len(caplog.messages))
    assert told == [1, 2, 2, 2, 3]
    assert watch.look({"epoch": 6, "loss": {}}) == []  # not validated


def test_a_resumed_training_does_not_repeat_itself(caplog: pytest.LogCaptureFixture) -> None:
    standing = [Finding("too sparse to learn", "click", "few clicks")]
    first = HealthWatch("purchase", standing)
    first.start()
    done = [{**record(n, 0.95), "health": first.look(record(n, 0.95))} for n in (1, 2)]
    caplog.clear()
    again = HealthWatch("purchase", standing)
    again.start(done)
    assert again.look(record(3, 0.96))
    assert caplog.messages == []


@pytest.fixture
def healthy(make_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    """120 users who like the items of their residue, each with held-out rows of both behaviors."""
    rng = np.random.default_rng(1)
    rows: Rows = []
    for user in range(120):
        liked = rng.permutation([item for item in range(60) if item % 4 == user % 4]).tolist()
        rows += [(user, item, "click", "train") for item in liked[:8]]
        rows += [(user, item, "purchase", "train") for item in liked[4:10]]
        rows += [(user, liked[10], "click", "valid"), (user, liked[11], "purchase", "valid")]
    return make_dataset(rows, users=120, items=60, behaviors=["click", "purchase"])


def chosen(epochs: int, method: str = "bigel", **train: Any) -> Settings:
    return from_dict(
        {
            "method": method,
            "device": "cpu",
            "model": {"size": 8},
            "train": {"epochs": epochs, "batch_size": 256, "lr": 0.02, "patience": 50, **train},
        }
    )


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_healthy_training_is_silent(
    healthy: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(healthy.path, tmp_path / "run", chosen(12))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    for line in records(tmp_path / "run"):
        assert "health" not in line
        assert set(line["gates"]["click"]) == {"cgf", "gce"}
        assert set(line["gates"]["click"]["gce"]) == {"closed", "open"}


def test_a_sparse_behavior_is_told_before_the_training_and_in_its_journal(
    tiny_dataset: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(tiny_dataset.path, tmp_path / "run", chosen(2))
    assert len([m for m in caplog.messages if "'purchase' has 23 users" in m]) == 1
    for line in records(tmp_path / "run"):
        found = {(one["finding"], one["behavior"]) for one in line["health"]}
        assert ("too sparse to validate", "purchase") in found


def test_gates_that_collapse_are_told(
    healthy: PreparedDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Closed(Bigel):
        def __init__(self, config: BigelConfig, context: Context) -> None:
            super().__init__(config, context)
            nn.init.constant_(self.gce["0"].gate.maps[-1].bias, -30.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._REGISTERED, "closed", Entry(BigelConfig, Closed))
        train_run(healthy.path, tmp_path / "run", chosen(2, "closed"))
    assert len([m for m in caplog.messages if "The gce gate of 'click' has collapsed" in m]) == 1
    last = records(tmp_path / "run")[-1]
    assert last["gates"]["click"]["gce"] == {"closed": 1.0, "open": 0.0}
    assert last["health"][0]["finding"] == "gate gce collapsed"


@pytest.mark.parametrize("settings", [{}, {"gates_shared": False}, {"cgf": False}, {"gce": False}])
def test_bigel_shows_the_gates_that_it_has(
    healthy: PreparedDataset, settings: dict[str, Any]
) -> None:
    method = build_method(
        healthy, from_dict({"model": {"size": 8, **settings}}), torch.device("cpu")
    )
    assert isinstance(method, Bigel)
    gates = method.gate_values()
    assert set(gates) == {"click"}
    names = {name for name in ("cgf", "gce") if settings.get(name, True)}
    assert {name: tuple(values.shape) for name, values in gates["click"].items()} == dict.fromkeys(
        names, (180, 8)
    )
    assert all((v > 0).all() and (v < 1).all() for v in gates["click"].values())


class BreakingConfig(MethodConfig):
    """Settings of `Breaking`."""

    size: PositiveInt = 8
    """d."""


class Breaking(TrainedMethod):
    """Its click loss breaks in the 10th step, or its gradient in the 7th, an epoch's last."""

    gradient = False

    def __init__(self, config: BreakingConfig, context: Context) -> None:
        super().__init__()
        self.behaviors, self.steps = context.behaviors, 0
        self.user_emb = nn.Parameter(torch.ones(context.num_users, config.size))
        self.item_emb = nn.Parameter(torch.ones(context.num_items, config.size))

    def propagate(self) -> None:
        """Nothing."""

    def losses(self, state: None, batch: Batch) -> dict[str, Tensor]:
        """As the class says."""
        self.steps += 1
        terms = {f"bpr/{behavior}": self.user_emb.sum() for behavior in batch}
        if self.gradient and self.steps == 7:
            terms["bpr/click"] = terms["bpr/click"] + torch.sqrt(0 * self.user_emb).sum()
        elif not self.gradient and self.steps >= 10:
            terms["bpr/click"] = terms["bpr/click"] / 0
        return terms

    def scorers(self) -> dict[str, Factors]:
        """The tables."""
        return {b: Factors(self.user_emb.detach(), self.item_emb.detach()) for b in self.behaviors}


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (False, r"not finite in epoch 2, step 3: bpr/click = inf"),
        (True, r"weights are not finite after epoch 1: user_emb"),
    ],
)
def test_what_is_not_finite_ends_the_training_and_is_not_saved(
    healthy: PreparedDataset, tmp_path: Path, gradient: bool, words: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Breaking, "gradient", gradient)
        patch.setitem(registry._REGISTERED, "breaking", Entry(BreakingConfig, Breaking))
        with pytest.raises(TrainingError, match=words):
            train_run(healthy.path, tmp_path / "run", chosen(4, "breaking"))
    stopped = records(tmp_path / "run")[-1]["health"][0]
    assert stopped["finding"] == "training stopped"
    assert "Lower train.lr" in stopped["message"]
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
