"""Every text format of `mbrec prep`, read by mbrec and by the plain parser, verdict by verdict."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import mutations
import plain_parser
from mutations import Make
from plain_parser import Event, Rules

from mbrec.columns import SPLITS
from mbrec.data_prep import sources
from mbrec.data_prep.cascade import Cascade
from mbrec.data_prep.layout import Layout, Log
from mbrec.data_prep.lines import LineReader
from mbrec.data_prep.parsing import Parser, schema_of, widened
from mbrec.data_prep.sources.csv import Mapping


@dataclass(frozen=True)
class Format:
    """A format: how mbrec is told of it, and what its lines mean."""

    name: str
    source: str
    rules: Rules
    make: Make
    first: bytes
    """The first line, which stays sound: a format is told by it."""
    file: str = "log.csv"
    mapping: Mapping = field(default_factory=Mapping)
    asked: tuple[str, ...] | None = None

    def describe(self, path: Path) -> Log:
        """What mbrec makes of the file's first line."""
        return sources.describe(self.source, [path], self.mapping, self.asked)


def _jd(year: int, codes: dict[str, str], width: int) -> Rules:
    return Rules(
        width=width,
        code=4,
        time=2,
        codes=codes,
        seconds=plain_parser.iso(8),
        malformed="timestamp is not of the form ISO",
        header=True,
        numbers=True,
        fallback="gb18030",
    )


_JD_2019 = {"1": "click", "2": "purchase", "3": "favorite", "4": "comment", "5": "cart"}
_JD_2016 = {"1": "click", "2": "cart", "3": "", "4": "purchase", "5": "favorite", "6": "click"}

FORMATS = (
    Format(
        "ub",
        "ub",
        Rules(
            width=5,
            code=3,
            time=4,
            codes={"pv": "click", "fav": "favorite", "cart": "cart", "buy": "purchase"},
            seconds=plain_parser.unix_seconds,
            malformed="timestamp is not Unix time in seconds",
            numbers=True,
            cut=lambda line: len(line.rsplit(",", 1)[-1]) < 10,
        ),
        mutations.ub_line,
        b"1,10,7,pv,1511544000",
    ),
    Format(
        "jd-2019",
        "jd",
        _jd(2019, _JD_2019, 5),
        mutations.jd_2019_line,
        b"user_id,sku_id,action_time,module_id,type",
    ),
    Format(
        "jd-2016",
        "jd",
        _jd(2016, _JD_2016, 7),
        mutations.jd_2016_line,
        b"user_id,sku_id,time,model_id,type,cate,brand",
    ),
    Format(
        "csv",
        "csv",
        Rules(
            width=5,
            user=0,
            code=1,
            time=2,
            item=3,
            split=4,
            codes={"view": "view", "buy": "buy", "cart": "cart", "wish": ""},
            seconds=plain_parser.iso(0),
            malformed="timestamp is not of the form ISO",
            header=True,
            quoted=True,
        ),
        mutations.csv_line,
        b"who,what,when,which,part",
        mapping=Mapping(
            user="who",
            item="which",
            behavior="what",
            time="when",
            split="part",
            time_format="iso",
            behaviors=["view", "cart", "buy"],
            map={"wish": ""},
        ),
    ),
    Format(
        "tsv",
        "csv",
        Rules(
            width=3,
            time=2,
            behavior="buy",
            seconds=plain_parser.unix_milliseconds,
            malformed="timestamp is not Unix time in milliseconds",
            separator="\t",
            quoted=True,
        ),
        mutations.tsv_line,
        b"1\t10\t1511544000000",
        mapping=Mapping(user=1, item=2, time=3, header=False, time_format="ms", behaviors=["buy"]),
    ),
    Format(
        "given",
        "given",
        Rules(width=2, behavior="purchase", part="train", blanks=True),
        mutations.given_line,
        b"1 10",
        file="purchase.train.txt",
    ),
)
BY_NAME = {form.name: form for form in FORMATS}


class Readers:
    """mbrec's readers. Use as a context manager.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    def differences(self, form: Format, content: bytes) -> list[str]:
        """Where mbrec's verdicts on the lines of a file are not those of the plain parser."""
        path = self._folder / form.file
        path.write_bytes(content)
        log = form.describe(path)
        rows, bad, good = self._read(log.layouts[0], log, form)
        expected = plain_parser.verdicts(content, form.rules)
        lines = [b"", *content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
        found = []
        if rows != len(expected):
            found.append(f"{form.name}: {rows} rows read of {len(expected)}")
        wanted = {v.line: v.reason for v in expected if v.reason is not None}
        for line in sorted(wanted.keys() | bad.keys()):
            if wanted.get(line) != bad.get(line):
                pair = f"{bad.get(line) or 'sound'}, not {wanted.get(line) or 'sound'}"
                found.append(f"{form.name}: {lines[line]!r} is {pair}")
        events = Counter(v.event for v in expected if v.event is not None)
        for event in (events - good) | (good - events):
            whose = "only the plain parser" if events[event] > good[event] else "only mbrec"
            places = [lines[v.line] for v in expected if v.event == event][:1]
            found.append(f"{form.name}: {whose} reads {event} {places}")
        return found

    def _read(
        self, layout: Layout, log: Log, form: Format
    ) -> tuple[int, dict[int, str], Counter[Event]]:
        """Rows read, line → reason of the malformed, and the sound ones."""
        cascade = Cascade.choose(log, form.asked, explicit=False)
        reader = LineReader(layout)
        for _ in reader.blocks():
            pass
        with Parser(layout, cascade.names, 0, threads=1) as parser:
            tables = [widened(table, schema_of([layout])) for table in parser.tables()]
        rows = [row for table in tables for row in table.to_pylist()]
        names = (*cascade.names, "")
        bad = {row["line"]: row["reason"] for row in rows if row["reason"] is not None}
        good = Counter(
            Event(
                row["user_id"],
                row["item_id"],
                names[row["behavior"]],
                row["timestamp"],
                SPLITS[row["split"]],
            )
            for row in rows
            if row["reason"] is None
        )
        if reader.rows != len(rows):
            raise AssertionError(f"{reader.rows} lines were given, {len(rows)} rows came out")
        return len(rows), bad, good


def mutated_log(form: Format, lines: int, rng: random.Random) -> bytes:
    """A sound first line and `lines` mutated ones; the ends of lines vary too."""
    made = [mutations.mutated(form.make(rng), rng) for _ in range(lines)]
    return joined(form, made, rng)


def joined(form: Format, lines: Sequence[bytes], rng: random.Random) -> bytes:
    """A file of a sound first line and these lines."""
    ends = rng.choices((b"\n", b"\r\n"), (9, 1), k=len(lines) + 1)
    content = b"".join(line + end for line, end in zip([form.first, *lines], ends, strict=True))
    if rng.random() < 0.5:
        content = content.removesuffix(b"\n")
    return (b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + content
