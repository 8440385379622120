"""The raw formats that mbrec reads: one file per format.

A source looks at the first line of every file and says, as a `Layout`, where the fields stand.
Reading and cleaning are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbrec.data_prep.layout import Log
from mbrec.data_prep.sources import csv, given, jd, ub

SOURCES = ("ub", "jd", "csv", "given")


def describe(
    source: str, paths: Sequence[Path], mapping: csv.Mapping, asked: Sequence[str] | None
) -> Log:
    """Describe the files of `source`, one of `SOURCES`.

    Args:
        source: Name of the format.
        paths: The files.
        mapping: Columns of the source csv; the others have none to tell.
        asked: The cascade the caller named, if any.

    Raises:
        DataError: The files are not of that format.
        UsageError: What is asked for cannot be told from them.
    """
    if source == "ub":
        return ub.describe(paths)
    if source == "jd":
        return jd.describe(paths)
    if source == "csv":
        return csv.describe(paths, mapping, asked)
    return given.describe(paths, asked)
