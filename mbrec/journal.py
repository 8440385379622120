"""metrics.jsonl: one line per epoch, with what the health watch has to say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec.files import write_text
from mbrec.health import HealthWatch
from mbrec.trainer import Observer


class Journal:
    """Writes metrics.jsonl, and passes everything on.

    The file is written whole for every epoch, so that neither reader nor crash meets half a line.

    Args:
        path: The file.
        health: Looks at every epoch.
        observer: Is told what is written.
    """

    def __init__(self, path: Path, health: HealthWatch, observer: Observer) -> None:
        self._path = path
        self._health = health
        self._observer = observer
        self._lines: list[str] = []
        self._written: Mapping[str, Any] = {}
        self.step = observer.step

    def start(self, epoch: int) -> None:
        """Begin after `epoch`: the lines of epochs that are trained again are dropped."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._lines = [line for line in lines if _epoch_of(line) <= epoch]
        if self._lines != lines:
            self._write()
        self._health.start(json.loads(line) for line in self._lines)

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line for an epoch that is not saved yet.

        Were it the other way round, a process killed in between would never write the line.
        """
        findings = self._health.look(record)
        self._written = {**record, "health": findings} if findings else record
        self._append(self._written)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Pass on what was noted."""
        self._observer.epoch(self._written)

    def failed(self, epoch: int, message: str) -> None:
        """Note that an epoch ended the training."""
        finding = {"finding": "training stopped", "behavior": "", "message": message}
        self._append({"epoch": epoch, "health": [finding]})

    def _append(self, record: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(record))
        self._write()

    def _write(self) -> None:
        write_text(self._path, "".join(f"{line}\n" for line in self._lines))


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut when the process died
