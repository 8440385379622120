"""If these fail, a broken log is read as if it were sound, or a sound line is lost.

`run.py` beside this does the same for a million lines and more.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import mutations
import plain_parser
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import BY_NAME, FORMATS, Format, Readers, joined, mutated_log
from whole_files import outcome, spoiled

from mbrec.data_prep import PrepOptions, prepare
from mbrec.dataset import REJECTS

LINES = 1500


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readers]:
    with Readers(tmp_path_factory.mktemp("readers")) as opened:
        yield opened


@pytest.mark.parametrize("name", BY_NAME)
def test_every_mutated_line_gets_the_verdict_of_a_plain_parser(readers: Readers, name: str) -> None:
    content = mutated_log(BY_NAME[name], LINES, random.Random(f"suite {name}"))
    assert readers.differences(BY_NAME[name], content) == []


EDITED = st.lists(
    st.one_of(
        st.sampled_from(mutations.TOKENS),
        st.binary(max_size=4),
        st.sampled_from(b'1 7 pv click , ; \t " 2018-02-04 08:28:15 .5 Z +02'.split(b" ")),
        st.just(b","),
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=25, deadline=None)
@given(form=st.sampled_from(FORMATS), lines=st.lists(EDITED, max_size=30), seed=st.integers(0, 99))
def test_lines_put_together_at_will_get_the_verdict_of_a_plain_parser(
    readers: Readers, form: Format, lines: list[bytes], seed: int
) -> None:
    assert readers.differences(form, joined(form, lines, random.Random(seed))) == []


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_file_spoiled_as_a_whole_is_read_or_refused_with_a_message(
    form: Format, tmp_path: Path
) -> None:
    rng = random.Random(f"files {form.name}")
    assert [line for _ in range(150) for line in outcome(form, spoiled(form, rng), tmp_path)] == []


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        # A year that lost digits was read as a time of antiquity, and moved the temporal cuts.
        ("jd-2019", b"7,8,2-08-15 02:14:30,9,1", "timestamp is not of the form ISO"),
        ("csv", b"7,buy,2018-01-30 1:05 UTC,8,test", "timestamp is not of the form ISO"),
        ("csv", b"7,buy,2018-01-30 01:05:00+99,8,test", "timestamp is not of the form ISO"),
        ("csv", b"7,buy,2018-01-30 24:00:00,8,test", "timestamp is not of the form ISO"),
        ("csv", b"7,buy,2018-01-30 01:05:00+02:,8,test", "timestamp is not of the form ISO"),
        # Microseconds as milliseconds are the year 47,000.
        ("tsv", b"7\t8\t1511544000000000", "timestamp is not Unix time in milliseconds"),
        ("tsv", b"7\t8\t-1511544000000000", "timestamp is not Unix time in milliseconds"),
        # The character that stands between resolved fields split lines without any quote.
        ("tsv", b"7\x1f8\x1f1511544000000", "control character 0x1F"),
        ("tsv", b"7\x1f\xff", "not UTF-8"),
        # One field in quotes was split at the separators within it.
        ("csv", b'"7,buy,2018-01-30 01:05:00,8,test"', "wrong number of fields"),
    ],
)
def test_lines_that_were_once_misread_are_rejected(
    readers: Readers, name: str, line: bytes, reason: str
) -> None:
    form = BY_NAME[name]
    content = b"%s\n%s\n" % (form.first, line)
    assert plain_parser.verdicts(content, form.rules)[-1].reason == reason
    assert readers.differences(form, content) == []


def test_a_character_cut_at_the_end_of_the_file_is_not_dropped(tmp_path: Path) -> None:
    form = BY_NAME["csv"]
    mapping = form.mapping.model_copy(update={"encoding": "gbk"})
    log = Format(form.name, form.source, form.rules, form.make, form.first, mapping=mapping)
    content = form.first + b"\n\xd6"
    (tmp_path / form.file).write_bytes(content)
    assert outcome(log, content, tmp_path) == []


@pytest.mark.parametrize("name", ["ub", "jd-2016", "csv", "given"])
def test_a_whole_preparation_counts_what_the_plain_parser_counts(name: str, tmp_path: Path) -> None:
    form = BY_NAME[name]
    content = mutated_log(form, 800, random.Random(f"prep {name}"))
    path = tmp_path / form.file
    path.write_bytes(content)
    expected = plain_parser.verdicts(content, form.rules)
    used = set(form.asked or form.describe(path).behaviors)
    events = [v.event for v in expected if v.event is not None]
    pairs = {(str(e.user), str(e.item), e.behavior) for e in events if e.behavior in used}
    options = {"mapping": form.mapping} if form.source == "csv" else {}
    out = tmp_path / "dataset"
    counts = prepare(
        PrepOptions(form.source, (str(path),), out, max_rejects=1.0, **options)
    ).manifest["counts"]
    assert counts["rows_read"] == len(expected)
    assert counts["rejected"] == len(expected) - len(events)
    assert counts["kept"] == len(pairs)
    lost = counts["duplicates"] + sum(counts["dropped"].values())
    assert counts["rows_read"] == counts["rejected"] + lost + counts["kept"]
    rejects = pq.read_table(out / REJECTS).select(["line", "reason"]).to_pylist()
    assert {(row["line"], row["reason"]) for row in rejects} == {
        (v.line, v.reason) for v in expected if v.event is None
    }
