"""How long `mbrec --help` takes, from the start of a process to its end.

    python benchmarks/startup.py

Beside it: the bare interpreter, which nothing in Python can undercut, and `import torch`, which the
help does not need.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from turns import goal, in_turns, machine


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    mbrec = str(Path(sys.executable).with_name("mbrec"))
    commands = {
        "mbrec --help": [mbrec, "--help"],
        "mbrec train --help": [mbrec, "train", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    works = {
        name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    times = in_turns(works, args.turns)
    print(machine())
    times.show("mbrec --help")
    goal("seconds of mbrec --help", times.median("mbrec --help"), 0.4, at_most=True)


if __name__ == "__main__":
    main()
