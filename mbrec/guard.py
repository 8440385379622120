"""What stands between mbrec and the files of a folder that a stranger may have made, or a disk cut.

Hashes find damage; they do not say who made a file. So whatever is read is also checked for its
size before memory is taken for it, and no path is followed out of its folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.errors import ArtefactError
from mbrec.files import read_json
from mbrec.memory import require_memory

SEAL = "seal"
_LARGEST_JSON = 64 << 20  # bytes; what mbrec writes is far smaller
LARGEST = 2**31 - 1  # rows of users or items: their indices are int32
_TEXT = 4  # bytes per row of a column of texts, while it is a dictionary
_COPIES = 2  # a column and what is made of it


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; the folder itself may be a link, what is in it may not leave.

    Raises:
        ArtefactError: `name` is absolute, climbs out by "..", or is a link to somewhere else.
    """
    path = folder / name
    try:
        place = path.resolve()
        within = place.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ArtefactError(
            f"{path} leads nowhere: {error}.", "Put the file itself there."
        ) from error
    if not within:
        raise ArtefactError(
            f"{path} leads out of its folder, to {place}.", "Put the file itself there, no link."
        )
    return path


def read_columns(path: Path, columns: Sequence[str], codes: Sequence[str] = ()) -> pa.Table:
    """Read columns of a Parquet file, after a look at how much memory they take.

    A kilobyte of Parquet can say "a million times the same text" and still be well formed, so
    texts are read as a dictionary, measured, and only then written out.

    Args:
        path: The file.
        columns: What to read.
        codes: Those of them that may stay dictionaries.

    Raises:
        ValueError: A column is missing, or of a type that mbrec does not write.
        OSError, pa.ArrowException: It is no Parquet file, or damaged.
        TrainingError: It does not fit into memory.
    """
    with _opened(path, columns) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        widths = [_width(schema.field(name).type) for name in columns]
        _require(path, rows * sum(widths))
        table = file.read(list(columns))
    if len(table) != rows:
        raise ValueError(f"{len(table)} rows where {rows} are announced")
    for place, name in enumerate(columns):
        if name not in codes and pa.types.is_dictionary(table[name].type):
            table = table.set_column(place, name, _plain(path, table[name]))
    return table


def read_ids(path: Path, column: str) -> pa.Array:
    """The shop's ids in a Parquet file: int64 or string, none empty.

    Raises:
        ValueError: The column is missing, of another type, or has empty cells.
        OSError, pa.ArrowException, TrainingError: See `read_columns`.
    """
    ids = read_columns(path, [column])[column].combine_chunks()
    if isinstance(ids, pa.ChunkedArray):
        ids = pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], ids.type)
    if not pa.types.is_integer(ids.type) and not pa.types.is_string(ids.type):
        raise ValueError(f"{column} is of type {ids.type}, neither whole numbers nor texts")
    if ids.null_count:
        raise ValueError(f"{column} has empty cells")
    return ids


def count_rows(path: Path) -> int:
    """How many rows a Parquet file announces; nothing else of it is read."""
    return int(pq.read_metadata(path).num_rows)


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` and, last, the SHA-256 of it, by which `read_object` sees damage."""
    rest = {key: part for key, part in value.items() if key != SEAL}
    return {**rest, SEAL: _digest(rest)}


def read_object(path: Path, what: str, version: int, remedy: str) -> dict[str, Any]:
    """Read a JSON object with a schema version; compare it with its seal if it has one.

    Args:
        path: The file; releases before the seal wrote none.
        what: Names it in errors.
        version: The schema version that can be read.
        remedy: What to do if it cannot be.

    Raises:
        ArtefactError: It is missing, no JSON object, too large to be one of ours, of another
            version, or was changed after it was written; or it may not be read.
        PermissionError: Its folder may not be entered.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise ArtefactError(f"{what} {path} is damaged: it has {size:,} bytes.", remedy)
        value = read_json(path, what)
    except ArtefactError as error:
        if isinstance(error.__cause__, PermissionError):
            raise  # it is not damaged: a new one would not help
        raise ArtefactError(error.message, remedy) from error
    except PermissionError:
        raise
    except OSError as error:
        raise ArtefactError(f"Cannot read {what} {path}: {error.strerror}.", remedy) from error
    except RecursionError as error:
        raise ArtefactError(f"{what} {path} is damaged: nested too deeply.", remedy) from error
    if "schema_version" not in value:
        raise ArtefactError(f"{what} {path} is damaged: no schema_version.", remedy)
    if value["schema_version"] != version:
        raise ArtefactError(
            f"{path} has schema version {value['schema_version']!r}; this mbrec reads {version}.",
            remedy,
        )
    found = _digest({key: part for key, part in value.items() if key != SEAL})
    if value.get(SEAL, found) != found:
        raise ArtefactError(f"{path} is damaged: it was changed after it was written.", remedy)
    return value


def _opened(path: Path, texts: Sequence[str]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, read_dictionary=list(texts), page_checksum_verification=True)
    except KeyError as error:  # no such column, or one of lists
        raise ValueError(f"it has no plain column {error.args[0]!r}") from error


def _digest(value: Mapping[str, Any]) -> str:
    # What JSON gives back may differ from what went in (tuples, keys that are no strings).
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _plain(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write a dictionary-encoded column out, if there is room for it."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    _require(path, total)
    return column.cast(column.type.value_type)


def _width(kind: pa.DataType) -> int:
    """Bytes per row.

    Raises:
        ValueError: Neither numbers nor texts: nothing that mbrec writes.
    """
    if pa.types.is_dictionary(kind):
        return _TEXT
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"a column is of type {kind}")
    return int(kind.bit_width) // 8


def _require(path: Path, size: int) -> None:
    require_memory(_COPIES * size, f"Reading {path}", "Use a machine with more memory.")
