"""If these fail, a mistyped setting is ignored and a night of training is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mbrec.config import Settings, describe, differences, from_dict, read_toml, resolve
from mbrec.errors import UsageError
from mbrec.models.bigel import BigelConfig


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = 3\n[model]\nsize = 16\ncgf = false\n[train]\nlr = 0.01\n")
    settings = resolve(file, {"seed": 5, "method": None}, ["model.size=8", "train.epochs=2"])
    assert isinstance(settings.model, BigelConfig)
    assert (settings.seed, settings.model.size, settings.model.cgf) == (5, 8, False)
    assert (settings.train.lr, settings.train.epochs, settings.train.patience) == (0.01, 2, 8)


def test_the_written_config_gives_the_same_settings(tmp_path: Path) -> None:
    settings = resolve(None, {"method": "lightgcn", "seed": 2}, ["model.layers=1"])
    (tmp_path / "config.toml").write_text(settings.to_toml())
    again = from_dict(read_toml(tmp_path / "config.toml"))
    assert again == settings
    assert differences(again, settings) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.cgff=false", "no setting model.cgff Did you mean model.cgf?"),
        ("train.epoch=3", "Did you mean train.epochs?"),
        ("sed=3", "Did you mean seed?"),
        ("model.zzz=3", "There are: model.size"),
        ("model.cgf=maybe", "model.cgf = 'maybe' does not fit"),
        ("model.size=0", "greater than 0"),
        ("train.metric=ndgc@5", "hr, ndcg, recall"),
        ("train.metric=ndcg@0", "at a K"),
        ("model.layers=[1,-1,2]", "model.layers.1 = -1"),
        ("model", "not of the form key=value"),
        ("seed.a=1", "'seed'"),
        ("method=bigle", "Did you mean 'bigel'?"),
        ("engine=tensorflow", "'dgl' or 'torch'"),
        ("model.l2=much", "The setting model.l2 = 'much' does not fit"),
        ("model.l2=inf", "The setting model.l2 = inf does not fit"),
        ("train.lr=inf", "The setting train.lr = inf does not fit"),
        ("model.l2={click=-1}", "The setting model.l2.click = -1 does not fit"),
        ("train.weighting=even", "'uncertainty' or 'gradnorm'"),
        ("train.task_weights={click=-1}", "train.task_weights.click = -1"),
    ],
)
def test_a_wrong_setting_is_an_error_that_helps(override: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(None, {"seed": 1} if override.startswith("seed.") else {}, [override])
    assert words in str(caught.value).replace(".  ", ". ").replace("cgff.", "cgff")


@pytest.mark.parametrize("method", ["bigel", "lightgcn"])
def test_a_weight_may_be_set_per_behavior(method: str, tmp_path: Path) -> None:
    settings = resolve(None, {"method": method}, ["model.l2={click=0.01,purchase=0.03}"])
    assert settings.model.model_dump()["l2"] == {"click": 0.01, "purchase": 0.03}
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert resolve(tmp_path / "config.toml") == settings
    changed = resolve(tmp_path / "config.toml", {}, ["model.l2.click=0.2"])
    assert differences(settings, changed) == ["model.l2.click"]


def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        resolve(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("seed = = 3")
    with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML"):
        resolve(tmp_path / "bad.toml")
    (tmp_path / "flat.toml").write_text("model = 3")
    with pytest.raises(UsageError, match=r"\[model\] is not a table"):
        resolve(tmp_path / "flat.toml")


def test_differences_name_dotted_keys() -> None:
    old, new = Settings(), from_dict({"seed": 2, "train": {"lr": 0.5}})
    assert differences(from_dict({}), new) == ["seed", "train.lr"]
    assert "seed" in differences(old, new)


@pytest.mark.parametrize("method", ["bigel", "lightgcn", "mostpop"])
def test_every_setting_is_described(method: str) -> None:
    rows = describe(method)
    assert {"seed", "train.lr"} <= {key for key, _, _ in rows}
    for key, default, text in rows:
        assert text, key
        if default != []:
            resolve(None, {"method": method}, [f"{key}={json.dumps(default)}"])
