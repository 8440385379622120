"""Fuzz the readers: mutated lines of every format, each verdict checked by a plain parser.

    python tests/fuzz/run.py --inputs 1000000

A line of a file of many is one input. Exits with 1, and prints the lines, if mbrec and the plain
parser differ on one, or if a file as a whole ends in anything but rows or an error with a message.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from readers import BY_NAME, FORMATS, Format, Readers, mutated_log
from whole_files import outcome, spoiled

LINES = 5000  # per file
FILES_PER_LOG = 25  # files that are mutated as a whole, first line and packing included
SHOWN = 20


def main() -> int:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="mutated lines in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=list(BY_NAME), help="only this one")
    options = parser.parse_args()
    formats = [BY_NAME[options.format]] if options.format else list(FORMATS)
    started, cpu = time.perf_counter(), time.process_time()
    lines, files, failures = fuzz(formats, options.inputs, options.seed)
    seconds, busy = time.perf_counter() - started, time.process_time() - cpu
    for failure in failures[:SHOWN]:
        print(failure)
    print(
        f"{lines:,} mutated lines and {files:,} mutated files of {len(formats)} formats, seed "
        f"{options.seed}: {len(failures)} failures, in {seconds:.0f} s ({busy:.0f} s CPU, "
        f"{lines / busy:,.0f} lines per CPU second)"
    )
    return bool(failures)


def fuzz(formats: list[Format], inputs: int, seed: int) -> tuple[int, int, list[str]]:
    """Mutated lines read, mutated files read, and failures."""
    lines = files = turn = 0
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Readers(Path(folder)) as readers:
        while lines < inputs and len(failures) < SHOWN:
            form = formats[turn % len(formats)]
            rng = random.Random(f"{seed} {form.name} {turn}")
            count = min(LINES, inputs - lines)
            failures += readers.differences(form, mutated_log(form, count, rng))
            for _ in range(FILES_PER_LOG):
                failures += outcome(form, spoiled(form, rng), Path(folder))
            lines, files, turn = lines + count, files + FILES_PER_LOG, turn + 1
            if turn % 20 == 0:
                print(f"{lines:,} lines, {len(failures)} failures", file=sys.stderr)
    return lines, files, failures


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
