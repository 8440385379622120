"""The one door to DGL: genuine if it opens, patched where it must be, one clear error if it cannot.

Each case runs in a process of its own, with a DGL made for it: an import happens only once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = """
from mbrec.backend import dgl, shimmed_modules
from mbrec.errors import DeviceError
try:
    print(dgl().__version__, *shimmed_modules())
except DeviceError as error:
    print(f"DeviceError: {error}")
"""


def run(script: str, *paths: Path, home: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment.pop("DGLBACKEND", None)
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def fake_dgl(place: Path, main: str, graphbolt: str = "") -> Path:
    package = place / "dgl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"{main}\n__version__ = 'fake'\n")
    (package / "graphbolt.py").write_text(f"{graphbolt}\n")
    return place


def test_a_dgl_that_imports_is_left_alone(tmp_path: Path) -> None:
    place = fake_dgl(tmp_path, "from . import graphbolt", "genuine = True")
    assert run(IMPORT, place) == "fake"
    assert run(IMPORT + "print(dgl().graphbolt.genuine)", place) == "fake\nTrue"


@pytest.mark.parametrize(
    "failure",
    [
        "import torchdata_gone.datapipes",
        "raise FileNotFoundError('Cannot find DGL C++ graphbolt library')",
        "raise OSError('undefined symbol')",
    ],
)
def test_only_the_part_that_fails_and_is_not_needed_is_replaced(
    tmp_path: Path, failure: str
) -> None:
    place = fake_dgl(tmp_path, "from . import graphbolt", failure)
    assert run(IMPORT, place) == "fake dgl.graphbolt"


def test_a_dgl_that_cannot_work_gives_one_error_that_names_the_pairs_that_do(
    tmp_path: Path,
) -> None:
    place = fake_dgl(tmp_path, "raise RuntimeError('no such symbol\\nmany\\nmore lines')")
    said = run(IMPORT + "import sys; print([m for m in sys.modules if 'dgl' in m])", place)
    error, left = said.splitlines()
    assert error.startswith("DeviceError: DGL cannot be imported (RuntimeError: no such symbol).")
    assert "dgl 2.1.0 with torch" in error
    assert "--engine torch" in error
    assert left == "[]"


def test_without_dgl_the_error_says_so_and_nothing_is_replaced(tmp_path: Path) -> None:
    hide = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'dgl': raise ModuleNotFoundError(\"No module named 'dgl'\")\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    said = run(hide + IMPORT + "print('dgl.graphbolt' in sys.modules)")
    assert said.startswith("DeviceError: DGL cannot be imported (ModuleNotFoundError: No module")
    assert said.endswith("\nFalse")


def test_the_installed_dgl_imports_and_the_home_folder_stays_empty(tmp_path: Path) -> None:
    assert run(IMPORT, home=tmp_path).split()[0][0].isdigit()
    assert list(tmp_path.iterdir()) == []


def test_import_mbrec_loads_neither_torch_nor_dgl() -> None:
    script = "import sys, mbrec; print({'torch', 'dgl', 'numpy'} & set(sys.modules))"
    assert run(script) == "set()"


def test_dgl_is_imported_in_one_module_only() -> None:
    root = Path(__file__).parents[2]
    importing = {
        str(path.relative_to(root))
        for package in ("mbrec", "cli", "data_prep")
        for path in (root / package).rglob("*.py")
        if any(
            line.lstrip().startswith(("import dgl", "from dgl"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    }
    assert importing == set()  # backend.py imports it by name, after its preparations
