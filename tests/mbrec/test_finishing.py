"""A new dataset is checked and hashed in batches: where they end must not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec import finishing
from mbrec.errors import DataError
from mbrec.finishing import NewTable
from mbrec.interactions import INTERACTIONS_SCHEMA

Row = tuple[int, int, str, int | None, str]
ROWS: list[Row] = [
    (0, 1, "click", 10, "train"),
    (0, 2, "click", None, "train"),
    (2, 0, "click", 30, "train"),
    (0, 0, "click", 40, "valid"),
    (2, 3, "click", 50, "test"),
    (0, 1, "purchase", 20, "train"),
    (2, 2, "purchase", 60, "test"),
]


def read(path: Path, rows: list[Row]) -> NewTable:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, INTERACTIONS_SCHEMA, strict=True)]
    pq.write_table(pa.table(arrays, schema=INTERACTIONS_SCHEMA), path)
    return NewTable.read(path, ("click", "purchase"))


@pytest.fixture(params=[1, 2, 3])
def batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(finishing, "_ROWS", request.param)
    return int(request.param)


def test_batches_change_neither_rows_nor_hash(tmp_path: Path, batch: int) -> None:
    table = read(tmp_path / "table.parquet", ROWS)
    table.check(3, 4)
    ids = pa.chunked_array([["a", "b"], ["c"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "_ROWS", 100)
        whole = NewTable.read(tmp_path / "table.parquet", ("click", "purchase"))
        expected = whole.content_hash(ids, ids)
    assert table.content_hash(ids, ids) == expected
    assert np.array_equal(table.sizes, [[3, 1, 1], [1, 0, 1]])
    assert np.array_equal(table.sizes, whole.sizes)
    assert table.pairs(0, 2).item_idx.tolist() == [3]
    assert table.relations()["purchase"].user_idx.tolist() == [0]


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_a_pair_that_is_there_twice_is_found_wherever_it_stands(
    tmp_path: Path, batch: int, place: int
) -> None:
    table = read(tmp_path / "table.parquet", [*ROWS[: place + 1], *ROWS[place:]])
    with pytest.raises(DataError, match="pair twice"):
        table.check(3, 4)


def test_parts_in_the_wrong_order_are_found_between_batches(tmp_path: Path, batch: int) -> None:
    with pytest.raises(DataError, match="not sorted by behavior and split"):
        read(tmp_path / "table.parquet", [*ROWS[5:], *ROWS[:5]])


def test_a_pair_in_two_splits_is_counted_once(tmp_path: Path, batch: int) -> None:
    rows = [*ROWS[:4], (2, 0, "click", 50, "valid"), *ROWS[4:]]
    with pytest.raises(DataError, match=r"^1 pairs of 'click' stand in train and valid"):
        read(tmp_path / "table.parquet", rows).check(3, 4)
