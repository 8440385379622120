"""Lists of users that somebody asks for by their raw ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mbrec.columns import USER_ID
from mbrec.errors import RIGHTS, DataError

_HEADER = f"Give a column {USER_ID}, or a .txt file with one id per line."


def read_user_list(path: Path) -> list[int | str]:
    """Read user ids from a file.

    A .csv, .tsv or .parquet file has a column `user_id`; any other file has one id per line
    (empty lines are skipped). All may be compressed with gzip (except .parquet).

    Raises:
        DataError: The file is missing, unreadable, has no such column, or names no user.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            ids = _column(pq.read_table(path), path)
        elif name.endswith((".csv", ".tsv")):
            ids = _column(_read_csv(path, "\t" if name.endswith(".tsv") else ","), path)
        else:
            with pa.input_stream(path) as stream:
                lines = stream.read().decode("utf-8-sig").splitlines()
            ids = [line.strip() for line in lines]
            ids = ids[1:] if ids[:1] == [USER_ID] else ids
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.", "Check the path given to --users.") from error
    except PermissionError as error:
        raise DataError(f"Cannot read users from {path}: {error.strerror}.", RIGHTS) from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"Cannot read users from {path}: {error}.", _HEADER) from error
    ids = [value for value in ids if value not in ("", None)]
    if not ids:
        raise DataError(f"{path} names no user.", _HEADER)
    return ids


def find_users(
    wanted: Sequence[int | str], user_ids: pa.Array
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Where the wanted ids stand in `user_ids`, each once and in the order given.

    Returns:
        Positions of the known ones, and the ids that are not there.
    """
    texts = pa.array(list(dict.fromkeys(str(value) for value in wanted)), pa.string())
    places = pc.index_in(texts, value_set=user_ids.cast(pa.string()))
    unknown: list[str] = texts.filter(pc.is_null(places)).to_pylist()
    return places.drop_null().to_numpy().astype(np.int64), unknown


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    return pacsv.read_csv(
        path,
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
        convert_options=pacsv.ConvertOptions(
            column_types={USER_ID: pa.string()}, strings_can_be_null=False
        ),
    )


def _column(table: pa.Table, path: Path) -> list[int | str]:
    if USER_ID not in table.column_names:
        raise DataError(
            f"{path} has no column {USER_ID}; it has {', '.join(table.column_names)}.", _HEADER
        )
    values: list[int | str] = table[USER_ID].to_pylist()
    return values
