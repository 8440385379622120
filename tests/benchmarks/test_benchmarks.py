"""If these fail, a claim of docs/performance.md cannot be measured again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ("--users", "60", "--items", "50", "--turns", "1")
LOG = (*TINY, "--events", "3000")
SMALL = ("--events", "3000", "--dense", "0", "--sizes", "4", "--steps", "1", "--ranked", "8")


def run(script: str, arguments: tuple[str, ...], temporary: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_gpu_script_measures_the_cpu_where_there_is_no_gpu(tmp_path: Path) -> None:
    found = run("gpu.py", (*LOG, "--devices", "cpu", "--copy-mib", "4"), tmp_path)
    for figure in ("step ms", "epoch s", "propagation", "evaluation s", "product / copy on cpu"):
        assert figure in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "figure"),
    [
        ("propagation.py", (*TINY, "--edges", "500"), "gather + index_add / mbrec"),
        ("training_step.py", LOG, "step / floor"),
        ("evaluation.py", LOG, "largest difference of a metric from dense + argsort: 0.0e+00"),
        ("ranking.py", (*TINY, "--seen", "5"), "100.0000% of the places"),
        ("scaling.py", (*SMALL, "--models", "bigel"), "peak = "),
        ("startup.py", ("--turns", "1"), "seconds of mbrec --help"),
    ],
)
def test_the_other_scripts_run_and_agree(
    script: str, arguments: tuple[str, ...], figure: str, tmp_path: Path
) -> None:
    assert figure in run(script, arguments, tmp_path)
