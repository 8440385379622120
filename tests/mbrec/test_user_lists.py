"""Lists of users in the forms that a shop has them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.errors import DataError
from mbrec.user_lists import find_users, read_user_list


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("users.txt", "u1\n u2 \n\nu,3\n"),
        ("users.txt", "\ufeffu1\r\nu2\r\nu,3"),
        ("users.txt", "user_id\nu1\nu2\nu,3\n"),
        ("users", "u1\nu2\nu,3\n"),
        ("users.csv", 'name,user_id\nann,u1\nbob,u2\n,"u,3"\n'),
        ("users.tsv", "user_id\tage\nu1\t4\nu2\t\nu,3\t5\n"),
    ],
)
def test_ids_are_read_from_text_and_csv(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_user_list(path) == ["u1", "u2", "u,3"]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_user_list(packed) == ["u1", "u2", "u,3"]


def test_ids_are_read_from_parquet_and_keep_leading_zeros_in_csv(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [0, 0], "user_id": [7, None]}), tmp_path / "users.parquet")
    assert read_user_list(tmp_path / "users.parquet") == [7]
    (tmp_path / "users.csv").write_text("user_id\n007\nnull\n")
    assert read_user_list(tmp_path / "users.csv") == ["007", "null"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("users.txt", b"", "names no user"),
        ("users.txt", b"\n\n", "names no user"),
        ("users.csv", b"", "Cannot read users"),
        ("users.csv", b"user_id\n", "names no user"),
        ("users.csv", b"u1\nu2\n", "no column user_id; it has u1"),
        ("users.csv", b"user_id,a\nu1\n", "Cannot read users"),
        ("users.parquet", b"PAR1", "Cannot read users"),
        ("users.txt", b"\xff\xfe\x00", "Cannot read users"),
        ("users.txt.gz", b"u1\n", "Cannot read users"),
    ],
)
def test_a_file_of_no_use_is_refused_with_the_remedy(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_user_list(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "one id per line" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_user_list(tmp_path / "gone.csv")


def test_integer_and_text_ids_find_each_other() -> None:
    places, unknown = find_users(["30", "10", "x", "30", "010"], pa.array([10, 20, 30]))
    assert (places.tolist(), unknown) == ([2, 0], ["x", "010"])
    places, unknown = find_users([10, 11], pa.array(["9", "10"]))
    assert (places.tolist(), unknown) == ([1], ["11"])
