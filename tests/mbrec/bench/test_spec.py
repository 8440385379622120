"""If these fail, a mistyped bench trains for a night before anyone notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.bench.plan import make_plan
from mbrec.bench.presets import describe_presets, find_bench, presets
from mbrec.bench.spec import BenchSpec, load_spec
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, UsageError

MakeSpec = Callable[..., BenchSpec]
HEAD = '[datasets]\ntiny = "DATA"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trails = 3\n[methods.mostpop]\n", "unknown key 'trails'. Did you mean trials?"),
        ("[methods.mostpop]\ngird = {}\n", r"under \[methods.mostpop\]. Did you mean grid?"),
        ('metrics = ["auc"]\n[methods.mostpop]\n', "'auc' is no metric"),
        ('ours = ["me"]\n[methods.mostpop]\n', "no method 'me'"),
        ("trials = 0\n[methods.mostpop]\n", "trials in .* does not fit"),
        ('[grid]\n"train.lr" = []\n[methods.ease]\n', "train.lr has no value to try"),
        ('[methods.ease]\ngrid = {"model.l2" = []}\n', "model.l2 has no value to try"),
        ("", "methods in .* does not fit"),
        ('[methods.mostpop]\nsettings = {"train.metric" = "hr@5"}\n', "sets train.metric"),
    ],
)
def test_what_does_not_fit_is_named(make_spec: MakeSpec, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_spec(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[methods.lightgcn]\nsettings = {"model.sise" = 3}\n', "'lightgcn': .*model.sise"),
        ('[methods.lightgcn]\ngrid = {"model.size" = [8, 0]}\n', "greater than 0"),
        ("[methods.lightgcn]\n[settings]\ntrain = 3\n", "is no table"),
    ],
)
def test_settings_are_checked_before_anything_runs(
    make_spec: MakeSpec, text: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan(make_spec(HEAD + text))


def test_overrides_win_over_settings_and_grids(make_spec: MakeSpec) -> None:
    spec = make_spec(overrides=["train.lr=0.5", "trials=3", "seeds=[7]", "train.metric=hr@10"])
    assert (spec.trials, spec.seeds, spec.select) == (3, (7,), "hr@10")
    lanes = make_plan(spec)
    assert [lane.searched for lane in lanes] == [False, False]  # one value is left of the grid
    (cell,) = lanes[1].finals(0)
    settings = cell.settings
    assert (settings.train.lr, settings.seed, settings.train.metric) == (0.5, 7, "hr@10")


def test_datasets_are_found_beside_the_file_or_where_the_caller_says(
    make_spec: MakeSpec, tmp_path: Path, tiny_dataset: PreparedDataset
) -> None:
    text = '[datasets]\nother = "sub/folder"\n[methods.mostpop]\n'
    assert make_spec(text).datasets == {"other": str(tmp_path / "sub" / "folder")}
    assert make_spec(text, data=["a=b"]).datasets["a"] == "b"
    lanes = make_plan(make_spec(text, data=[str(tiny_dataset.path)]))
    assert [(lane.dataset.name, lane.dataset.report) for lane in lanes] == [("other", "test")]
    with pytest.raises(ArtefactError, match="no prepared dataset"):
        make_plan(make_spec(text))
    with pytest.raises(UsageError, match="does not say which dataset"):
        make_spec("[methods.mostpop]\n", data=["somewhere"])
    with pytest.raises(UsageError, match="Give one: --data FOLDER"):
        make_plan(make_spec("[methods.mostpop]\n"))


def test_a_dataset_without_validation_rows_is_refused(
    make_spec: MakeSpec, make_dataset: Callable[..., PreparedDataset]
) -> None:
    rows = [(user, user, "purchase", "train") for user in range(4)]
    dataset = make_dataset(rows, users=4, items=4, behaviors=["purchase"])
    with pytest.raises(DataError, match="no validation rows"):
        make_plan(make_spec("[methods.mostpop]\n", data=[f"x={dataset.path}"]))


def test_orders_and_single_behaviors_become_lanes(make_spec: MakeSpec) -> None:
    spec = make_spec(
        HEAD + '[methods.o]\nmethod = "bigel"\neach = "order"\n'
        '[methods.alone]\nmethod = "lightgcn"\neach = "behavior"\n'
    )
    order, *alone = make_plan(spec)
    assert order.label == "o favorite ≻ click"
    assert order.given["order"] == ["favorite", "click", "purchase"]
    assert [lane.alone for lane in alone] == ["click", "favorite", "purchase"]
    assert alone[1].finals(0)[0].settings.behaviors == ("favorite",)


@pytest.mark.parametrize("name", list(presets()))
def test_every_shipped_bench_fits_the_methods(name: str, tiny_dataset: PreparedDataset) -> None:
    spec = load_spec(presets()[name], data=[str(tiny_dataset.path)])
    lanes = make_plan(spec)
    assert not [lane.error for lane in lanes if lane.error and lane.method != "bigel-plus"]
    assert all(len(lane.points) <= spec.trials for lane in lanes)
    # The same budget is only the same if every grid has enough to spend it on.
    short = {lane.label for lane in lanes if 1 < len(lane.points) < spec.trials}
    assert short <= {"ownhistory"}
    assert set(spec.ours) <= {lane.label for lane in lanes}


def test_presets_are_found_by_name(tmp_path: Path) -> None:
    assert {"jd", "ablation", "order", "lambda", "task-weighting", "single-behavior"} <= set(
        presets()
    )
    assert dict(describe_presets())["ablation"].startswith("What each part")
    assert find_bench("jd").name == "jd.toml"
    (tmp_path / "mine.toml").write_text("")
    assert find_bench(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"
    with pytest.raises(UsageError, match="Did you mean ablation"):
        find_bench("ablatoin")
