"""Fuzz the readers by coverage, with atheris (``pip install 'mbrec[fuzz]'``).

    python tests/fuzz/coverage_guided.py --format csv -runs=100000

What follows the format goes to libFuzzer. One input is a whole file: it is described and cut into
lines, as by `whole_files.outcome`. The verdicts on lines are those of an engine that is not written
in Python, in which atheris sees nothing: `run.py` checks them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mbrec.data_prep"]):
    from readers import BY_NAME
    from whole_files import outcome


def main() -> None:
    """Parse the options, and hand over to libFuzzer, which ends the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--format", choices=list(BY_NAME), default="csv")
    options, rest = parser.parse_known_args()
    form, folder = BY_NAME[options.format], Path(tempfile.mkdtemp(prefix="mbrec-fuzz-"))

    def one(content: bytes) -> None:
        failures = outcome(form, content, folder)
        if failures:
            raise AssertionError(failures[0])

    seeds = folder / "seeds"
    seeds.mkdir()
    (seeds / "sound").write_bytes(form.first + b"\n" + form.first + b"\n")
    atheris.Setup([sys.argv[0], *rest, str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
