"""If these fail, a bench cannot be planned, stopped, or read by a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mbrec.dataset import PreparedDataset

Mbrec = Callable[..., tuple[int, str, str]]

BENCH = """
seeds = [1]
trials = 2
report = "valid"
ours = ["lightgcn"]
[settings]
device = "cpu"
engine = "torch"
train.epochs = 1
[datasets]
tiny = ""
[methods.mostpop]
[methods.lightgcn]
settings = {"model.size" = 4}
grid = {"train.lr" = [0.02, 0.05, 0.1]}
"""


@pytest.fixture
def bench(tmp_path: Path, tiny_dataset: PreparedDataset) -> list[str]:
    """The arguments of a small bench."""
    (tmp_path / "small.toml").write_text(BENCH)
    out = tmp_path / "out"
    return [
        "bench",
        str(tmp_path / "small.toml"),
        "--data",
        f"tiny={tiny_dataset.path}",
        "--out",
        str(out),
        "--jobs",
        "0",
    ]


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    mbrec: Mbrec, bench: list[str], tmp_path: Path
) -> None:
    code, out, _ = mbrec(*bench, "--dry-run")
    assert code == 0
    assert "tiny  lightgcn  2 trials (0 done), 1 seeds\n    defaults\n    train.lr = " in out
    assert "3 runs at most, 0 done, 3 left.\nTime left: known after the first run." in out
    assert not (tmp_path / "out").exists()


def test_a_bench_prints_its_table_and_says_how_it_goes(
    mbrec: Mbrec, bench: list[str], tmp_path: Path
) -> None:
    code, out, err = mbrec(*bench)
    assert code == 0, err
    assert out == (tmp_path / "out" / "table.md").read_text()
    lines = err.splitlines()
    assert lines[0].startswith("[1/3] tiny  mostpop  final (defaults), seed 1  valid ndcg@5 0.")
    assert lines[2].startswith("[3/3] tiny  lightgcn  trial 2 (train.lr = ")
    assert lines[2].endswith("left: about 0 s")
    assert "gain of lightgcn" in out
    (tmp_path / "out" / "table.md").unlink()
    code, again, err = mbrec(*bench, "--table-only")
    assert (code, again) == (0, out)
    assert len(err.splitlines()) == 1
    assert (tmp_path / "out" / "table.md").read_text() == out
    code, text, _ = mbrec(*bench, "--json")
    rows = json.loads(text)
    assert {row["label"] for row in rows} == {"mostpop", "lightgcn"}
    assert "0 left." in mbrec(*bench, "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bench"], 2, "Missing argument 'BENCH'"),
        (["bench", "jdd"], 2, "no file and no preset 'jdd'. Did you mean jd?"),
        (["bench", "jd", "--dry-run"], 2, "Give one: --data jd=FOLDER"),
        (["bench", "jd", "--data", "jd=nowhere", "--dry-run"], 1, "no prepared dataset"),
        (["bench", "jd", "--set", "train.epochs", "--dry-run"], 2, "not of the form key=value"),
    ],
)
def test_wrong_calls_say_what_to_do(
    mbrec: Mbrec, arguments: list[str], code: int, words: str
) -> None:
    found, out, err = mbrec(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_the_shipped_benches_are_listed(mbrec: Mbrec) -> None:
    code, out, _ = mbrec("bench", "--list")
    assert code == 0
    assert "\nablation  " in f"\n{out}"
