"""If these fail, `--force` costs somebody a log, a dataset, a run or her notes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbrec import export_run
from mbrec.config import from_dict
from mbrec.data_prep import PrepOptions, prepare
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, UsageError
from mbrec.evaluation import evaluate_run
from mbrec.report import write_report
from mbrec.run import CONFIG, RUN, Run
from mbrec.summary import run_summary
from mbrec.training import refit_run, train_run

Mbrec = Callable[..., Any]
POP = from_dict({"method": "mostpop"})


@pytest.fixture
def data(tiny_dataset: PreparedDataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.path, tmp_path / "data"))


def names(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "lock" not in path.name}


def test_a_log_inside_the_dataset_that_replaces_it_is_kept(data: Path) -> None:
    log = data / "log.csv"
    log.write_text("1,2,3,pv,1511544070\n" * 3)
    before = names(data)
    with pytest.raises(UsageError, match=r"holds other things \(log\.csv\); --force does not"):
        prepare(PrepOptions("ub", (str(log),), data, force=True))
    log.rename(data / "users.parquet")
    with pytest.raises(UsageError, match=r"users\.parquet lies in .*, and would be lost"):
        prepare(PrepOptions("ub", (str(data / "users.parquet"),), data, force=True))
    assert names(data) == before - {log}


def test_a_run_inside_a_dataset_is_kept(data: Path, tmp_path: Path) -> None:
    train_run(data, data / "run", POP)
    log = tmp_path / "log.csv"
    log.write_text("1,2,3,pv,1511544070\n" * 3)
    with pytest.raises(UsageError, match=r"holds other things \(run\)"):
        prepare(PrepOptions("ub", (str(log),), data, force=True))
    assert (data / "run" / RUN).is_file()


def test_a_dataset_inside_the_run_that_is_replaced_is_kept(data: Path, tmp_path: Path) -> None:
    out = train_run(data, tmp_path / "run", POP).path
    inside = shutil.copytree(data, out / "data")
    for source in (data, inside):
        with pytest.raises(UsageError, match=r"holds other things \(data\)"):
            train_run(source, out, POP, force=True)
    assert PreparedDataset(inside).num_users
    shutil.rmtree(inside)
    train_run(data, out, POP, force=True)


@pytest.mark.parametrize("name", ["notes.txt", "lists.csv", "evaluation.old.json", "plots/"])
def test_what_others_put_into_a_run_is_kept(data: Path, tmp_path: Path, name: str) -> None:
    run = train_run(data, tmp_path / "run", POP)
    if name.endswith("/"):
        (run.path / name).mkdir()
    else:
        (run.path / name).write_text("dear diary")
    before = names(run.path)
    match = rf"holds other things \({name.strip('/')}\); --force does not replace it\. Move them"
    with pytest.raises(UsageError, match=match):
        train_run(data, run.path, POP, force=True)
    with pytest.raises(UsageError, match=match):
        refit_run(train_run(data, tmp_path / "first", POP).path, run.path, force=True)
    assert names(run.path) == before


@pytest.mark.parametrize("method", ["mostpop", "lightgcn", "bigel-plus"])
def test_a_run_with_all_that_mbrec_writes_into_it_can_be_replaced(
    data: Path, tmp_path: Path, mbrec: Mbrec, method: str
) -> None:
    out, few = tmp_path / "run", ("--set", "train.epochs=1") if method != "mostpop" else ()
    call = ("train", data, "--out", out, "--model", method, "--device", "cpu", *few)
    assert mbrec(*call, "--track", "tensorboard").code == 0
    for split in ("valid", "test"):
        more = ("--slices", "--sampled", "7") if split == "test" else ("--slices", "--sampled", "2")
        assert mbrec("evaluate", out, "--split", split, *more).code == 0
    assert len(list(out.glob("evaluation.*.json"))) == 4
    (out / ".mbrec-xyz.guard").touch()  # of a process that was killed
    (out / "wandb.id").touch()
    answer = mbrec(*call, "--force")
    assert answer.code == 0, answer.err
    assert not (out / "evaluation.test.json").exists()


@pytest.mark.parametrize("what", ["embeddings", "demo"])
def test_other_folders_of_ours_are_not_replaced_with_what_others_put_there(
    data: Path, tmp_path: Path, mbrec: Mbrec, what: str
) -> None:
    out = tmp_path / "out"
    call: tuple[object, ...] = ("demo", "--out", out)
    if what == "embeddings":
        settings = from_dict({"method": "lightgcn", "train": {"epochs": 1}, "device": "cpu"})
        run = train_run(data, tmp_path / "run", settings)
        call = ("export", run.path, "--embeddings", out)
        assert mbrec(*call).code == 0
        assert mbrec(*call, "--force").code == 0
    else:
        out.mkdir()
        (out / "demo.json").touch()
    (out / "notes.txt").write_text("dear diary")
    answer = mbrec(*call, "--force")
    assert answer.code == 2
    assert "holds other things (notes.txt)" in answer.error
    assert (out / "notes.txt").is_file()


@pytest.mark.parametrize("name", ["users.parquet", "run.json"])
def test_a_run_is_not_overwritten_by_what_is_made_from_it(
    data: Path, tmp_path: Path, name: str, mbrec: Mbrec
) -> None:
    out = train_run(data, tmp_path / "run", POP).path
    before = (out / name).read_bytes()
    with pytest.raises(UsageError, match="read by this command"):
        if name.endswith("parquet"):
            export_run(out, out / name, force=True)
        else:
            write_report([out], out / name, force=True)
    assert (out / name).read_bytes() == before
    asked = tmp_path / "asked.csv"
    asked.write_text("user_id\nu1\n")
    for option in ("--users", "--fold-in"):
        answer = mbrec("export", out, option, asked, "--out", asked, "--force")
        assert answer.code == 2
        assert "read by this command" in answer.error
    assert asked.read_text() == "user_id\nu1\n"


@pytest.mark.parametrize("keep", [0, 3])
def test_cut_settings_of_a_run_are_not_taken_for_its_own(
    data: Path, tmp_path: Path, keep: int
) -> None:
    run = train_run(data, tmp_path / "run", from_dict({"method": "ownhistory"}))
    lines = (run.path / CONFIG).read_text().splitlines()
    (run.path / CONFIG).write_text("\n".join(lines[:keep]))
    with pytest.raises(ArtefactError, match=r"config\.toml is damaged: its end is missing"):
        refit_run(run.path, tmp_path / "refit")
    assert run_summary(run.path)["settings"] == {CONFIG: "missing or damaged"}


def test_what_cannot_be_measured_says_what_could_help(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path, data: Path
) -> None:
    rows = [(0, 0, "click", "train"), (1, 1, "click", "train"), (1, 0, "click", "train")]
    dataset = make_dataset(rows, users=2, items=2, behaviors=["click"])
    run = train_run(dataset.path, tmp_path / "run", POP)
    for split in ("valid", "test"):
        with pytest.raises(DataError, match=rf"no {split} rows\. Prepare the data with"):
            evaluate_run(run.path, split=split)  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=r"There is no dataset at .*nowhere\. Give its folder"):
        Run(run.path).dataset(tmp_path / "nowhere")
    refit = refit_run(train_run(data, tmp_path / "a", POP).path, tmp_path / "b")
    with pytest.raises(UsageError, match="trained on the validation rows"):
        write_report([refit.path], tmp_path / "x.html", split="valid")


def test_users_who_have_everything_are_said_to(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    rows = [(0, 0, "click", "train"), (1, 0, "click", "train")]
    dataset = make_dataset(rows, users=2, items=1, behaviors=["click"])
    with pytest.raises(DataError, match="who has one has all items"):
        train_run(dataset.path, tmp_path / "run", from_dict({"method": "mf-bpr"}))
