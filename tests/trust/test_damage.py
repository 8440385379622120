"""A damaged artefact is one line that names it and the remedy, whatever was done to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Damage = Callable[[Path, Path], None]
Mbrec = Callable[..., Any]

DATASET = ("manifest.json", "users.parquet", "items.parquet", "interactions.parquet")
RUN = ("run.json", "embeddings.safetensors", "users.parquet", "items.parquet")
RESUMED = (
    "run.json",
    "config.toml",
    "checkpoints/last.safetensors",
    "checkpoints/best.safetensors",
)
REMEDIES = (
    "again",
    "anew",
    "Put back",
    "Delete",
    "Make one",
    "mbrec evaluate",
    "start a new run",
    "leaving --resume out",
)


def _flip(share: float) -> Damage:
    def flip(path: Path, other: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(share * len(data)), len(data) - 1)] ^= 1
        path.write_bytes(data)

    return flip


def _cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _delete(path: Path, other: Path) -> None:
    path.unlink()


def _swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "first-byte": _flip(0),
    "middle": _flip(0.5),
    "last-byte": _flip(1),
    "emptied": _empty,
    "deleted": _delete,
    "swapped": _swap,
    "folder": _folder,
}

damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def assert_said(answer: Any, *names: str) -> None:
    """Check that an answer is a line that names one of some files and a remedy."""
    assert answer.code == 1, (answer.out, answer.err)
    assert "Traceback" not in answer.err
    assert "a way it should not" not in answer.error
    assert any(name in answer.error for name in names), answer.error
    assert any(remedy in answer.error for remedy in REMEDIES), answer.error


@damages
@pytest.mark.parametrize("name", DATASET)
def test_a_damaged_dataset_is_not_worked_with(
    copy: Path, mbrec: Mbrec, name: str, damage: Damage
) -> None:
    damage(copy / "data" / name, copy / "other-data" / name)
    # A manifest that is whole, but of other files, makes these the ones that do not fit.
    names = (
        (name, "users.parquet", "items.parquet", "not the dataset")
        if name == "manifest.json"
        else (name,)
    )
    assert_said(mbrec("train", copy / "data", "--out", copy / "new"), *names)
    assert not (copy / "new").exists()
    assert_said(mbrec("evaluate", copy / "run", "--data", copy / "data"), *names)
    out = copy / "lists.csv"
    assert_said(mbrec("export", copy / "run", "--data", copy / "data", "--out", out), *names)
    assert not out.exists()


@damages
@pytest.mark.parametrize("name", RUN)
def test_a_damaged_run_is_not_worked_with(
    copy: Path, mbrec: Mbrec, name: str, damage: Damage
) -> None:
    path, out = copy / "run" / name, copy / "lists.csv"
    damage(path, copy / "other-run" / name)
    names = (name, *RUN, "not the dataset") if name == "run.json" else (name,)
    assert_said(mbrec("evaluate", copy / "run", "--data", copy / "data"), *names)
    assert_said(mbrec("export", copy / "run", "--data", copy / "data", "--out", out), *names)
    assert not out.exists()
    if name == "run.json":
        assert_said(mbrec("compare", copy / "run", copy / "rival"), name, "different datasets")


@damages
@pytest.mark.parametrize("name", RESUMED)
def test_a_training_does_not_go_on_from_what_is_damaged(
    copy: Path, mbrec: Mbrec, name: str, damage: Damage
) -> None:
    path = copy / "run" / name
    damage(path, copy / "other-run" / name)
    names = (name, "last.safetensors", "not the dataset", "no training to go on with")
    again = ("train", copy / "data", "--out", copy / "run", "--resume")
    if name == "config.toml" and damage is _swap:
        again = (*again, "--set", "train.patience=2")  # both runs have the same settings
        assert mbrec(*again).code == 0
        return
    assert_said(mbrec(*again), *(names if name != "checkpoints/best.safetensors" else (name,)))


@damages
def test_damaged_figures_are_not_compared(copy: Path, mbrec: Mbrec, damage: Damage) -> None:
    name, call = "per_user.test.parquet", ("compare", copy / "run", copy / "rival")
    right = mbrec(*call).out
    damage(copy / "run" / name, copy / "other-run" / name)
    answer = mbrec(*call)
    if answer.code:
        assert_said(answer, name)
    else:  # a byte that says nothing of the figures that are compared
        assert answer.out == right
        assert damage in (DAMAGES["first-byte"], DAMAGES["middle"])


@damages
def test_a_damaged_graph_is_made_again(copy: Path, mbrec: Mbrec, damage: Damage) -> None:
    damage(copy / "data" / "graph.bin", copy / "other-data" / "graph.bin")
    settings = ("--set", "train.epochs=1", "--set", "model.size=4", "--model", "lightgcn")
    answer = mbrec("train", copy / "data", "--out", copy / "new", *settings)
    assert answer.code == 0, answer.err
    assert "graph.bin is missing or was changed" in answer.err


@damages
def test_a_damaged_journal_is_named_or_gone_without(
    copy: Path, mbrec: Mbrec, damage: Damage
) -> None:
    name = "metrics.jsonl"
    damage(copy / "run" / name, copy / "other-run" / name)
    answer = mbrec(
        "train", copy / "data", "--out", copy / "run", "--resume", "--set", "train.epochs=2"
    )
    if answer.code:
        assert_said(answer, name)
        assert "Delete it" in answer.error
    else:
        lines = (copy / "run" / name).read_text().splitlines()
        assert '"epoch": 2' in lines[-1]


@pytest.mark.parametrize("key", ["seed", "train.lr"])
def test_a_checkpoint_of_another_run_is_not_gone_on_with(
    copy: Path, mbrec: Mbrec, key: str
) -> None:
    other, field, value = ("rival", "seed", "1") if key == "seed" else ("run", "lr", "0.5")
    config = copy / other / "config.toml"
    lines = [
        f"{field} = {value}" if line.startswith(f"{field} =") else line
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines))
    answer = mbrec("train", copy / "data", "--out", copy / other, "--resume")
    assert_said(answer, "last.safetensors")
    assert f"another {key}" in answer.error


@pytest.mark.parametrize("damage", [_folder, _cut], ids=["folder", "cut"])
def test_a_damaged_record_of_a_bench_is_run_again_or_named(
    copy: Path, mbrec: Mbrec, damage: Damage
) -> None:
    bench = copy / "bench.toml"
    bench.write_text(
        f'name = "b"\nseeds = [1]\n[datasets]\nd = "{copy / "data"}"\n'
        '[methods.MostPop]\nmethod = "mostpop"\n'
    )
    call = ("bench", bench, "--out", copy / "out", "--jobs", 0)
    first = mbrec(*call)
    assert first.code == 0, first.err
    damage(copy / "out" / "bench.json", bench)
    second = mbrec(*call)
    if damage is _folder:
        assert second.code in (1, 2), second.err
        assert "bench.json" in second.error
    elif second.code:
        assert_said(second, "bench.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["manifest.json", "users.parquet", "items.parquet", "interactions.parquet"]
)
def test_no_single_bit_of_a_dataset_can_flip_unseen(copy: Path, mbrec: Mbrec, name: str) -> None:
    path = copy / "data" / name
    whole = path.read_bytes()
    key = whole.find(b'"seal"')  # without this key, a manifest is one of an older release
    for place in set(range(len(whole))) - set(range(key + 1, key + 5) if key >= 0 else ()):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        assert_said(
            mbrec("evaluate", copy / "run", "--data", copy / "data"), name, "users.parquet", "no"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "embeddings.safetensors", "per_user.test.parquet"])
def test_no_single_bit_of_a_run_can_flip_unseen(copy: Path, mbrec: Mbrec, name: str) -> None:
    path = copy / "run" / name
    whole, call = path.read_bytes(), ("compare", copy / "run", copy / "rival", "--json")
    right = mbrec(*call).out
    step = 7 if name.startswith("per_user") else 1  # most of its bytes belong to other metrics
    for place in range(0, len(whole), step):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        if name == "embeddings.safetensors":
            out = copy / "lists.csv"
            assert_said(mbrec("export", copy / "run", "--data", copy / "data", "--out", out), name)
            continue
        answer = mbrec(*call)
        if answer.code:
            assert_said(answer, name, "different datasets")
        else:  # a byte of Parquet's footer that says nothing of the figures
            assert answer.out == right, place


@pytest.mark.slow
def test_no_single_bit_of_a_checkpoint_can_flip_unseen(copy: Path, mbrec: Mbrec) -> None:
    flipped = 0
    for name in ("best.safetensors", "last.safetensors"):
        path = copy / "run" / "checkpoints" / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            bit = 1 << place % 8
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert_said(mbrec("train", copy / "data", "--out", copy / "run", "--resume"), name)
            flipped += 1
        path.write_bytes(whole)
    assert flipped > 2000
