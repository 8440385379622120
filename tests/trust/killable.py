"""Trains in forks of a process that has loaded everything, so that a kill costs no new start.

Reads one job a line (JSON), answers with the process id of its fork, then with how that ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

import mbrec.export
from mbrec.backend import dgl
from mbrec.config import from_dict
from mbrec.training import train_run

WRITING = ("fsync", "replace", "unlink")


def die_at(number: int) -> list[int]:
    """End this process, as `kill -9` does, before the number-th call that changes a file for good.

    Returns:
        A list with one number, of the calls so far.
    """
    calls = [0]

    def watched(name: str) -> Any:
        original = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in WRITING:
        setattr(os, name, watched(name))
    return calls


def work(job: dict[str, Any]) -> None:
    torch.set_num_threads(job.get("threads", 1))
    calls = die_at(job.get("die_at", 0))
    train_run(job["data"], job["out"], from_dict(job["settings"]), resume=job["resume"])
    if "count_in" in job:
        Path(job["count_in"]).write_text(str(calls[0]))


def main() -> None:
    dgl()
    assert mbrec.export
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                work(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    main()
