"""If these fail, line numbers in rejects.parquet point at the wrong rows, or rows get lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.data_prep import lines
from mbrec.data_prep.layout import Layout
from mbrec.data_prep.lines import LineReader
from mbrec.errors import DataError


def read(path: Path, **options: object) -> list[tuple[int, str, str | None]]:
    reader = LineReader(Layout(path, user=0, item=1, **options))  # type: ignore[arg-type]
    found = [row for batch in reader.batches() for row in batch.to_pylist()]
    assert reader.rows == len(found)
    return [(row["line"], row["text"], row["flaw"]) for row in found]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), max_size=9)),
    size=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
)
def test_lines_are_those_of_the_file_whatever_the_block_size(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, end: str, ended: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "log"
    content = end.join(["head", *texts]) + (end if ended else "")
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", size)
        found = read(path)
    expected = ["head", *texts]
    if not ended and expected[-1] == "":
        expected.pop()  # nothing after the last line end is no line
    assert [text for _, text, _ in found] == expected
    assert [number for number, _, _ in found] == list(range(1, len(expected) + 1))


def test_a_header_counts_as_a_line_and_not_as_a_row(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("user,item\n1,2\n3,4\n")
    assert read(tmp_path / "a", header=True) == [(2, "1,2", None), (3, "3,4", None)]
    (tmp_path / "b").write_text("user,item")
    assert read(tmp_path / "b", header=True) == []


def test_quotes_are_resolved_and_open_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('1,"a,b"\n2,c\n3,"d""e"\n4,"open\n')
    found = read(tmp_path / "a", quoted=True)
    assert [text.split("\x1f") for _, text, _ in found] == [
        ["1", "a,b"],
        ["2,c"],
        ["3", 'd"e'],
        ['4,"open'],
    ]
    assert [flaw is not None for _, _, flaw in found] == [False, False, False, True]


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_blanks_around_a_quoted_field_are_not_part_of_it(tmp_path: Path, separator: str) -> None:
    """Else one item is two, of which one has quotes in its id, or its rows are lost."""
    sound = {
        'a, "x"': ["a", "x"],
        '"x" ,a': ["x", "a"],
        '  "x"  ,\f"y" ': ["x", "y"],
        'a, "x, ""y"" ,z" ': ["a", 'x, "y" ,z'],
        '"a, ""b"" , c",d': ['a, "b" , c', "d"],
        ' "" ,a': ["", "a"],
        ' a"b" ,5" disk': [' a"b" ', '5" disk'],
    }
    broken = ['a, "x', 'a, "x"y', 'a, "x" y', '"x" "y",a', '"a, "b" ,c"', '"a ,"" , "b"']
    rows = [line.replace(",", separator) for line in (*sound, *broken)]
    (tmp_path / "a").write_text("\n".join(rows))
    found = read(tmp_path / "a", quoted=True, separator=separator)
    expected = [[field.replace(",", separator) for field in fields] for fields in sound.values()]
    assert [text.split("\x1f") for _, text, _ in found[: len(sound)]] == expected
    assert [flaw for _, _, flaw in found[: len(sound)]] == [None] * len(sound)
    assert [flaw or "" for _, _, flaw in found[len(sound) :]] == [
        "unbalanced quote (a quoted field may not span lines)"
    ] * len(broken)


def test_only_the_lines_that_are_no_text_are_flawed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1,2\n3,\xff\n4,\x00\n5,\xc3\xa9\n")
    assert read(tmp_path / "a") == [
        (1, "1,2", None),
        (2, "3,\ufffd", "not UTF-8"),
        (3, "4,\\0", "NUL byte"),
        (4, "5,é", None),
    ]


def test_one_endless_line_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK", 100)
    monkeypatch.setattr(lines, "_MAX_LINE", 1000)
    (tmp_path / "a").write_text("1,2\n" + "x" * 5000)
    with pytest.raises(DataError, match="line 2 is longer"):
        read(tmp_path / "a")


def test_an_archive_of_several_files_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("UserBehavior.csv", "1,2\n")
    assert read(tmp_path / "one.zip") == [(1, "1,2", None)]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "1,2\n")
        archive.writestr("b.csv", "1,2\n")
    with pytest.raises(DataError, match="holds 2 files"):
        read(tmp_path / "two.zip")
