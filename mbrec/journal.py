"""metrics.jsonl: one line per epoch, with what the health watch has to say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec.files import atomic_path
from mbrec.health import HealthWatch
from mbrec.trainer import Observer


class Journal:
    """Writes metrics.jsonl, and passes everything on.

    Args:
        path: The file.
        health: Looks at every epoch.
        observer: Is told what is written.
    """

    def __init__(self, path: Path, health: HealthWatch, observer: Observer) -> None:
        self._path = path
        self._health = health
        self._observer = observer
        self.step = observer.step

    def start(self, epoch: int) -> None:
        """Begin after `epoch`: the lines of epochs that are trained again are dropped."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _epoch_of(line) <= epoch]
        if lines:
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._health.start(json.loads(line) for line in kept)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append a line, then pass it on."""
        findings = self._health.look(record)
        if findings:
            record = {**record, "health": findings}
        self._append(record)
        self._observer.epoch(record)

    def failed(self, epoch: int, message: str) -> None:
        """Note that an epoch ended the training."""
        finding = {"finding": "training stopped", "behavior": "", "message": message}
        self._append({"epoch": epoch, "health": [finding]})

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut when the process died
