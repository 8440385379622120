"""Text files of any packing and encoding, as numbered lines in Arrow batches.

Reading lines instead of fields keeps every row's own line number and text, which the engines'
CSV readers lose for just those rows that are worth reporting. A block is cut into lines by numpy
without touching single lines; only blocks with something odd in them take the slow path.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mbrec.data_prep.layout import Layout
from mbrec.errors import RIGHTS, DataError

SCHEMA = pa.schema([("line", pa.int64()), ("text", pa.string()), ("flaw", pa.string())])
FIELD_SEPARATOR = "\x1f"
"""Stands between the fields of a line that had quotes, which are resolved here."""

_BLANKS = r" \t\n\r\v\f"  # those that are cut off fields without quotes, too
_BLANK_AT_QUOTE = re.compile(rf'"[{_BLANKS}]|[{_BLANKS}]"')
_BLOCK = 8 << 20
_MAX_LINE = 16 << 20
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)


def first_line(path: Path, encoding: str = "utf-8") -> str:
    """The first line of a text file, without its line end or byte order mark.

    Raises:
        DataError: The file is empty, unreadable, or no text.
    """
    block = next(_blocks(path, encoding, 1 << 16), b"")
    if not block:
        raise DataError(f"{path} is empty.", "Check that the log was written or downloaded whole.")
    return block.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", errors="replace")


def split_quoted(line: str, separator: str, *, strict: bool = True) -> list[str]:
    """The fields of a line in which some stand in double quotes, with their quotes resolved.

    A quote begins a quoted field if only blanks are before it in the field; anywhere else it is a
    character like any other. Blanks around a quoted field are not part of it.

    Raises:
        csv.Error: A quote is not closed, or something but blanks follows it, unless not `strict`.
    """
    if _BLANK_AT_QUOTE.search(line):  # seldom, and three times slower
        line = _blanks_around_quotes(separator).sub(r"\1\2", line)
    return next(csv.reader([line], delimiter=separator, strict=strict), [])


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, each ended by a line feed."""

    first: int
    """Number of the first line; 1 is the first of the file."""
    data: bytes
    unended: bool = False
    """The file does not end its last line, which is the last of these."""

    @cached_property
    def rows(self) -> int:
        """How many lines these are."""
        return self.data.count(b"\n")

    def pieces(self, size: int) -> Iterator[Block]:
        """The same lines in blocks of about `size` bytes."""
        start, line = 0, self.first
        while start < len(self.data):
            stop = self.data.find(b"\n", min(start + size, len(self.data)) - 1) + 1
            data = self.data[start:stop]
            piece = Block(line, data, self.unended and stop == len(self.data))
            yield piece
            start, line = stop, line + piece.rows


class LineReader:
    """Reads the lines of one file.

    Args:
        layout: The file and how to read it.
        tell: Called after every block with the path and the rows so far.

    Attributes:
        rows: Lines given so far, the header not counted.
    """

    def __init__(self, layout: Layout, tell: Callable[[Path, int], None] | None = None) -> None:
        self.layout = layout
        self.rows = 0
        self._line = 1
        self._tell = tell

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the file's lines as batches of `SCHEMA`; see `blocks` and `batch_of`."""
        for block in self.blocks():
            yield batch_of(block, self.layout)

    def blocks(self) -> Iterator[Block]:
        """Give the file's lines, without the header, in blocks of about 8 MiB.

        Raises:
            DataError: The file is damaged, or a line is longer than 16 MiB.
        """
        rest = b""
        for block in _blocks(self.layout.path, self.layout.encoding, _BLOCK):
            cut = block.rfind(b"\n") + 1
            if cut:
                yield from self._block(rest + block[:cut])
                rest = block[cut:]
            else:
                rest += block
            if len(rest) > _MAX_LINE:
                raise DataError(
                    f"{self.layout.path} line {self._line} is longer than {_MAX_LINE >> 20} MiB.",
                    "This is no log with one event per line.",
                )
        if rest:
            yield from self._block(rest + b"\n", unended=True)

    def _block(self, data: bytes, *, unended: bool = False) -> Iterator[Block]:
        """Make a block of whole lines, unless there is nothing but the header in it."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if self.layout.header and self._line == 1:
            data = data[data.index(b"\n") + 1 :]
            self._line += 1
        if not data:
            return
        block = Block(self._line, data, unended)
        yield block
        self._line += block.rows
        self.rows += block.rows
        if self._tell:
            self._tell(self.layout.path, self.rows)


def batch_of(block: Block, layout: Layout) -> pa.RecordBatch:
    """The lines of a block as a batch of `SCHEMA`: line (1 is first), text, flaw.

    `flaw` says what is wrong with the line as text (null: nothing).
    """
    data, flaws = block.data, dict[int, str]()
    if b"\0" in data or not _is_utf8(data):
        data, flaws = _clean(data, layout.fallback)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    count = len(ends)
    offsets = np.zeros(count + 1, dtype=np.int32)
    offsets[1:] = ends - np.arange(count)  # the line feeds themselves are taken out
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data.translate(None, b"\n"))]
    text = pa.Array.from_buffers(pa.string(), count, buffers)
    if layout.quoted:
        if FIELD_SEPARATOR.encode() in data:
            flaws = _with_separator(text) | flaws
        if b'"' in data:
            text = _unquote(text, layout.separator, flaws)
    if block.unended and layout.complete and not layout.complete(text[count - 1].as_py()):
        flaws.setdefault(count - 1, "last line is cut")
    lines = pa.array(np.arange(block.first, block.first + count))
    return pa.record_batch([lines, text, _flaw_column(flaws, count)], schema=SCHEMA)


def _blocks(path: Path, encoding: str, size: int) -> Iterator[bytes]:
    """The unpacked content of a file as UTF-8 (or what should be), without byte order mark."""
    decoder = None
    if codecs.lookup(encoding).name != "utf-8":
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    try:
        with _unpacked(path) as stream:
            block = stream.read(size)
            if decoder is None:
                if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{path} is UTF-16.", "Convert it to UTF-8 first.")
                block = block.removeprefix(codecs.BOM_UTF8)
            while block:
                yield block if decoder is None else decoder.decode(block).encode()
                block = stream.read(size)
            if decoder is not None:
                yield decoder.decode(b"", final=True).encode()  # of a character that is cut
    except _DAMAGED as error:
        raise _broken(path, str(error)) from error
    except OSError as error:
        if error.strerror:
            remedy = RIGHTS if isinstance(error, PermissionError) else ""
            raise DataError(f"Cannot read {path}: {error.strerror}.", remedy) from error
        raise _broken(path, str(error)) from error


def _unpacked(path: Path) -> IO[bytes]:
    """Open a file, unpacked by what its first bytes say, since names lie."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    opener: Any
    if magic.startswith(b"\x1f\x8b"):
        opener = gzip.open
    elif magic.startswith(b"BZh"):
        opener = bz2.open
    elif magic.startswith(b"\xfd7zXZ\x00"):
        opener = lzma.open
    elif magic.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    elif magic.startswith(b"PK\x03\x04"):
        return _only_member(path)
    elif magic.startswith(b"PAR1"):
        raise DataError(f"{path} is a Parquet file.", "Read it with --source csv or given.")
    else:
        opener = open
    unpacked: IO[bytes] = opener(path, "rb")
    return unpacked


def _only_member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if len(names) != 1:
        raise DataError(f"{path} holds {len(names)} files.", "Unpack it, and name the log itself.")
    return archive.open(names[0])


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _clean(data: bytes, fallback: str | None) -> tuple[bytes, dict[int, str]]:
    """Make valid UTF-8 of lines that are none; note which could not be read."""
    flaws: dict[int, str] = {}
    lines = data[:-1].split(b"\n")
    for number, line in enumerate(lines):
        if b"\0" in line:
            flaws[number] = "NUL byte"
            line = line.replace(b"\0", b"\\0")
        if not _is_utf8(line):
            if fallback is None:
                flaws.setdefault(number, "not UTF-8")
            line = line.decode(fallback or "utf-8", errors="replace").encode()
        lines[number] = line
    return b"\n".join(lines) + b"\n", flaws


def _with_separator(text: pa.Array) -> dict[int, str]:
    """The lines that hold what stands between resolved fields: they would be split there."""
    found = np.flatnonzero(pc.match_substring(text, FIELD_SEPARATOR))
    return dict.fromkeys(found.tolist(), "control character 0x1F")


def _unquote(text: pa.Array, separator: str, flaws: dict[int, str]) -> pa.Array:
    """Resolve the quotes of those lines that have some."""
    quoted = pc.match_substring(text, '"')
    resolved: list[str] = []
    for number in np.flatnonzero(quoted.to_numpy(zero_copy_only=False)):
        line = text[int(number)].as_py()
        try:
            fields = split_quoted(line, separator)
            if len(fields) == 1 and separator in fields[0]:
                # It would be split there, for want of a `FIELD_SEPARATOR`.
                flaws.setdefault(int(number), "wrong number of fields")
            resolved.append(FIELD_SEPARATOR.join(fields))
        except csv.Error:
            flaws.setdefault(int(number), "unbalanced quote (a quoted field may not span lines)")
            resolved.append(line)
    return pc.replace_with_mask(text, quoted, pa.array(resolved, pa.string()))


@cache
def _blanks_around_quotes(separator: str) -> re.Pattern[str]:
    """Finds a field that begins with a quote, and the blanks before it and after it.

    Group 1 is the separator before it, group 2 the field itself, if it is closed. `csv` takes a
    quote for one only right after the separator, and lets nothing but the separator follow the
    closing one. A field that is not closed loses the blanks before it, too, so that `csv` rejects
    it instead of making the quote part of an id.
    """
    end = re.escape(separator)
    blank = f"(?:(?!{end})[{_BLANKS}])*"
    quoted = r'"[^"]*(?:""[^"]*)*"'
    return re.compile(rf'(\A|{end}){blank}(?:({quoted}){blank}(?={end}|\Z)|(?="))')


def _flaw_column(flaws: dict[int, str], count: int) -> pa.Array:
    if not flaws:
        return pa.nulls(count, pa.string())
    return pa.array([flaws.get(number) for number in range(count)], pa.string())


def _broken(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged or cut short ({why}).", "Download or pack it again.")
