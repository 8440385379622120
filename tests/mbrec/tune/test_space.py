"""If these fail, a search tries what a method does not take, or not what its user meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.config import from_dict
from mbrec.errors import UsageError
from mbrec.models import BUILT_IN
from mbrec.tune.space import Choices, Range, load_space, shipped, with_point

Write = Callable[[str], Path]
SEARCHED = sorted(set(BUILT_IN) - {"mostpop"})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str) -> Path:
        path = tmp_path / "space.toml"
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize("method", SEARCHED)
def test_every_shipped_space_fits_its_method(method: str) -> None:
    settings = from_dict({"method": method})
    space = load_space(
        settings
    )  # checks keys, ends and choices, and that the defaults belong to it
    assert with_point(settings, space.start(settings)) == settings
    assert with_point(settings, {k: _end(d) for k, d in space.domains.items()}) != settings


def _end(domain: Choices | Range) -> object:
    return domain.values[-1] if isinstance(domain, Choices) else domain.high


def test_every_method_with_settings_has_a_space_and_no_space_is_an_orphan() -> None:
    assert set(shipped()) == {*SEARCHED, "trained"}


def test_cascadingrank_never_draws_weights_that_it_refuses() -> None:
    domains = load_space(from_dict({"method": "cascadingrank"})).domains
    assert domains["model.alpha"].high + domains["model.beta"].high <= 1  # type: ignore[union-attr]


def test_what_a_method_does_not_use_is_left_out() -> None:
    assert "model.l2" not in load_space(from_dict({"method": "bvae"})).domains
    assert "train.negatives" not in load_space(from_dict({"method": "ghcf"})).domains


def test_a_method_without_settings_has_nothing_to_tune() -> None:
    with pytest.raises(UsageError, match="nothing to tune: mostpop"):
        load_space(from_dict({"method": "mostpop"}))


def test_own_spaces_are_written_in_any_style_of_toml(write: Write) -> None:
    settings = from_dict({"method": "lightgcn"})
    text = 'extends = "trained"\nwithout = ["model.l2", "train.negatives"]\n"model.layers" = '
    space = load_space(settings, write(text + "[2, 3]\n[train]\nlr = {low = 0.001, high = 0.1}\n"))
    assert list(space.domains) == ["train.lr", "model.size", "model.layers"]
    assert space.domains["train.lr"] == Range(0.001, 0.1)
    assert space.domains["model.layers"] == Choices((2, 3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.sise = [1]", "no setting model.sise.*Did you mean model.size"),
        ("model.size = 64", "neither a list of choices nor a range"),
        ("model.size = {low = 1}", "neither a list of choices nor a range"),
        ("model.size = {low = 1, high = 2, lag = true}", "neither a list"),
        ("model.size = {low = 1.5, high = 128}", "whole numbers"),
        ("model.size = {low = 128, high = 32}", "low is below high"),
        ("train.lr = {low = 0, high = 1, log = true}", "with log it is above 0"),
        ("train.lr = {low = 0.05, high = 0.1}", "leaves out 0.03.*--set train.lr=VALUE"),
        ("model.size = [32, 128]", "leaves out 64"),
        ("model.size = [64, 64]", "the same one twice"),
        ("model.size = []", "no choice"),
        ("model.size = [64, -1]", "model.size = -1: .*does not fit"),
        ('model.combination = ["mean", "meen"]', "model.combination = 'meen'"),
        ("seed = [1, 2]", "cannot be compared"),
        ('extends = "bigle"', "no space of mbrec"),
        ('without = ["model.l2"]', "no list of settings that it extends"),
        ("", "names no setting"),
        ("model.size = ", "not valid TOML"),
    ],
)
def test_a_broken_space_says_file_key_value_and_remedy(write: Write, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){says}") as caught:
        load_space(from_dict({"method": "lightgcn"}), write(text))
    assert "space.toml" in str(caught.value)


def test_a_missing_space_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read the config file"):
        load_space(from_dict({"method": "ease"}), tmp_path / "none.toml")


def test_true_is_no_one() -> None:
    assert Choices((1, 2)).holds(1.0)
    assert not Choices((1, 2)).holds(True)
    assert not Range(0, 2).holds(True)
    assert Range(1, 9, step=2, whole=True).holds(5)
    assert not Range(1, 9, step=2, whole=True).holds(6)
