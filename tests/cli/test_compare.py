"""`mbrec compare`: which run is better must be said truly, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mbrec import compare_runs
from mbrec.comparison import check_metric
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, UsageError
from mbrec.evaluation import evaluate_run
from mbrec.guard import seal
from mbrec.run import Run
from mbrec.scoring import Factors
from mbrec.significance import Paired, holm, paired
from mbrec.training import train_run
from mbrec.verdict import Row, behavior_sentence, overall_sentence

Mbrec = Callable[..., tuple[int, str, str]]


def constant_factors(dataset: PreparedDataset) -> dict[str, Factors]:
    """All scores are equal: items rank by their index."""
    flat = Factors(torch.zeros(dataset.num_users, 1), torch.zeros(dataset.num_items, 1))
    return dict.fromkeys(dataset.behaviors, flat)


@pytest.fixture
def flat_run(make_run: Callable[..., Run], tiny_dataset: PreparedDataset) -> Run:
    """A run on `tiny_dataset` that knows nothing."""
    return make_run(tiny_dataset, constant_factors(tiny_dataset), name="flat")


def test_the_better_run_is_named_per_behavior(tiny_run: Run, flat_run: Run, mbrec: Mbrec) -> None:
    for run in (tiny_run, flat_run):
        evaluate_run(run.path)
    code, out, err = mbrec("compare", tiny_run.path, flat_run.path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"A: {tiny_run.path} (planted, seed 1)"
    assert lines[3] == "NDCG@5 on test rows, p Holm-corrected"
    assert [line.split()[0] for line in lines[5:8]] == ["click", "purchase", "macro"]
    assert {len(line) for line in lines[4:7]} == {len(lines[4])}
    assert len(lines[4]) <= 80
    assert lines[9].startswith("click: A is better by 0.")
    assert "favorite: no test rows in both runs." in lines
    assert lines[-1].startswith("Overall: A is better on click and purchase. ")


def test_json_has_the_tests_of_the_figures_that_evaluate_kept(
    tiny_run: Run, flat_run: Run, mbrec: Mbrec
) -> None:
    figures = [
        evaluate_run(run.path, split="valid").results["purchase"].values["ndcg@10"]
        for run in (flat_run, tiny_run)
    ]
    code, out, _ = mbrec(
        *("compare", flat_run.path, tiny_run.path),
        *("--metric", "NDCG@10", "--split", "valid", "--json"),
    )
    assert code == 0
    said = json.loads(out)
    rows = said["behaviors"]
    assert list(rows) == ["click", "favorite", "purchase"]
    expected = paired(*figures).as_dict()
    assert {name: rows["purchase"][name] for name in expected} == expected
    for test in ("wilcoxon", "t"):
        corrected = holm([row[f"p_{test}"] for row in rows.values()])
        assert [row[f"p_{test}_holm"] for row in rows.values()] == corrected
    assert rows["purchase"]["verdict"] == "B"
    assert said["b"] == {"path": str(tiny_run.path), "model": "planted", "seed": 1}
    macro = said["macro"]
    assert macro["mean_a"] == pytest.approx(np.mean([row["mean_a"] for row in rows.values()]))
    assert macro["difference"] == pytest.approx(macro["mean_a"] - macro["mean_b"])


def test_a_run_is_as_good_as_itself(tiny_run: Run) -> None:
    evaluate_run(tiny_run.path)
    summary = compare_runs(tiny_run.path, tiny_run.path).summary()
    assert {row["verdict"] for row in summary["behaviors"].values()} == {"equal"}
    assert summary["sentence"] == (
        "Overall: A and B are the same for every user on click and purchase."
    )


def test_a_run_of_some_behaviors_is_compared_on_those(
    tiny_run: Run, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    some = from_dict({"method": "mostpop", "behaviors": ["favorite", "purchase"]})
    part = train_run(tiny_dataset.path, tmp_path / "part", some)
    for run in (tiny_run, part):
        evaluate_run(run.path)
    for pair in ((tiny_run, part), (part, tiny_run)):
        summary = compare_runs(*(run.path for run in pair)).summary()
        assert list(summary["behaviors"]) == ["purchase"]
        assert sorted(summary["missing"]) == ["click", "favorite"]


def test_runs_on_different_datasets_are_not_compared(
    tiny_run: Run, make_dataset: Callable[..., PreparedDataset], make_run: Callable[..., Run]
) -> None:
    dataset = make_dataset(
        [(0, 0, "purchase", "train"), (0, 1, "purchase", "test")], users=1, items=2
    )
    other = make_run(dataset, constant_factors(dataset), name="other")
    for run in (tiny_run, other):
        evaluate_run(run.path)
    with pytest.raises(ArtefactError, match=r"are on different datasets"):
        compare_runs(tiny_run.path, other.path)
    summary = compare_runs(other.path, other.path).summary()
    assert summary["behaviors"]["purchase"]["sentence"].endswith("for the one user.")


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    tiny_run: Run, flat_run: Run, mbrec: Mbrec
) -> None:
    evaluate_run(tiny_run.path, ks=[5])
    code, out, err = mbrec("compare", tiny_run.path, flat_run.path)
    assert (code, out) == (1, "")
    assert f"Run `mbrec evaluate {flat_run.path} --split test` first." in err
    evaluate_run(flat_run.path, ks=[5, 10])
    code, _, err = mbrec("compare", tiny_run.path, flat_run.path, "--metric", "hr@10")
    assert code == 1
    assert "has no hr@10 (it has hr@5, ndcg@5, " in err
    assert f"Run `mbrec evaluate {tiny_run.path} --split test --k 5,10`." in err
    assert mbrec("compare", tiny_run.path, flat_run.path)[0] == 0
    assert "no run" in mbrec("compare", tiny_run.path, tiny_run.path / "gone")[2]


def test_a_command_to_be_copied_works_where_names_have_spaces(
    tiny_run: Run, flat_run: Run, mbrec: Mbrec
) -> None:
    odd = tiny_run.path.rename(tiny_run.path.parent / "my run")
    error = mbrec("compare", odd, flat_run.path)[2]
    assert f"Run `mbrec evaluate '{odd}' --split test` first." in error


def test_figures_of_the_other_split_are_pointed_to(tiny_run: Run, flat_run: Run) -> None:
    for run in (tiny_run, flat_run):
        evaluate_run(run.path, split="valid")
    with pytest.raises(ArtefactError, match="add --split valid"):
        compare_runs(tiny_run.path, flat_run.path)


def test_figures_from_before_the_last_training_are_refused(tiny_run: Run, flat_run: Run) -> None:
    for run in (tiny_run, flat_run):
        evaluate_run(run.path)
    info = json.loads((tiny_run.path / "run.json").read_text())
    info["files"]["embeddings.safetensors"] = "0" * 64
    (tiny_run.path / "run.json").write_text(json.dumps(seal(info)))
    with pytest.raises(ArtefactError, match=r"before .* was last trained.*mbrec evaluate"):
        compare_runs(tiny_run.path, flat_run.path)


def test_damaged_or_foreign_figures_are_refused(tiny_run: Run, flat_run: Run) -> None:
    for run in (tiny_run, flat_run):
        evaluate_run(run.path)
    file: Path = flat_run.path / "per_user.test.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(2), file)
    with pytest.raises(ArtefactError, match=r"'click' are of different users: 2 only in .*, 0"):
        compare_runs(tiny_run.path, flat_run.path)
    pq.write_table(table.slice(0, 0), file)
    with pytest.raises(DataError, match="Neither run has test figures of any user"):
        compare_runs(flat_run.path, flat_run.path)
    pq.write_table(table.replace_schema_metadata(None), file)
    with pytest.raises(ArtefactError, match="before"):
        compare_runs(flat_run.path, flat_run.path)
    file.write_bytes(b"")
    with pytest.raises(ArtefactError, match=f"{file.name} is damaged"):
        compare_runs(flat_run.path, flat_run.path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("ndgc@5", "Did you mean ndcg"), ("auc@5", "There are hr,"), ("hr", "hr@5"), ("hr@0", "hr@5")],
)
def test_a_metric_that_does_not_exist_is_corrected(text: str, words: str) -> None:
    assert check_metric("NDCG@05") == "ndcg@5"
    with pytest.raises(UsageError, match=words):
        check_metric(text)


def row(pair: Paired, p_wilcoxon: float | None = None, p_t: float | None = None) -> Row:
    return Row(
        pair,
        pair.p_wilcoxon if p_wilcoxon is None else p_wilcoxon,
        pair.p_t if p_t is None else p_t,
    )


MANY = paired(np.linspace(0.2, 0.9, 100), np.linspace(0.1, 0.8, 100))


def test_a_sentence_says_who_by_how_much_and_for_how_many() -> None:
    assert behavior_sentence("click", row(MANY), "ndcg@5") == (
        "click: A is better by 0.1000 NDCG@5 or 22.2 % (A 0.5500, B 0.4500; 95 % interval of A - B "
        "+0.1000 to +0.1000). Of 100 users A is better for 100, B for 0; for 0 they are equal. "
        "That is hardly chance (Wilcoxon p < 0.001, t p < 0.001)."
    )


def test_a_sentence_does_not_claim_what_the_tests_do_not_show() -> None:
    unclear = behavior_sentence("click", row(MANY, 0.2, 0.3), "hr@5")
    assert "A is ahead by" in unclear
    assert "That can be chance (Wilcoxon p = 0.200, t p = 0.300)." in unclear
    assert "the means differ" in behavior_sentence("click", row(MANY, 0.2, 0.01), "hr@5")
    assert "the ranks differ" in behavior_sentence("click", row(MANY, 0.01, 0.2), "hr@5")
    assert row(MANY, 0.01, 0.2).verdict == "mixed"


def test_a_mean_that_few_users_make_against_most_is_called_mixed() -> None:
    a = np.zeros(60)
    a[:20] = 1.0  # a few win much, most lose a little
    b = np.full(60, 0.2)
    b[:20] = 0.0
    found = row(paired(a, b), 0.001, 0.001)
    assert found.paired.difference > 0
    assert found.paired.rank_biserial > 0
    against = row(paired(np.append(a, np.zeros(60)), np.append(b, np.full(60, 0.15))), 0.001, 0.001)
    assert against.paired.difference * against.paired.rank_biserial < 0
    assert against.verdict == "mixed"
    assert "the mean and the ranks favor different runs" in behavior_sentence("x", against, "hr@5")


def test_few_users_and_means_of_zero_are_said_as_they_are() -> None:
    one = row(paired(np.array([0.0]), np.array([0.5])))
    assert behavior_sentence("buy", one, "hr@5") == (
        "buy: B is better for the one user there is (A 0.0000, B 0.5000), which says nothing about "
        "others."
    )
    few = row(paired(np.array([0.0, 0.0]), np.array([0.5, 0.6])))
    said = behavior_sentence("buy", few, "hr@5")
    assert "B is ahead by 0.5500 HR@5 (A 0.0000" in said
    assert said.endswith("With 2 users, only large differences can show.")
    even = row(paired(np.array([0.0, 0.5]), np.array([0.5, 0.0])))
    assert "A and B have the same mean HR@5 (0.2500;" in behavior_sentence("buy", even, "hr@5")
    large = row(paired(np.full(40, 0.6), np.full(40, 0.01)))
    assert "60 times as much" in behavior_sentence("buy", large, "hr@5")


def test_the_overall_sentence_gathers_behaviors_by_verdict() -> None:
    same = row(paired(np.ones(3), np.ones(3)))
    said = overall_sentence({"click": row(MANY), "cart": row(MANY, 0.5, 0.5), "buy": same})
    assert said.startswith(
        "Overall: A is better on click; no difference is shown on cart; A and B are the same for "
        "every user on buy. This is about users, not about seeds"
    )
