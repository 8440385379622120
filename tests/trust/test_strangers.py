"""Datasets and runs from strangers: nothing is outsized, misleading, or read from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from mbrec import guard, memory
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, MbrecError, TrainingError
from mbrec.guard import inside, read_columns, read_ids, seal
from mbrec.manifest import check_behaviors
from mbrec.models.base import embedding_table
from mbrec.packing import unpack
from mbrec.run import Run
from mbrec.scoring import Sparse

Mbrec = Callable[..., Any]
Bless = Callable[[Path, str], None]


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(seal(values)))


@pytest.mark.parametrize("what", ["users", "items"])
@pytest.mark.parametrize("count", [10**12, 2**31, 10**9, -1, 1e12, "8", None, True])
def test_a_manifest_cannot_claim_what_is_not_there(copy: Path, what: str, count: Any) -> None:
    edit_json(copy / "data" / "manifest.json", lambda m: m["counts"].update({what: count}))
    with pytest.raises(ArtefactError, match=f"damaged: .*({what}|ids)"):
        PreparedDataset(copy / "data")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(behaviors="click"),
        lambda m: m.update(behaviors=[f"b{n}" for n in range(40_000)]),
        lambda m: m.update(behaviors=["click", "\x1b[2J"]),
        lambda m: m.update(behaviors=[["click"]]),
        lambda m: m["counts"].pop("splits"),
        lambda m: m["counts"]["splits"].update(valid={"click": "all"}),
        lambda m: m["counts"].update(splits=[]),
        lambda m: m.update(files=["users.parquet"]),
        lambda m: m.update(files={"users.parquet": 1}),
        lambda m: m.update(content_hash=None),
        lambda m: m.update(counts=None),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(copy: Path, change: Callable[..., Any]) -> None:
    edit_json(copy / "data" / "manifest.json", change)
    with pytest.raises(ArtefactError, match=r"manifest\.json is damaged"):
        PreparedDataset(copy / "data")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", "[" * 100_000),
        ("manifest.json", '{"schema_version": 1' + " " * (65 << 20)),
    ],
)
def test_json_that_would_take_the_stack_or_the_memory_is_refused(
    copy: Path, mbrec: Mbrec, name: str, text: str
) -> None:
    (copy / "data" / name).write_text(text)
    answer = mbrec("train", copy / "data", "--out", copy / "new")
    assert answer.code == 1
    assert name in answer.error and "damaged" in answer.error


def test_a_small_parquet_file_cannot_become_a_large_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 30)
    rows, text = 20_000, "x" * 1_000_000
    codes = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": codes}), path, store_schema=False)
    assert path.stat().st_size < 1 << 20  # it would take 20 GB
    with pytest.raises(TrainingError, match=r"users\.parquet takes about .* GiB"):
        read_ids(path, "user_id")


def test_a_table_is_measured_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"user_idx": np.zeros(100_000, np.int32)}), path)
    monkeypatch.setattr(memory, "free_memory", lambda device: 100_000)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(TrainingError, match=r"rows\.parquet takes about"):
        read_columns(path, ["user_idx"])


def test_embeddings_that_do_not_fit_are_refused_before_they_are_made() -> None:
    with pytest.raises(TrainingError, match="embeddings takes about"):
        embedding_table(2**31 - 1, 1_000_000, "normal", torch.Generator())


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("interactions.parquet", lambda t: replace(t, "user_idx", [10**6] * len(t))),
        ("interactions.parquet", lambda t: replace(t, "item_idx", [-1] * len(t))),
        ("interactions.parquet", lambda t: replace(t, "item_idx", [None] * len(t))),
        ("interactions.parquet", lambda t: t.take(list(range(len(t)))[::-1])),
        ("interactions.parquet", lambda t: pa.concat_tables([t.slice(0, 1), t])),
        ("interactions.parquet", lambda t: replace(t, "behavior", ["no such"] * len(t))),
        ("interactions.parquet", lambda t: replace(t, "user_idx", [[1]] * len(t))),
        ("users.parquet", lambda t: replace(t, "user_id", [[1]] * len(t))),
        ("users.parquet", lambda t: replace(t, "user_id", [None] * len(t))),
        ("users.parquet", lambda t: t.drop_columns("user_id")),
        ("users.parquet", lambda t: replace(t, "user_id", [0.5] * len(t))),
    ],
)
def test_rows_that_would_mislead_training_are_refused(
    copy: Path,
    mbrec: Mbrec,
    name: str,
    change: Callable[[pa.Table], pa.Table],
    bless: Bless,
) -> None:
    rewrite(copy / "data" / name, change)
    bless(copy / "data", "manifest.json")
    answer = mbrec("train", copy / "data", "--out", copy / "new", "--set", "train.epochs=1")
    assert answer.code == 1
    assert f"{name} is damaged" in answer.error
    assert "a way it should not" not in answer.error


def replace(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    kind = table.schema.field(name).type if name.endswith("idx") else None
    if values and isinstance(values[0], list):
        kind = None
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))


HISTORY = {
    "indptr": torch.tensor([0, 2, 3]),
    "items": torch.tensor([0, 2, 1]),
    "values": torch.ones(3),
    "width": torch.tensor(3),
}
SPARSE = {
    "kind": "sparse",
    "indptr": "indptr",
    "items": "items",
    "values": "values",
    "width": "width",
}


def test_a_sound_description_is_unpacked() -> None:
    assert isinstance(unpack(SPARSE, HISTORY.__getitem__), Sparse)


@pytest.mark.parametrize(
    "tensors",
    [
        {"indptr": torch.tensor([], dtype=torch.int64)},
        {"indptr": torch.tensor([0, -2, 3])},
        {"indptr": torch.tensor([1, 2, 3])},
        {"indptr": torch.tensor([0, 2, 10**12])},
        {"indptr": torch.tensor([0.0, 2.0, 3.0])},
        {"indptr": torch.tensor([[0, 2, 3]])},
        {"items": torch.tensor([0, 2, -1])},
        {"items": torch.tensor([0, 2, 10**12])},
        {"items": torch.tensor([0, 0, 1])},
        {"items": torch.tensor([0, 2])},
        {"values": torch.ones(3, dtype=torch.complex64)},
        {"values": torch.ones(2)},
        {"width": torch.tensor([3, 3])},
        {"width": torch.tensor(-1)},
        {"width": torch.tensor(3.0)},
    ],
)
def test_a_sparse_scorer_that_does_not_hold_together_is_refused(
    tensors: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(DataError):
        unpack(SPARSE, {**HISTORY, **tensors}.__getitem__)


def nested(depth: int) -> Any:
    value: Any = SPARSE
    for _ in range(depth):
        value = {"kind": "sum", "weights": [1.0], "parts": [value]}
    return value


@pytest.mark.parametrize(
    "description",
    [
        nested(20),
        {"kind": "sum", "weights": [1.0, 2.0], "parts": [SPARSE]},
        {"kind": "sum", "weights": [float("nan")], "parts": [SPARSE]},
        {"kind": "sum", "weights": ["x"], "parts": [SPARSE]},
        {"kind": "sum", "weights": [], "parts": []},
        {"kind": "sum", "weights": 3, "parts": 4},
        {"kind": "item-neighbors", "history": SPARSE, "neighbors": SPARSE},
        {"kind": "item-to-item", "history": SPARSE, "similarity": "values"},
        {"kind": "item-to-item", "history": "items", "similarity": "values"},
        {"kind": "factors", "user_emb": "gone", "item_emb": "gone"},
        {"kind": "factors", "user_emb": ["values"], "item_emb": {}},
        {"kind": ["sum"]},
        {"kind": "__import__"},
        {},
        [],
        "sum",
        None,
    ],
)
def test_a_description_of_scores_that_makes_no_sense_is_one_line(
    copy: Path,
    mbrec: Mbrec,
    description: Any,
    bless: Bless,
) -> None:
    path = copy / "run" / "embeddings.safetensors"
    save_file({**load_file(path), **HISTORY}, path)
    edit_json(copy / "run" / "run.json", lambda info: info["scorers"].update(click=description))
    bless(copy / "run", "run.json")
    answer = mbrec("export", copy / "run", "--data", copy / "data", "--out", copy / "lists.csv")
    assert answer.code == 1
    assert "embeddings.safetensors is damaged: it does not fit run.json" in answer.error


def test_scores_for_a_million_million_users_are_refused_at_once(
    copy: Path, mbrec: Mbrec, bless: Bless
) -> None:
    path = copy / "run" / "embeddings.safetensors"
    empty = {
        f"{side}/{b}": torch.empty(10**12, 0)
        for side in ("user", "item")
        for b in ("click", "purchase")
    }
    save_file(empty, path)
    bless(copy / "run", "run.json")
    answer = mbrec("evaluate", copy / "run", "--data", copy / "data")
    assert answer.code == 1
    assert "1000000000000 × 1000000000000 rows where there are 8 × 9 ids" in answer.error


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("data", "manifest.json"),
        ("data", "users.parquet"),
        ("data", "interactions.parquet"),
        ("run", "run.json"),
        ("run", "embeddings.safetensors"),
        ("run", "config.toml"),
        ("run", "metrics.jsonl"),
        ("run", "checkpoints/last.safetensors"),
        ("run", "checkpoints"),
    ],
)
def test_no_link_leads_out_of_the_folder(
    copy: Path, mbrec: Mbrec, tmp_path: Path, folder: str, name: str
) -> None:
    path, outside = copy / folder / name, tmp_path / "outside"
    path.rename(outside)
    before = outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*"))
    path.symlink_to(outside)
    if name == "embeddings.safetensors":  # written, not read, by a training
        answer = mbrec("evaluate", copy / "run", "--data", copy / "data")
    else:
        answer = mbrec("train", copy / "data", "--out", copy / "run", "--resume")
    assert answer.code == 1
    assert name in answer.error and "leads out of its folder" in answer.error
    assert before == (outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*")))


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_a_name_does_not_climb_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match="leads out of its folder"):
        inside(tmp_path / "folder", name)


def test_links_in_a_circle_are_an_error_and_a_linked_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").symlink_to(tmp_path / "real" / "b")
    (tmp_path / "real" / "b").symlink_to(tmp_path / "real" / "a")
    with pytest.raises(MbrecError):
        inside(tmp_path / "real", "a").stat()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "linked", "new") == tmp_path / "linked" / "new"


def test_names_in_the_hash_tables_are_never_followed(copy: Path) -> None:
    for folder, index in (("data", "manifest.json"), ("run", "run.json")):
        edit_json(copy / folder / index, lambda v: v["files"].update({"../../secret": "0" * 64}))
    run = Run(copy / "run")
    assert len(run.user_ids) == 8
    assert run.dataset(copy / "data").num_items == 9


@pytest.mark.parametrize("name", ["a\x1b[31m", "=HYPERLINK()", "@x", "-x", "+x", "b" * 300, "a\nb"])
def test_a_behavior_cannot_be_called_what_tables_would_run(name: str) -> None:
    with pytest.raises(DataError, match="cannot be the name of a behavior"):
        check_behaviors(["click", name])


def test_plain_names_of_behaviors_pass() -> None:
    names = ("-1", "4", "加购", "add to cart", "purchase")
    assert check_behaviors(names) == names


def test_older_files_without_a_seal_are_read(copy: Path) -> None:
    for folder, index in (("data", "manifest.json"), ("run", "run.json")):
        path = copy / folder / index
        values = json.loads(path.read_text())
        del values[guard.SEAL]
        path.write_text(json.dumps(values))
    assert Run(copy / "run").dataset(copy / "data").num_users == 8
