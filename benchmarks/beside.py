"""RecBole in an environment and a process of its own, beside ours.

python -m venv rb
rb/bin/pip install torch==2.13.0
rb/bin/pip install torch==2.13.0 recbole==1.2.1 "numpy<1.27" scipy==1.10.1 ray==2.6.3
rb/bin/pip install "setuptools<70"   # last, as torch asks for a newer one
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mbrec.graph import Pairs

DRIVER = Path(__file__).with_name("recbole_driver.py")


class RecBole:
    """Orders to `recbole_driver.py`, and its answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, **order: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        print(json.dumps(order), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            raise SystemExit("RecBole's process has ended; what it said is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def recbole(python: str, folder: Path) -> Iterator[RecBole]:
    """Start RecBole with this Python; it writes its logs into `folder`."""
    command = [python, str(DRIVER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        try:
            yield RecBole(process)
        finally:
            process.kill()


def write_pairs(folder: Path, train: Pairs, held_out: Pairs, users: int, items: int) -> Path:
    """Write RecBole's files: what is trained on and excluded, what is ranked, and all ids.

    The third file is there for the ids alone, so that RecBole knows as many users and items as we.
    """
    folder.mkdir()
    size = max(users, items)
    every = Pairs(np.arange(size) % users, np.arange(size) % items)
    for name, pairs in (("train", train), ("valid", held_out), ("test", every)):
        with (folder / f"{folder.name}.{name}.inter").open("w", encoding="utf-8") as file:
            file.write("user_id:token\titem_id:token\n")
            rows = np.column_stack([pairs.user_idx, pairs.item_idx])
            np.savetxt(file, rows, fmt="%d", delimiter="\t")
    return folder
