"""Any CSV, TSV or Parquet log, whose columns and behavior names a `Mapping` tells."""

from __future__ import annotations

import codecs
import csv
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLIT, TIMESTAMP, USER_ID
from mbrec.data_prep.clock import Clock, parse_zone
from mbrec.data_prep.layout import Column, Layout, Log
from mbrec.data_prep.lines import first_line, split_quoted
from mbrec.errors import RIGHTS, DataError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DELIMITERS = ("\t", ",", ";", "|")


class Mapping(BaseModel):
    """How the columns of a log are called and what they hold; the keys of a mapping file.

    A column is a name in the header or, with ``header = false``, a position counted from 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    user: str | int = USER_ID
    """Column of the user's id."""
    item: str | int = ITEM_ID
    """Column of the item's id."""
    behavior: str | int | None = None
    """Column of the behavior; None: ``behavior`` if there is one, else all rows are of one."""
    time: str | int | None = None
    """Column of the time; None: ``timestamp`` if there is one."""
    split: str | int | None = None
    """Column that says train, valid or test, for the split ``given``."""
    time_format: str = "s"
    """s, ms (Unix time), iso, or a strptime format."""
    tz: str = "UTC"
    """Time zone of times that do not name theirs: an IANA name or an offset."""
    delimiter: str | None = None
    """None: the first of tab, comma, semicolon and bar that stands in the first line."""
    header: bool = True
    encoding: str = "utf-8"
    behaviors: list[str] | None = None
    """The cascade, target last."""
    map: dict[str, str] = Field(default_factory=dict)
    """The log's name of a behavior → ours; an empty name drops the rows without complaint."""


def load_mapping(path: Path) -> Mapping:
    """Read a mapping from a TOML file.

    Raises:
        UsageError: The file cannot be read, or has an unknown key or a wrong value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = RIGHTS if isinstance(error, PermissionError) else "Check --mapping."
        raise UsageError(f"Cannot read {path}: {error.strerror}.", remedy) from error
    except ValueError as error:
        raise UsageError(f"{path} is no TOML file: {error}.") from error
    return make_mapping(values, str(path))


def make_mapping(values: dict[str, Any], place: str = "The mapping") -> Mapping:
    """Check the keys and values of a mapping; `place` names it in errors.

    Raises:
        UsageError: A key is unknown (with a suggestion), or a value is of the wrong kind.
    """
    for key in values:
        if key not in Mapping.model_fields:
            close = difflib.get_close_matches(key, Mapping.model_fields, 1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            keys = ", ".join(Mapping.model_fields)
            raise UsageError(
                f"{place} has an unknown key {key!r}.", f"{hint} Keys: {keys}.".strip()
            )
    try:
        mapping = Mapping(**values)
        codecs.lookup(mapping.encoding)
        parse_zone(mapping.tz)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{place}: {key} = {first['input']!r}: {first['msg']}.") from error
    except LookupError as error:
        raise UsageError(f"{place}: there is no encoding {values['encoding']!r}.") from error
    return mapping


def describe(paths: Sequence[Path], mapping: Mapping, asked: Sequence[str] | None) -> Log:
    """Describe the files of any log.

    Args:
        paths: Text or Parquet files; each may have its own order of columns.
        mapping: What the columns are called and hold.
        asked: The cascade the caller named, if any.

    Raises:
        DataError: A file is empty, or lacks a column.
        UsageError: The behaviors cannot be told.
    """
    cascade = tuple(asked or mapping.behaviors or dict.fromkeys(filter(None, mapping.map.values())))
    if not cascade:
        raise UsageError(
            "The behaviors of this log are not named.",
            "Name them in cascade order, target last, with --behaviors, or map them with --map.",
        )
    # A name stands for itself unless it is mapped to another one.
    codes = {name: name for name in cascade} | mapping.map
    layouts = tuple(_layout(path, mapping, codes, cascade) for path in paths)
    known = dict.fromkeys([*cascade, *filter(None, codes.values())])
    return Log(layouts, cascade, mapping.tz, known=tuple(known))


def _layout(path: Path, mapping: Mapping, codes: dict[str, str], cascade: Sequence[str]) -> Layout:
    parquet = _is_parquet(path)
    head = "" if parquet else first_line(path, mapping.encoding)
    delimiter = mapping.delimiter or next((d for d in _DELIMITERS if d in head), ",")
    columns = _parquet_columns(path) if parquet else _text_columns(path, head, delimiter)
    header = parquet or mapping.header

    def find(name: str | int | None, standard: str | None, option: str) -> Column | None:
        """The column meant by `name`, or the standard one if it is there."""
        wanted = standard if name is None else name
        if name is None and (wanted not in columns or not header):
            return None
        position = _position(path, columns, wanted, option, header=header)
        return columns[position] if parquet else position

    user, item = find(mapping.user, None, "user"), find(mapping.item, None, "item")
    assert user is not None and item is not None
    behavior = find(mapping.behavior, BEHAVIOR, "behavior")
    time = find(mapping.time, TIMESTAMP, "time")
    if behavior is None and len(cascade) != 1:
        raise UsageError(
            f"{path} has no column for the behavior, but {len(cascade)} are named.",
            "Name the column with --behavior-col, or one behavior for all rows with --behaviors.",
        )
    return Layout(
        path,
        user=user,
        item=item,
        behavior=behavior,
        time=time,
        split=find(mapping.split, SPLIT if mapping.split else None, "split"),
        clock=None if time is None else _clock(path, mapping, time, parquet=parquet),
        codes=codes,
        fixed_behavior="" if behavior is not None else cascade[0],
        width=len(columns),
        separator=delimiter,
        header=header,
        quoted=True,
        encoding=mapping.encoding,
        parquet=parquet,
    )


def _position(
    path: Path, columns: list[str], wanted: str | int | None, option: str, *, header: bool
) -> int:
    if header:
        if wanted in columns:
            return columns.index(str(wanted))
        close = difflib.get_close_matches(str(wanted), columns, 1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise DataError(
            f"{path} has no column {wanted!r}; it has {', '.join(columns)}.",
            f"{hint}Name it with --{option}-col, or use --no-header.",
        )
    if not str(wanted).isdecimal() or not 1 <= int(str(wanted)) <= len(columns):
        raise UsageError(
            f"Without a header, the column {wanted!r} has to be a number from 1 to {len(columns)}.",
            f"Give the position of the column with --{option}-col.",
        )
    return int(str(wanted)) - 1


def _clock(path: Path, mapping: Mapping, time: Column, *, parquet: bool) -> Clock:
    """The mapping's clock, unless a Parquet column is a time already."""
    if parquet:
        kind = pq.read_schema(path).field(str(time)).type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            aware = pa.types.is_timestamp(kind) and kind.tz is not None
            return Clock("iso", "UTC" if aware else mapping.tz)
    return Clock(mapping.time_format, mapping.tz)


def _text_columns(path: Path, head: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in split_quoted(head, delimiter, strict=False)]
    except (csv.Error, TypeError) as error:
        raise UsageError(
            f"{path} cannot be split at {delimiter!r}: {error}.", "Give one --delimiter."
        ) from error


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _parquet_columns(path: Path) -> list[str]:
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}.", "Write it again.") from error
