"""The folder of a bench.

    bench.json        that it is one, and what was asked for last
    cells/<key>.json  one finished or failed run: what it was and what was measured
    users/<key>.parquet   its metrics per user, on the rows of the tables
    runs/<key>/       the run itself, while it trains (or for good, with `--keep-runs`)
    results.parquet, table.md, table.csv

A cell's file is written when everything else of the cell is there, so what is in `cells` is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbrec import config as configuration
from mbrec import metrics
from mbrec.bench.plan import Cell
from mbrec.errors import ArtefactError
from mbrec.files import read_json, refuse_existing, write_json
from mbrec.locks import locked

MARKER = "bench.json"
SCHEMA_VERSION = 1

Record = Mapping[str, Any]


class Store:
    """Reads and writes a bench's folder.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record | None] = {}

    @property
    def results(self) -> Path:
        """The tidy table of all runs."""
        return self.path / "results.parquet"

    def run(self, cell: Cell) -> Path:
        """Where a cell's run is while it is needed."""
        return self.path / "runs" / cell.key

    def users(self, key: str) -> Path:
        """Where the values per user of a run are."""
        return self.path / "users" / f"{key}.parquet"

    @contextmanager
    def opened(self, description: Mapping[str, Any]) -> Iterator[None]:
        """Make or check the folder, and keep every other bench out of it.

        Args:
            description: What is asked for, for `bench.json`.

        Raises:
            UsageError: The folder holds other things.
            BusyError: Another bench is at work in it.
            ArtefactError: It was written by another version.
        """
        if (self.path / MARKER).is_file():
            found = read_json(self.path / MARKER, "bench").get("schema_version")
            if found != SCHEMA_VERSION:
                raise ArtefactError(
                    f"{self.path} has schema version {found}; this mbrec reads {SCHEMA_VERSION}.",
                    "Choose another folder.",
                )
        else:
            refuse_existing(self.path, force=True, marker=MARKER)
        for folder in ("cells", "users", "runs"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            write_json(self.path / MARKER, {"schema_version": SCHEMA_VERSION, **description})
            yield

    def record(self, cell: Cell) -> Record | None:
        """What a finished or failed cell left; None if it has to be run."""
        key = cell.key
        if key not in self._records:
            self._records[key] = self._read(cell)
        found = self._records[key]
        return found if found is not None and _serves(found, cell) else None

    def write(self, cell: Cell, record: Record) -> None:
        """Mark a cell as done."""
        write_json(self._cell(cell.key), record)
        self._records[cell.key] = record

    def forget(self, cell: Cell) -> None:
        """Read a cell's file anew: another process has written it."""
        self._records.pop(cell.key, None)

    def _cell(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.json"

    def _read(self, cell: Cell) -> Record | None:
        path = self._cell(cell.key)
        if not path.is_file():
            return None
        try:
            return read_json(path, "cell")
        except ArtefactError:
            return None  # it is run again, which mends it


def _serves(record: Record, cell: Cell) -> bool:
    """Whether a record answers for a cell.

    The key says that the same was asked for. Here: every setting of then has the same value now,
    though a default may have changed. A setting that did not exist then does not matter, since the
    cell leaves it at its default, which keeps what was.
    """
    then, now = record.get("settings"), configuration.flat(cell.settings.to_dict())
    if not isinstance(then, dict) or any(now.get(name, now) != then[name] for name in then):
        return False
    if record.get("status") == "failed":
        return True
    measured = record.get("measured", {})
    wanted = {*cell.metrics, *metrics.names(cell.ks)}
    return all(wanted <= set(measured.get(split, {}).get("macro", {})) for split in cell.splits)
