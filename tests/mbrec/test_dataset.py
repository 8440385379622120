"""The prepared dataset: what was written is what is read, and nothing else ever is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns import GLOBAL, SPLITS
from mbrec.dataset import (
    GRAPH,
    INTERACTIONS,
    ITEMS,
    MANIFEST,
    REJECTS,
    REJECTS_SCHEMA,
    USERS,
    PreparedDataset,
    write_dataset,
)
from mbrec.errors import ArtefactError, DataError, LeakageError, UsageError
from mbrec.graph import edge_type
from mbrec.guard import SEAL
from mbrec.interactions import INTERACTIONS_SCHEMA
from mbrec.manifest import check_behaviors

Row = tuple[int, int, str, int | None, str]
BEHAVIORS = ("click", "purchase")
ROWS: list[Row] = [
    (0, 1, "click", 10, "train"),
    (0, 2, "click", None, "train"),
    (2, 0, "click", 30, "train"),
    (0, 0, "click", 40, "valid"),
    (2, 3, "click", 50, "test"),
    (0, 1, "purchase", 20, "train"),
    (2, 2, "purchase", 60, "test"),
]


def write(
    path: Path,
    rows: list[Row] = ROWS,
    *,
    behaviors: tuple[str, ...] = BEHAVIORS,
    user_ids: pa.Array | None = None,
    row_group_size: int | None = None,
    counts: dict[str, int] | None = None,
) -> Path:
    """Write a dataset of 3 users and 4 items."""
    user_ids = pa.array(["anna", "bob", "李"]) if user_ids is None else user_ids
    item_ids = pa.array([700, 500, 600, 800])
    with write_dataset(path) as writer:
        columns = list(zip(*rows, strict=True)) or [()] * 5
        arrays = [pa.array(c, f.type) for c, f in zip(columns, INTERACTIONS_SCHEMA, strict=True)]
        table = pa.table(arrays, schema=INTERACTIONS_SCHEMA)
        pq.write_table(table, writer.folder / INTERACTIONS, row_group_size=row_group_size)
        for name, ids, column in ((USERS, user_ids, "user"), (ITEMS, item_ids, "item")):
            idx = pa.array(range(len(ids)), pa.int32())
            frame = pa.table({f"{column}_idx": idx, f"{column}_id": ids})
            pq.write_table(frame, writer.folder / name)
        pq.write_table(REJECTS_SCHEMA.empty_table(), writer.folder / REJECTS)
        writer.finish(behaviors, {"source": "test", "counts": {"rows_read": 9, **(counts or {})}})
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return PreparedDataset(write(tmp_path / "data"))


def pairs_of(dataset: PreparedDataset, behavior: str, split: str) -> list[tuple[int, int]]:
    pairs = dataset.pairs(behavior, split)  # type: ignore[arg-type]
    return list(zip(pairs.user_idx.tolist(), pairs.item_idx.tolist(), strict=True))


def test_what_is_read_is_what_was_written(dataset: PreparedDataset) -> None:
    assert dataset.behaviors == BEHAVIORS
    assert dataset.target == "purchase"
    assert (dataset.num_users, dataset.num_items) == (3, 4)
    assert dataset.user_ids.to_pylist() == ["anna", "bob", "李"]
    assert dataset.item_ids.to_pylist() == [700, 500, 600, 800]
    for behavior in BEHAVIORS:
        for split in SPLITS:
            expected = [row for row in ROWS if row[2] == behavior and row[4] == split]
            assert pairs_of(dataset, behavior, split) == [row[:2] for row in expected]
            assert dataset.timestamps(behavior, split).to_pylist() == [r[3] for r in expected]


def test_the_manifest_counts_what_is_there(dataset: PreparedDataset) -> None:
    counts = dataset.manifest["counts"]
    assert counts["rows_read"] == 9
    assert counts["interactions"] == len(ROWS)
    assert counts["splits"] == {
        "train": {"click": 3, "purchase": 1},
        "valid": {"click": 1, "purchase": 0},
        "test": {"click": 1, "purchase": 1},
    }
    assert counts["global_train_pairs"] == 3


def test_the_graph_holds_training_pairs_only(dataset: PreparedDataset) -> None:
    graph = dataset.graph()
    assert graph.num_nodes("user") == 3
    assert graph.num_edges(edge_type("click")) == 3
    assert graph.num_edges(edge_type("purchase")) == 1
    assert graph.num_edges(edge_type(GLOBAL)) == 3


@pytest.mark.parametrize("splits", [("train",), ("train", "valid")])
def test_code_that_trains_cannot_reach_a_test_row(
    dataset: PreparedDataset, splits: tuple[str, ...]
) -> None:
    seen = PreparedDataset(dataset.path, splits)  # type: ignore[arg-type]
    seen.pairs("click", "train")
    for read in (seen.pairs, seen.timestamps):
        with pytest.raises(LeakageError, match="test rows"):
            read("click", "test")


def test_an_unknown_behavior_is_answered_with_the_known_ones(dataset: PreparedDataset) -> None:
    with pytest.raises(DataError, match="It has click, purchase"):
        dataset.pairs("view", "train")


def test_a_folder_that_is_no_dataset_is_told_apart(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArtefactError, match="no prepared dataset"):
            PreparedDataset(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [cut, flip, empty, Path.unlink]


def read_all(dataset: PreparedDataset) -> None:
    dataset.pairs("click", "train")
    assert dataset.user_ids is not None
    assert dataset.item_ids is not None


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "flipped", "emptied", "missing"])
@pytest.mark.parametrize("name", [INTERACTIONS, USERS, ITEMS])
def test_a_damaged_file_is_one_line_with_its_name_and_the_remedy(
    dataset: PreparedDataset, name: str, damage: Callable[[Path], None]
) -> None:
    damage(dataset.path / name)
    with pytest.raises(ArtefactError) as error:
        read_all(PreparedDataset(dataset.path))
    message = str(error.value)
    assert str(dataset.path / name) in message
    assert "damaged" in message or "missing" in message
    assert "mbrec prep" in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", [cut, empty], ids=["cut", "emptied"])
def test_a_damaged_manifest_is_one_line(
    dataset: PreparedDataset, damage: Callable[[Path], None]
) -> None:
    damage(dataset.path / MANIFEST)
    with pytest.raises(ArtefactError, match="damaged"):
        PreparedDataset(dataset.path)


@pytest.mark.parametrize("key", ["schema_version", "behaviors", "counts", "content_hash", "files"])
def test_a_manifest_that_lacks_something_is_one_line(dataset: PreparedDataset, key: str) -> None:
    manifest = dict(dataset.manifest)
    del manifest[key], manifest[SEAL]
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=key):
        PreparedDataset(dataset.path)


def test_a_dataset_of_a_later_version_is_not_misread(dataset: PreparedDataset) -> None:
    manifest = {**dataset.manifest, "schema_version": 99}
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="schema version 99"):
        PreparedDataset(dataset.path)


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "flipped", "emptied", "missing"])
def test_the_graph_is_made_again_if_its_file_is_damaged(
    dataset: PreparedDataset, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(dataset.path / GRAPH)
    graph = PreparedDataset(dataset.path).graph()
    assert graph.num_edges(edge_type("click")) == 3
    assert graph.num_nodes("item") == 4
    assert GRAPH in caplog.text


def test_a_moved_dataset_is_the_same(dataset: PreparedDataset, tmp_path: Path) -> None:
    moved = shutil.move(dataset.path, tmp_path / "elsewhere")
    read_all(PreparedDataset(moved))
    assert PreparedDataset(moved).content_hash == dataset.content_hash


def test_how_parquet_stores_it_does_not_change_the_content_hash(tmp_path: Path) -> None:
    hashes = {
        PreparedDataset(write(tmp_path / f"{size}", row_group_size=size)).content_hash
        for size in (1, 3, None)
    }
    assert len(hashes) == 1


CHANGES: dict[str, dict[str, object]] = {
    "a pair": {"rows": ROWS[1:]},
    "a time": {"rows": [(0, 1, "click", 11, "train"), *ROWS[1:]]},
    "a missing time": {"rows": [(0, 1, "click", None, "train"), *ROWS[1:]]},
    "a split": {"rows": [*ROWS[:-1], (2, 2, "purchase", 60, "valid")]},
    "an id": {"user_ids": pa.array(["anna", "bob", "王"])},
    "where ids end": {"user_ids": pa.array(["ann", "abob", "李"])},
    "the type of ids": {"user_ids": pa.array([1, 2, 3])},
    "a name": {
        "rows": [(u, i, b.replace("click", "view"), t, s) for u, i, b, t, s in ROWS],
        "behaviors": ("view", "purchase"),
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_content_changes_the_hash(
    dataset: PreparedDataset, tmp_path: Path, change: str
) -> None:
    other = write(tmp_path / "other", **CHANGES[change])  # type: ignore[arg-type]
    assert PreparedDataset(other).content_hash != dataset.content_hash


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, 1, "click", 1, "train"), (0, 1, "click", 2, "test")], "train and test"),
        ([(0, 1, "click", 1, "train"), (0, 1, "click", 2, "valid")], "train and valid"),
        (
            [
                (0, 0, "click", 1, "train"),
                (0, 1, "click", 1, "valid"),
                (0, 1, "click", 2, "test"),
            ],
            "valid and test",
        ),
        ([(0, 1, "click", 1, "train"), (0, 1, "click", 2, "train")], "pair twice"),
        ([(1, 1, "click", 1, "train"), (0, 1, "click", 2, "train")], "not sorted"),
        ([(0, 1, "purchase", 1, "train"), (0, 1, "click", 2, "train")], "not sorted"),
        ([(0, 1, "click", 1, "train"), (3, 1, "click", 2, "test")], "among the 3 users"),
        ([(0, 1, "click", 1, "train"), (0, 4, "click", 2, "test")], "among the 4 items"),
        ([(0, -1, "click", 1, "train")], "among the 4 items"),
        ([(0, 1, "click", 1, "valid")], "No training rows"),
        ([], "No training rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_mislead_every_reader_is_never_written(
    tmp_path: Path, rows: list[Row], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        write(tmp_path / "data", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [(0, 1, "share", 1, "train"), (0, 1, "click", 1, "dev")])
def test_an_unknown_behavior_or_split_is_never_written(tmp_path: Path, row: Row) -> None:
    with pytest.raises(ArtefactError, match="a value other than"):
        write(tmp_path / "data", [row])
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_lost_a_row_on_the_way_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="8 rows were kept, and 7 are written"):
        write(tmp_path / "data", counts={"kept": 8})
    assert list(tmp_path.iterdir()) == []
    assert write(tmp_path / "data", counts={"kept": 7}).is_dir()


def test_an_unfinished_dataset_never_appears(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="finish"), write_dataset(tmp_path / "data"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_is_replaced_only_if_that_is_meant(tmp_path: Path) -> None:
    path = write(tmp_path / "data")
    before = PreparedDataset(path).content_hash
    with pytest.raises(UsageError, match="exists already"):
        write(path)
    assert PreparedDataset(path).content_hash == before


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "empty"),
        (["click", " "], "empty"),
        (["click", "click"], "named twice"),
        (["click", GLOBAL], "merged relation"),
        (["macro", "click"], "'macro': it means the mean over behaviors"),
        (["click", "metric"], "'metric': it means what is measured.*--map"),
    ],
)
def test_impossible_cascades_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_behaviors(names)


rows_of_one_behavior = st.dictionaries(
    st.tuples(st.integers(0, 2), st.integers(0, 3)),
    st.tuples(st.sampled_from(SPLITS), st.none() | st.integers(0, 2**40)),
)


@settings(max_examples=20, deadline=None)
@given(click=rows_of_one_behavior, purchase=rows_of_one_behavior)
def test_any_dataset_goes_there_and_back(
    tmp_path_factory: pytest.TempPathFactory,
    click: dict[tuple[int, int], tuple[str, int | None]],
    purchase: dict[tuple[int, int], tuple[str, int | None]],
) -> None:
    rows: list[Row] = [
        (user, item, behavior, timestamp, split)
        for behavior, content in (("click", click), ("purchase", purchase))
        for part in SPLITS
        for (user, item), (split, timestamp) in sorted(content.items())
        if split == part
    ]
    path = tmp_path_factory.mktemp("any") / "data"
    if not any(row[4] == "train" for row in rows):
        with pytest.raises(DataError, match="No training rows"):
            write(path, rows)
        return
    dataset = PreparedDataset(write(path, rows))
    for behavior in BEHAVIORS:
        for split in SPLITS:
            expected = [row for row in rows if row[2] == behavior and row[4] == split]
            assert pairs_of(dataset, behavior, split) == [row[:2] for row in expected]
            assert dataset.timestamps(behavior, split).to_pylist() == [r[3] for r in expected]
