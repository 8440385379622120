"""TensorBoard over runs of mbrec: every metrics.jsonl as curves, those of a running training too.

mbrec writes one line of JSON per epoch. This reads the lines of all runs below a folder, writes
them as TensorBoard's event files into a folder of its own (the runs stay untouched), looks for new
lines every few seconds, and serves both folders: a run that has event files already is shown from
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from mbrec.tracking import scalars

METRICS = "metrics.jsonl"
START_SECONDS = 60


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that are finished: a training may be writing the last one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # the run was removed, or begun anew
        return []
    return text[: text.rfind("\n") + 1].splitlines()


class Mirror:
    """Event files that say what the metrics.jsonl of all runs say."""

    def __init__(self, runs: Path, events: Path) -> None:
        self._runs = runs
        self._events = events
        self._written: dict[Path, list[str]] = {}

    def update(self) -> int:
        """Write what is new since the last call; the number of lines written."""
        return sum(self._update(path) for path in sorted(self._runs.rglob(METRICS)))

    def _update(self, path: Path) -> int:
        if any(path.parent.rglob("*tfevents*")):
            return 0
        lines, written = whole_lines(path), self._written.get(path, [])
        folder = self._events / path.parent.relative_to(self._runs)
        if lines[: len(written)] != written:
            # A training that was resumed, or begun anew, takes lines back; event files cannot.
            shutil.rmtree(folder, ignore_errors=True)
            written = []
        new = lines[len(written) :]
        if new:
            _write(folder, [json.loads(line) for line in new], path.stat().st_mtime)
        self._written[path] = lines
        return len(new)


def _write(folder: Path, records: list[dict[str, Any]], end: float) -> None:
    """One more event file; `end` is the time of the last record, in seconds since 1970."""
    from tensorboard.summary import Writer

    writer = Writer(str(folder))
    left = sum(record.get("seconds", 0.0) for record in records)
    for record in records:
        left -= record.get("seconds", 0.0)
        for tag, value in scalars(record):
            writer.add_scalar(tag, value, record["epoch"], wall_time=end - left)
    writer.close()


def serve(runs: Path, host: str, port: int, every: float, *, check: bool) -> int:
    """Run TensorBoard, and the mirror beside it, until it ends; its exit code.

    Args:
        runs: the folder of the runs.
        host: the address to listen on.
        port: the port to listen on.
        every: seconds between two looks at the runs.
        check: end as soon as TensorBoard has shown the curves, and print them.
    """
    with tempfile.TemporaryDirectory() as events:
        mirror = Mirror(runs, Path(events))
        print(f"{mirror.update()} epochs in {runs}; http://{host}:{port}", flush=True)
        folders = f"mbrec:{events},events:{runs}"
        command = ["tensorboard", "--logdir_spec", folders, "--host", host, "--port", str(port)]
        board = subprocess.Popen([*command, "--reload_interval", str(max(1, int(every)))])
        try:
            if check:
                return _check(board, f"http://localhost:{port}/data/plugin/scalars/tags")
            while board.poll() is None:
                time.sleep(every)
                mirror.update()
            return board.returncode
        finally:
            board.terminate()
            board.wait()


def _check(board: subprocess.Popen[bytes], address: str) -> int:
    """Ask TensorBoard for its curves until it shows some; 1 if it does not within a minute."""
    for _ in range(START_SECONDS):
        time.sleep(1)
        if board.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                curves = json.load(answer)
        except OSError:  # not listening yet
            continue
        if curves:
            print("\n".join(f"{run}: {', '.join(tags)}" for run, tags in curves.items()))
            return 0
    print(f"TensorBoard showed nothing at {address}.", file=sys.stderr)
    return 1


def main() -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="TensorBoard over the runs of mbrec.")
    parser.add_argument("--runs", type=Path, default=Path("/runs"), help="the folder of the runs")
    parser.add_argument("--host", default="localhost", help="the address to listen on")
    parser.add_argument("--port", type=int, default=6006)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks")
    parser.add_argument("--check", action="store_true", help="print the curves shown, and end")
    given = parser.parse_args()
    return serve(given.runs, given.host, given.port, given.every, check=given.check)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
