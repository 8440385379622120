"""If these fail, a search is worse than no search, chooses by test rows, or cannot be stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mbrec.config import from_dict, read_toml, resolve
from mbrec.dataset import PreparedDataset
from mbrec.errors import (
    ArtefactError,
    BusyError,
    DataError,
    DeviceError,
    StorageError,
    TrainingError,
    UsageError,
)
from mbrec.files import write_json
from mbrec.locks import locked
from mbrec.training import train_run
from mbrec.tune import pool, study_summary
from mbrec.tune import study as studies
from mbrec.tune.study import FEWEST, Study
from mbrec.tune.summary import STUDY, TRIALS
from mbrec.tune.trial import Job, Outcome
from mbrec.tune.tune import Quiet

Search = Callable[..., Any]
MakeDataset = Callable[..., PreparedDataset]


def known(summary: Any) -> list[tuple[Any, ...]]:
    """All that does not depend on the clock."""
    return [
        (t.number, t.state, dict(t.settings), t.value, t.curve, t.start) for t in summary.trials
    ]


class InterruptAt(Quiet):
    """Ctrl-C at an epoch or a trial of the search."""

    def __init__(self, at: int) -> None:
        self.left = at

    def epoch(self, number: int, record: Mapping[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_the_search_begins_with_the_defaults_and_is_never_worse(
    search: Search, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    found = search(trials=3)
    defaults = train_run(tiny_dataset.path, tmp_path / "run", from_dict({"method": "ease"}))
    value = defaults.info["valid"]["macro"]["ndcg@5"]
    assert found.start.number == 1
    assert found.start.value == value
    assert found.best.value >= value
    assert found.start.settings == {
        "model.l2": 300,
        "model.itself": 0.3,
        "model.history": "merged",
        "model.target": "merged",
    }


def test_the_best_settings_give_what_was_promised_when_they_are_trained(
    search: Search, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    found = search(method="mf-bpr", trials=3, prune=False)
    settings = resolve(tmp_path / "study" / "best.toml")
    run = train_run(tiny_dataset.path, tmp_path / "run", settings)
    assert run.info["valid"]["macro"]["ndcg@5"] == found.best.value
    assert read_toml(tmp_path / "study" / "best.toml")["train"]["epochs"] == 4


def test_the_same_seed_gives_the_same_study_and_another_seed_another(search: Search) -> None:
    first, again = search("a"), search("b")
    other = search("c", settings=from_dict({"method": "ease", "device": "cpu", "seed": 2}))
    assert known(first) == known(again)
    assert known(first)[1:] != known(other)[1:]


def test_an_interrupted_search_goes_on_to_the_same_study(search: Search, tmp_path: Path) -> None:
    whole = search("whole", "mf-bpr", trials=6)
    for at in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            search("out", "mf-bpr", trials=6, watcher=InterruptAt(at))
    assert len(study_summary(tmp_path / "out").trials) < 6
    assert not (tmp_path / "out" / "runs").exists()
    assert known(search("out", "mf-bpr", trials=6)) == known(whole)


def test_a_search_that_was_killed_runs_its_trial_again(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search("whole")
    with monkeypatch.context() as patch:
        # As if the power went: nobody says that the trial is over, and a line is cut.
        patch.setattr(Study, "interrupt", lambda self: None)
        patch.setattr(pool, "run_trial", lambda job, on_epoch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            search("out")
    with (tmp_path / "out" / "optuna.log").open("a") as file:
        file.write('{"op_code": 5, "tri')
    (tmp_path / "out" / "optuna.log.lock").symlink_to("optuna.log")
    assert known(search("out")) == known(whole)


def test_more_trials_are_added_to_those_that_are_there(search: Search, tmp_path: Path) -> None:
    first = search(trials=2)
    before = (tmp_path / "study" / "best.toml").read_text()
    assert known(search(trials=2)) == known(first)
    assert (tmp_path / "study" / "best.toml").read_text() == before
    assert known(search(trials=4))[:2] == known(first)


def test_all_points_of_a_small_space_are_tried_once(search: Search) -> None:
    found = search(method="ownhistory", trials=50)
    assert len({json.dumps(trial.settings) for trial in found.trials}) == len(found.trials) == 4


def test_the_same_settings_are_not_trained_twice(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.toml"
    space.write_text('model.history = ["merged", "behavior"]\nmodel.neighbors = [0, 5]\n')
    search(trials=3, space=space)  # drawn, with repetition
    found = search(trials=4, space=space)
    copies = [trial for trial in found.trials if trial.same_as]
    for copy in copies:
        source = found.trials[copy.same_as - 1]
        assert (source.settings, source.value) == (copy.settings, copy.value)
    points = {json.dumps(trial.settings) for trial in found.trials}
    assert len(points) == len(found.trials) - len(copies)


def test_other_test_rows_change_nothing_that_is_chosen(
    search: Search, make_dataset: MakeDataset
) -> None:
    found = []
    for shift in (0, 7):
        rows = [(u, (u + 3 * n) % 20, "click", "train") for u in range(12) for n in range(4)]
        rows += [(u, (u + 13) % 20, "click", "valid") for u in range(12)]
        rows += [(u, (u + 8 + shift) % 20, "click", "test") for u in range(12)]
        data = make_dataset(rows, users=12, items=20, behaviors=["click"], name=f"data{shift}")
        found.append(search(f"study{shift}", data=data.path))
    assert found[0].dataset["content_hash"] != found[1].dataset["content_hash"]
    assert known(found[0]) == known(found[1])


def test_a_trial_that_is_behind_ends_early_and_says_so(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "_UNPRUNED_TRIALS", 2)
    monkeypatch.setattr(studies, "_UNPRUNED_EPOCHS", 1)
    found = search(method="mf-bpr", trials=8)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned and not any(trial.start for trial in pruned)
    assert all(trial.value is None and trial.epochs < 4 for trial in pruned)
    assert all(len(trial.curve) == trial.epochs for trial in pruned)
    assert "| pruned |" in (tmp_path / "study" / "trials.md").read_text()
    whole = search("whole", "mf-bpr", trials=8, prune=False)
    assert {trial.state for trial in whole.trials} == {"finished"}


def test_a_metric_at_another_length_is_what_is_maximized(search: Search) -> None:
    settings = from_dict({"method": "ease", "device": "cpu", "train": {"metric": "recall@3"}})
    found = search(trials=2, settings=settings)
    assert found.metric == "recall@3"
    assert found.best.behaviors.keys() == {"click", "favorite", "purchase"}
    assert found.best.value == pytest.approx(sum(found.best.behaviors.values()) / 3)


def test_a_failed_trial_is_a_row_and_not_the_end(search: Search, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("train.lr = [0.03, 1e30]\n")
    found = search(method="mf-bpr", space=space, trials=2)
    assert [trial.state for trial in found.trials] == ["finished", "failed"]
    assert found.trials[1].error
    assert found.best.number == 1


def test_if_the_first_trial_fails_the_search_ends_and_tries_it_again(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_trial", lambda job, on_epoch: Outcome("failed", error="No luck."))
        with pytest.raises(TrainingError, match=r"first trial.*No luck\."):
            search(trials=2)
    found = search(trials=2)
    assert found.start is not None
    assert [trial.state for trial in found.trials] == ["finished", "finished"]


def test_a_full_disk_ends_the_search_and_the_trial_is_run_again(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search("whole", trials=2)

    def full(job: Job, on_epoch: Any) -> Outcome:
        raise StorageError("Cannot write: no space left.")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_trial", full)
        with pytest.raises(StorageError):
            search("out", trials=2)
    assert known(search("out", trials=2)) == known(whole)


def test_no_trial_begins_after_the_time(search: Search) -> None:
    assert search(timeout=0.0).trials == ()
    assert search(trials=1).best is not None


def test_importances_are_said_of_enough_trials(search: Search, tmp_path: Path) -> None:
    assert not search(trials=2).importances
    found = search(trials=FEWEST)
    names = {"model.l2", "model.itself", "model.history", "model.target"}
    assert set(found.importances) == names
    assert sum(found.importances.values()) == pytest.approx(1, abs=1e-4)
    assert "| setting | importance |" in (tmp_path / "study" / "trials.md").read_text()


def test_another_search_in_the_same_folder_is_refused(
    search: Search, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    search(trials=1)
    rows = [(0, 0, "click", "train"), (0, 1, "click", "valid"), (1, 1, "click", "train")]
    other = make_dataset(rows, users=2, items=2, behaviors=["click"], name="other")
    with pytest.raises(UsageError, match="on other data"):
        search(data=other.path)
    with pytest.raises(UsageError, match="method = 'ease'; now 'itemknn'"):
        search(method="itemknn")
    with pytest.raises(UsageError, match="prune = True"):
        search(prune=False)
    space = tmp_path / "space.toml"
    space.write_text("model.l2 = {low = 100.0, high = 500.0}\n")
    with pytest.raises(UsageError, match=r"its space has model\.history"):
        search(space=space)
    with pytest.raises(UsageError, match="holds other things"):
        search(".")
    with pytest.raises(BusyError), locked(tmp_path / "study"):
        search(trials=2)


def test_without_validation_rows_nothing_can_be_chosen(
    search: Search, make_dataset: MakeDataset, tmp_path: Path
) -> None:
    data = make_dataset([(0, 0, "click", "train")], users=1, items=1, behaviors=["click"])
    with pytest.raises(DataError, match="no validation rows"):
        search(data=data.path)
    with pytest.raises(UsageError, match="no validation rows are left"):
        search(settings=from_dict({"method": "ease", "rows": "train+valid"}))
    assert not (tmp_path / "study").exists()


def test_without_optuna_the_extra_is_named(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'mbrec\[tune\]'"):
        search()


def test_a_damaged_study_is_one_error(search: Search, tmp_path: Path) -> None:
    search(trials=1)
    folder = tmp_path / "study"
    (folder / "optuna.log").write_text("no journal\nat all\n")
    with pytest.raises(ArtefactError, match="damaged"):
        search(trials=2)
    write_json(folder / TRIALS, {"trials": [{"number": 1}]})
    with pytest.raises(ArtefactError, match="damaged"):
        study_summary(folder)
    write_json(folder / STUDY, {"schema_version": 99})
    with pytest.raises(ArtefactError, match="schema version 99"):
        study_summary(folder)
    with pytest.raises(ArtefactError, match="is no study"):
        study_summary(tmp_path)


def test_a_trial_whose_process_dies_is_run_once_more_and_then_fails(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Outcome("failed", error="The process ended (SIGKILL).", lost=True)
    runs: list[int] = []

    def run(job: Job, on_epoch: Any) -> Outcome:
        runs.append(job.number)
        return Outcome("finished", value=0.5) if len(runs) == 1 else lost

    monkeypatch.setattr(pool, "run_trial", run)
    found = search(trials=2)
    assert [trial.state for trial in found.trials] == ["finished", "failed"]
    assert "SIGKILL" in found.trials[1].error
    assert len(runs) == 3
