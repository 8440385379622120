"""If these fail, a night of training is lost, or a table flatters the one who made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mbrec.bench import cells
from mbrec.bench.bench import run_bench
from mbrec.bench.markdown import SAME_ROWS
from mbrec.bench.plan import Cell, make_plan
from mbrec.bench.store import _serves
from mbrec.dataset import PreparedDataset
from mbrec.errors import UsageError
from mbrec.metrics import FloatArray
from mbrec.significance import holm, paired

from .conftest import SMALL, VALID, MakeSpec, results


def test_nothing_is_run_twice(make_spec: MakeSpec, tmp_path: Path, runs: list[Cell]) -> None:
    out = tmp_path / "out"
    run_bench(make_spec(), out, jobs=0)
    # mostpop: one final run, whatever the seed; lightgcn: two trials, two final runs
    assert [(c.label, c.phase, c.seed) for c in runs] == [
        ("mostpop", "final", 1),
        ("lightgcn", "trial", 1),
        ("lightgcn", "trial", 1),
        ("lightgcn", "final", 1),
        ("lightgcn", "final", 2),
    ]
    assert not list((out / "runs").iterdir())
    before, table = results(out), (out / "table.md").read_text()
    del runs[:]
    run_bench(make_spec(), out, jobs=0)
    assert not runs
    pd.testing.assert_frame_equal(results(out), before)
    assert (out / "table.md").read_text() == table
    more = SMALL.replace("[1, 2]", "[1, 2, 3]") + '[methods.lightgcn-0]\nmethod = "lightgcn"\n'
    run_bench(make_spec(more), out, jobs=0)
    assert [(c.label, c.seed) for c in runs] == [
        ("lightgcn", 3),
        *(("lightgcn-0", seed) for seed in (1, 2, 3)),
    ]


def test_the_search_sees_no_test_row(
    make_spec: MakeSpec, tmp_path: Path, runs: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, tuple[str, ...]]] = []
    true = PreparedDataset.__init__

    def spy(self: PreparedDataset, path: Path, splits: Any = ("train", "valid", "test")) -> None:
        opened.append((runs[-1].phase if runs else "plan", tuple(splits)))
        true(self, path, splits)

    monkeypatch.setattr(PreparedDataset, "__init__", spy)
    run_bench(make_spec(), tmp_path / "out", jobs=0)
    assert {"plan", "trial", "final"} == {phase for phase, _ in opened}
    assert not [phase for phase, splits in opened if phase != "final" and "test" in splits]
    assert [phase for phase, splits in opened if "test" in splits]
    found = results(tmp_path / "out")
    assert set(found.loc[found["phase"] == "trial", "split"]) == {"valid"}


def test_every_method_has_the_same_budget(make_spec: MakeSpec, tmp_path: Path) -> None:
    text = VALID.replace("trials = 2", "trials = 3") + (
        '[methods.other]\nmethod = "lightgcn"\nsettings = {"model.size" = 8}\n'
        'grid = {"train.lr" = [0.03, 0.06], "model.layers" = [1, 2, 3]}\n'
    )
    run_bench(make_spec(text), tmp_path / "out", jobs=0)
    found = results(tmp_path / "out")
    trials = found[found["phase"] == "trial"].drop_duplicates("run")
    assert trials.groupby("label").size().to_dict() == {"lightgcn": 3, "other": 3}
    assert set(trials.loc[trials["trial"] == 0, "point"]) == {"{}"}  # the defaults come first
    macro = found[(found["behavior"] == "macro") & (found["metric"] == "ndcg@5")]
    for label in ("lightgcn", "other"):
        tried = macro[(macro["label"] == label) & (macro["phase"] == "trial")]
        best = tried.loc[tried["value"].idxmax()]
        assert tried.loc[tried["chosen"], "trial"].tolist() == [best["trial"]]
        final = macro[(macro["label"] == label) & (macro["phase"] == "final")]
        assert set(final["point"]) == {best["point"]}
        assert final["value"].iloc[0] == best["value"]  # the trial's run is the first seed's


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Interrupt the bench at the end of its `at`-th epoch."""
    count = iter(range(1, 1000))
    true = cells._Clock.epoch

    def epoch(self: Any, record: Mapping[str, Any]) -> None:
        if next(count) == at:
            raise KeyboardInterrupt
        true(self, record)

    monkeypatch.setattr(cells._Clock, "epoch", epoch)


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_bench_goes_on_where_it_was(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run_bench(make_spec(VALID), tmp_path / "whole", jobs=0)
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(KeyboardInterrupt):
            run_bench(make_spec(VALID), tmp_path / "out", jobs=0)
    assert "mostpop" in (tmp_path / "out" / "table.md").read_text()
    resumed: list[bool] = []
    true = cells.train_run

    def spy(*arguments: Any, **options: Any) -> Any:
        resumed.append(bool(options.get("resume")))
        return true(*arguments, **options)

    monkeypatch.setattr(cells, "train_run", spy)
    run_bench(make_spec(VALID), tmp_path / "out", jobs=0)
    assert resumed[0]
    assert not any(resumed[1:])
    columns = ["label", "phase", "trial", "seed", "behavior", "metric", "value", "epochs"]
    whole, again = results(tmp_path / "whole"), results(tmp_path / "out")
    pd.testing.assert_frame_equal(again[columns], whole[columns])


def test_a_failure_is_a_row_and_not_the_end(
    make_spec: MakeSpec, tmp_path: Path, runs: list[Cell]
) -> None:
    text = SMALL + (
        '[methods.burst]\nmethod = "lightgcn"\nsettings = {"train.lr" = 1e30}\n'
        "[methods.no-such]\ngrid = {}\n"
    )
    out = tmp_path / "out"
    run_bench(make_spec(text), out, jobs=0)
    found = results(out)
    failed = found[found["status"] == "failed"].set_index("label")
    assert "not finite" in failed.loc["burst", "error"].iloc[0]
    assert "no method 'no-such'" in failed.loc["no-such", "error"]
    table = (out / "table.md").read_text()
    assert "failed: The loss is not finite" in table
    assert "failed: There is no method 'no-such'" in table
    assert [line for line in table.splitlines() if line.startswith("| burst") and "failed" in line]
    del runs[:]
    run_bench(make_spec(text), out, jobs=0)
    assert not runs
    run_bench(make_spec(text), out, jobs=0, retry=True)
    assert {cell.label for cell in runs} == {"burst"}


def test_a_search_needs_validation_rows(make_spec: MakeSpec) -> None:
    with pytest.raises(UsageError, match=r"Row 'mostpop': .*no validation rows are left"):
        make_plan(make_spec(SMALL, ["rows=train+valid"]))


def users(out: Path, found: pd.DataFrame, label: str, behavior: str) -> FloatArray:
    some = found[(found["label"] == label) & (found["behavior"] == behavior)]
    keys = some.loc[some["metric"] == "ndcg@5", "run"]
    tables = [pq.read_table(out / "users" / f"{key}.parquet").to_pandas() for key in keys]
    values = [table.loc[table["behavior"] == behavior, "ndcg@5"] for table in tables]
    return np.mean([column.to_numpy() for column in values], axis=0)


def test_the_table_says_what_the_results_say(make_spec: MakeSpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_bench(make_spec(), out, jobs=0)
    found = results(out)
    found = found[(found["phase"] == "final") & (found["split"] == "test")]
    table = pd.read_csv(out / "table.csv").set_index(["label", "metric", "behavior"])
    text = (out / "table.md").read_text()
    assert "favorite" not in set(table.dropna(subset=["mean"]).reset_index()["behavior"])
    for label in ("mostpop", "lightgcn"):
        for behavior in ("click", "purchase", "macro"):
            some = (found["label"] == label) & (found["behavior"] == behavior)
            values = found.loc[some & (found["metric"] == "ndcg@5"), "value"].to_numpy()
            row = table.loc[(label, "ndcg@5", behavior)]
            assert row["mean"] == pytest.approx(values.mean())
            shown = f"{values.mean():.4f}"
            if label == "lightgcn":
                assert row["deviation"] == pytest.approx(np.std(values, ddof=1))
                shown += f" ± {np.std(values, ddof=1):.4f}"
            assert f"**{shown}**" in text or f"{shown}†" in text
    pairs = [
        paired(users(out, found, "lightgcn", b), users(out, found, "mostpop", b))
        for b in ("click", "purchase")
    ]
    corrected = holm([pair.p_t for pair in pairs])
    for behavior, pair, p in zip(("click", "purchase"), pairs, corrected, strict=True):
        row = table.loc[("lightgcn", "ndcg@5", behavior)]
        assert (row["best_other"], row["p_t"]) == ("mostpop", pytest.approx(p))
        assert row["difference"] == pytest.approx(pair.difference)
        other = table.loc[("mostpop", "ndcg@5", behavior), "mean"]
        assert row["gain"] == pytest.approx((row["mean"] - other) / other)
        assert f"{row['gain']:+.1%} over mostpop, p" in text


def test_a_table_on_the_rows_of_the_search_says_so(make_spec: MakeSpec, tmp_path: Path) -> None:
    run_bench(make_spec(VALID), tmp_path / "valid", jobs=0)
    text = (tmp_path / "valid" / "table.md").read_text()
    assert text.count(SAME_ROWS) == 2  # one table per metric
    run_bench(make_spec(), tmp_path / "test", jobs=0)
    assert SAME_ROWS not in (tmp_path / "test" / "table.md").read_text()


def test_behaviors_trained_one_by_one_are_one_row(make_spec: MakeSpec, tmp_path: Path) -> None:
    text = VALID + '[methods.alone]\nmethod = "lightgcn"\neach = "behavior"\n'
    out = tmp_path / "out"
    run_bench(make_spec(text), out, jobs=0, only=["alone"])
    found = results(out)
    assert set(found["label"]) == {"alone"}  # --only
    rows = found[(found["metric"] == "ndcg@5") & (found["seed"] == 1)].set_index("behavior")
    assert rows["alone"].dropna().to_dict() == {b: b for b in ("click", "favorite", "purchase")}
    behaviors = rows.loc[["click", "favorite", "purchase"], "value"]
    assert rows.loc["macro", "value"] == pytest.approx(behaviors.mean())
    assert set(rows["order"].dropna()) == {"click", "favorite", "purchase"}


def test_a_training_stops_when_its_time_is_over(make_spec: MakeSpec, tmp_path: Path) -> None:
    text = "max_seconds = 1e-9\n" + VALID
    run_bench(make_spec(text), tmp_path / "short", jobs=0)
    short = results(tmp_path / "short")
    short = short[short["label"] == "lightgcn"]
    assert set(short["epochs"]) == {1}
    assert set(short["ended_by"]) == {"max_seconds"}
    assert "runs ended by max_seconds" in (tmp_path / "short" / "table.md").read_text()
    run_bench(make_spec(VALID, ["train.epochs=1"]), tmp_path / "one", jobs=0)
    one = results(tmp_path / "one")
    assert short["value"].tolist() == one.loc[one["label"] == "lightgcn", "value"].tolist()


def test_a_record_serves_until_a_default_changes(make_spec: MakeSpec, tmp_path: Path) -> None:
    run_bench(make_spec(VALID), tmp_path / "out", jobs=0, only=["mostpop"])
    (cell,) = make_plan(make_spec(VALID))[0].finals(0)[:1]
    record = json.loads((tmp_path / "out" / "cells" / f"{cell.key}.json").read_text())
    then = record["settings"]
    assert _serves(record, cell)
    assert not _serves({**record, "settings": {**then, "train.lr": 0.123}}, cell)
    older = {name: value for name, value in then.items() if name != "train.patience"}
    assert _serves({**record, "settings": older}, cell)  # the setting came later
    assert not _serves({**record, "settings": {**then, "model.gone": 1}}, cell)
    assert not _serves({**record, "measured": {}}, cell)
