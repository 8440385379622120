"""If these fail, one behavior drowns the others, or a learned weighting is not the paper's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mbrec.config import TrainConfig, from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError, UsageError
from mbrec.run import EMBEDDINGS
from mbrec.training import train_run
from mbrec.weighting import GradNorm, TaskWeighting, UncertaintyWeighting, make_weighting

BOTH = ("click", "purchase")


class Toy:
    """Two task losses that are linear in shared weights: gradients (3, 4) and (0.6, 0.8)."""

    def __init__(self) -> None:
        self.shared = nn.Parameter(torch.tensor([1.0, 1.0]))

    def terms(self) -> dict[str, Tensor]:
        return {
            "bpr/click": torch.tensor([3.0, 4.0]) @ self.shared,
            "l2": 0.5 * self.shared @ self.shared,
            "bpr/purchase": torch.tensor([0.6, 0.8]) @ self.shared,
        }

    def weighting(self, **settings: Any) -> TaskWeighting:
        return make_weighting(TrainConfig(**settings), BOTH, [self.shared])

    def step(self, weighting: TaskWeighting, number: int = 1) -> Tensor:
        """One step of training with rate 0.01; the gradient of the shared weights."""
        self.shared.grad = None
        weighting.total(self.terms(), number).backward()
        weighting.step()
        gradient = self.shared.grad
        assert isinstance(gradient, Tensor)
        with torch.no_grad():
            self.shared -= 0.01 * gradient
        return gradient


def test_equal_weights_are_the_plain_sum() -> None:
    toy = Toy()
    weighting = toy.weighting()
    assert torch.equal(
        weighting.total(toy.terms(), 1), torch.stack(list(toy.terms().values())).sum()
    )
    assert weighting.weights() == {"click": 1.0, "purchase": 1.0}
    assert not list(weighting.state_dict())


def test_a_fixed_factor_acts_on_its_behavior_alone() -> None:
    toy = Toy()
    weighting = toy.weighting(task_weights={"purchase": 2.5})
    gradient = toy.step(weighting)  # (3, 4) + (1, 1) + 2.5 · (0.6, 0.8)
    torch.testing.assert_close(gradient, torch.tensor([5.5, 7.0]))
    assert weighting.weights() == {"click": 1.0, "purchase": 2.5}


def test_a_step_of_uncertainty_by_hand() -> None:
    """L = 7 and 1.4; at s = 0 the gradients are ½ - 7 < 0 and ½ - 1.4 < 0: both s grow by lr."""
    toy = Toy()
    weighting = toy.weighting(weighting="uncertainty", weighting_lr=0.1)
    assert float(weighting.total(toy.terms(), 1).detach()) == pytest.approx(7 + 1 + 1.4)
    torch.testing.assert_close(toy.step(weighting), torch.tensor([4.6, 5.8]))
    assert weighting.weights() == pytest.approx(dict.fromkeys(BOTH, math.exp(-0.1)))
    # Now L = 6.6220 and 1.3244 at (0.954, 0.942); the next total by hand:
    losses = [3 * 0.954 + 4 * 0.942, 0.6 * 0.954 + 0.8 * 0.942]
    l2 = 0.5 * (0.954**2 + 0.942**2)
    expected = sum(math.exp(-0.1) * loss + 0.05 for loss in losses) + l2
    assert float(weighting.total(toy.terms(), 2).detach()) == pytest.approx(expected)


def test_a_factor_scales_the_whole_likelihood_of_uncertainty() -> None:
    toy = Toy()
    weighting = toy.weighting(weighting="uncertainty", task_weights={"click": 3.0})
    assert float(weighting.total(toy.terms(), 1).detach()) == pytest.approx(3 * 7 + 1 + 1.4)
    toy.step(weighting)
    expected = 3 * (math.exp(-0.025) * 6.622 + 0.0125)
    terms = {"bpr/click": torch.tensor(6.622)}
    assert float(weighting.total(terms, 2).detach()) == pytest.approx(expected)


def test_a_step_of_gradnorm_by_hand() -> None:
    """G = (5, 1), mean 3, r = (1, 1): click is too loud by 2, purchase too quiet by 2.

    The gradients by w are 5 · sign(5 - 3) = 5 and 1 · sign(1 - 3) = -1; Adam's first step is
    -lr · sign: w = (0.9, 1.1), whose sum is 2 already.
    """
    toy = Toy()
    weighting = toy.weighting(weighting="gradnorm", weighting_lr=0.1, gradnorm_every=1)
    gradient = toy.step(weighting)
    torch.testing.assert_close(gradient, torch.tensor([4.6, 5.8]))  # still by the old weights
    assert weighting.weights() == pytest.approx({"click": 0.9, "purchase": 1.1})
    second = toy.step(weighting, 2)  # 0.9 (3, 4) + 1.1 (0.6, 0.8) + (0.954, 0.942)
    torch.testing.assert_close(second, torch.tensor([4.314, 5.422]))


def test_gradnorm_favors_the_behavior_that_learns_slowly() -> None:
    """Equal norms; click's loss fell to ½, purchase's to ¾: r = (0.8, 1.2), goals by r^α."""
    shared = nn.Parameter(torch.tensor([1.0]))
    weighting = GradNorm(dict.fromkeys(BOTH, 1.0), 0.1, [shared], alpha=2.0, every=1)
    for losses in ((1.0, 1.0), (0.5, 0.75)):
        terms = {
            f"bpr/{name}": shared.sum() + (loss - 1.0)
            for name, loss in zip(BOTH, losses, strict=True)
        }
        weighting.total(terms, 1)
    # G = (1, 1), mean 1; goals 0.8² = 0.64 and 1.2² = 1.44: click down, purchase up.
    assert [weight.grad.item() for weight in weighting.learned] == [1.0, -1.0]


def test_a_factor_shows_in_the_norms_that_gradnorm_wants() -> None:
    """With factors (9, 1) and gradients (1, 1) · w the weights at rest are (1.8, 0.2)."""
    shared = nn.Parameter(torch.tensor([1.0]))
    weighting = GradNorm({"click": 9.0, "purchase": 1.0}, 0.05, [shared], alpha=0.0, every=1)
    for _ in range(100):
        terms = {f"bpr/{name}": shared.sum() for name in BOTH}
        weighting.total(terms, 1).backward()
        weighting.step()
    weights = weighting.weights()
    assert weights["click"] == pytest.approx(1.8, abs=0.1)
    assert sum(weights.values()) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_a_behavior_that_is_absent_keeps_its_weight(kind: str) -> None:
    toy = Toy()
    weighting = toy.weighting(weighting=kind, gradnorm_every=1)
    toy.step(weighting)
    before = weighting.weights()
    for step in range(2, 6):
        terms = {name: term for name, term in toy.terms().items() if name != "bpr/click"}
        weighting.total(terms, step).backward()
        weighting.step()
    after = weighting.weights()
    assert after["click"] == before["click"]
    if kind == "gradnorm":  # alone it has nothing to be balanced with
        assert after["purchase"] == pytest.approx(before["purchase"])


def test_gradnorm_measures_every_nth_step_only() -> None:
    toy = Toy()
    weighting = toy.weighting(weighting="gradnorm", gradnorm_every=3)
    seen = []
    for step in range(1, 8):
        toy.step(weighting, step)
        seen.append(weighting.weights()["click"])
    assert seen[0] == seen[1] == seen[2] > seen[3] == seen[4] == seen[5] > seen[6]


@pytest.mark.parametrize(
    ("kind", "expected"), [("uncertainty", (0.25, 5.0)), ("gradnorm", (0.1, 1.9))]
)
def test_weights_find_what_imbalanced_tasks_need(kind: str, expected: tuple[float, float]) -> None:
    """Losses 2.0 and 0.1 that stay, with gradients 19 and 1 times (0, 1)."""
    shared = nn.Parameter(torch.zeros(2))
    config = TrainConfig(weighting=kind, gradnorm_every=1)  # type: ignore[arg-type]
    weighting = make_weighting(config, BOTH, [shared])
    for step in range(1, 400):
        terms = {"bpr/click": 2.0 + 19 * shared[1], "bpr/purchase": 0.1 + shared[1]}
        weighting.total(terms, step).backward()
        weighting.step()
    weights = weighting.weights()
    assert weights["click"] == pytest.approx(expected[0], rel=0.2, abs=0.05)
    assert weights["purchase"] == pytest.approx(expected[1], rel=0.2)


def test_a_weight_does_not_turn_negative() -> None:
    shared = nn.Parameter(torch.zeros(1))
    weighting = GradNorm(dict.fromkeys(BOTH, 1.0), 5.0, [shared], alpha=0.0, every=1)
    for _ in range(5):
        terms = {"bpr/click": 100 * shared.sum(), "bpr/purchase": shared.sum()}
        weighting.total(terms, 1).backward()
        weighting.step()
        assert min(weighting.weights().values()) > 0


def test_a_behavior_that_shares_nothing_is_left_where_it_is() -> None:
    shared, own = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    weighting = GradNorm(dict.fromkeys(BOTH, 1.0), 0.1, [shared], alpha=0.5, every=1)
    weighting.total({"bpr/click": shared.sum(), "bpr/purchase": own.sum()}, 1).backward()
    weighting.step()
    assert all(math.isfinite(weight) for weight in weighting.weights().values())


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"task_weights": {"purchas": 2.0}}, "Did you mean 'purchase'?"),
        ({"task_weights": {"zzz": 2.0}}, "There are: click, purchase"),
        ({"task_weights": {"click": 0.0, "purchase": 0.0}}, "0 for every behavior"),
        ({"task_weights": {"click": 0.0}, "weighting": "gradnorm"}, "click at 0"),
        ({"task_weights": {"click": 0.0}, "weighting": "uncertainty"}, "click at 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(train: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_weighting(TrainConfig(**train), BOTH, [])
    assert words in str(caught.value)


def test_terms_that_break_the_contract_are_refused() -> None:
    weighting = UncertaintyWeighting(dict.fromkeys(BOTH, 1.0), 0.1)
    one = torch.tensor(1.0)
    with pytest.raises(TrainingError, match="no task loss to weight, only l2, ssl/users"):
        weighting.total({"l2": one, "ssl/users": one}, 1)
    with pytest.raises(TrainingError, match="'click' two task losses, bpr/click and ssl/click"):
        weighting.total({"bpr/click": one, "ssl/click": one}, 1)


def settings(epochs: int, method: str = "bigel", **train: Any) -> Any:
    values = {"epochs": epochs, "batch_size": 64, "lr": 0.02, "patience": 50, **train}
    model = {} if method == "mostpop" else {"size": 8}
    return from_dict({"method": method, "device": "cpu", "model": model, "train": values})


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(first: Path, second: Path) -> bool:
    a, b = load_file(first / EMBEDDINGS), load_file(second / EMBEDDINGS)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_learned_weights_are_resumed_bit_for_bit(
    tiny_dataset: PreparedDataset, tmp_path: Path, kind: str
) -> None:
    train = {"weighting": kind, "gradnorm_every": 2}
    train_run(tiny_dataset.path, tmp_path / "whole", settings(4, **train))
    train_run(tiny_dataset.path, tmp_path / "parts", settings(2, **train))
    train_run(tiny_dataset.path, tmp_path / "parts", settings(4, **train), resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    whole, parts = records(tmp_path / "whole"), records(tmp_path / "parts")
    assert [r["weights"] for r in whole] == [r["weights"] for r in parts]
    assert len({r["weights"]["click"] for r in whole}) == 4, "the weights never moved"


@pytest.mark.parametrize("method", ["bigel", "lightgcn", "crgcn"])
def test_every_trained_method_takes_every_weighting(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str
) -> None:
    for kind in ("uncertainty", "gradnorm"):
        train_run(tiny_dataset.path, tmp_path / kind, settings(1, method, weighting=kind))
        weights = records(tmp_path / kind)[-1]["weights"]
        assert set(weights) == {"click", "favorite", "purchase"}
        assert len(set(weights.values())) > 1


def test_factors_of_one_change_nothing_and_others_do(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    for name, weights in (("plain", {}), ("ones", {"click": 1.0}), ("others", {"click": 0.1})):
        train_run(tiny_dataset.path, tmp_path / name, settings(2, task_weights=weights))
    assert same(tmp_path / "plain", tmp_path / "ones")
    assert not same(tmp_path / "plain", tmp_path / "others")


def test_a_method_without_steps_has_nothing_to_weight(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    for train in ({"weighting": "gradnorm"}, {"task_weights": {"click": 2.0}}):
        with pytest.raises(UsageError, match="does not learn by steps"):
            train_run(tiny_dataset.path, tmp_path / "run", settings(1, "mostpop", **train))
        assert not (tmp_path / "run").exists()
