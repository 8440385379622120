"""Finding the files that `--input` names: paths, folders, patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from mbrec.errors import DataError

_LOG_SUFFIXES = (".csv", ".tsv", ".txt", ".log", ".dat", ".parquet")
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def find_inputs(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files that `patterns` name, each once.

    A path that exists is taken as it is, even if it holds `*` or `[`; a folder stands for the
    log files in it (not in its subfolders), sorted by name; anything else is a glob pattern.

    Raises:
        DataError: A pattern names nothing, or a folder has no log file.
    """
    if not patterns:
        raise DataError("No input is named.", "Name the log with --input.")
    found: dict[Path, Path] = {}
    for pattern in patterns:
        for path in _expand(pattern):
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def is_log_name(name: str) -> bool:
    """Whether a file of this name looks like a log, packed or not."""
    lower = name.lower()
    for packed in _PACKED:
        lower = lower.removesuffix(packed)
    return lower.endswith(_LOG_SUFFIXES)


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        files = sorted(
            entry
            for entry in path.iterdir()
            if entry.is_file() and is_log_name(entry.name) and not entry.name.startswith(".")
        )
        if not files:
            raise DataError(
                f"The folder {path} holds no log (csv, tsv, txt, parquet, packed or not).",
                "Name the files with --input.",
            )
        return files
    if path.exists():
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise DataError(f"{pattern} does not exist.", "Check the path given with --input.")
    return files
