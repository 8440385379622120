"""What mbrec is made of: licenses, pins with hashes, and an audit that never passes for nothing."""

from __future__ import annotations

import importlib.util
import re
import socket
import sys
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> Callable[[str], ModuleType]:
    """A script of tools/ as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / f"tools/{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


Tool = Callable[[str], ModuleType]


class Fake(Distribution):
    """A distribution that says what it is told to."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.4\nName: fake\nVersion: 1\n{self.text}\n"

    def locate_file(self, path: Any) -> Any:
        return path


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("License-Expression: MIT", True),
        ("License-Expression: GPL-3.0-only OR MIT", True),
        ("License-Expression: MIT AND GPL-3.0-only", False),
        ("License-Expression: AGPL-3.0-or-later", False),
        ("License: Apache 2.0", True),
        ("License: UNKNOWN", False),
        ("Classifier: License :: OSI Approved :: MIT License", True),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", False),
        (
            "License: Copyright 2001 Somebody\nClassifier: License :: OSI Approved :: BSD License",
            True,
        ),
        ("", False),
    ],
)
def test_a_license_counts_only_if_it_is_allowed(tool: Tool, text: str, allowed: bool) -> None:
    assert tool("licenses").license_of(Fake(text)).allowed is allowed


def test_everything_mbrec_needs_has_an_allowed_license(tool: Tool) -> None:
    licenses = tool("licenses")
    needed = re.findall(r'^ +"([a-z-]+)[\[>=<]', (ROOT / "setup.py").read_text(), re.M)
    assert {"torch", "dgl", "duckdb", "safetensors"} <= set(needed)
    for name in needed:
        try:
            found = licenses.license_of(Distribution.from_name(name))
        except ModuleNotFoundError:
            continue  # asked for by another Python, or of an extra
        assert found.allowed, found


@pytest.mark.parametrize(
    "name",
    [
        "docker/locks/requirements.lock",
        "docker/locks/cpu.lock",
        "tools/audit.lock",
        "tools/dev.lock",
    ],
)
def test_every_pin_of_a_lock_has_hashes(name: str) -> None:
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
    pins = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert pins
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)


def test_pins_are_found_with_and_without_hashes(tool: Tool, tmp_path: Path) -> None:
    file = tmp_path / "pins.txt"
    file.write_text(
        "# a comment\n--index-url x\nA==1.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
        "torch==2.13.0+cpu\nold==1; python_version < '3'\nnew==2; python_version > '3'\nfree>=1\n"
    )
    assert tool("audit").pins([file, file]) == ["A==1.0", "new==2", "torch==2.13.0"]
    assert len(tool("audit").pins([ROOT / "constraints.txt"])) > 50


def test_known_vulnerabilities_are_named_and_fail(tool: Tool) -> None:
    bad = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    code, text = tool("audit").judge([bad, {"name": "b", "version": "1", "vulns": []}])
    assert code == 1
    assert "a 1: CVE-1, mended in 2" in text


def test_what_was_not_looked_up_never_passes(tool: Tool) -> None:
    fine = {"name": "a", "version": "1", "vulns": []}
    assert tool("audit").judge([fine])[0] == 0
    code, text = tool("audit").judge([fine, {"name": "b", "skip_reason": "not found"}])
    assert code == 3 and "NOT CHECKED: b" in text
    assert tool("audit").judge([])[0] == 3


def test_a_database_that_cannot_be_reached_is_said_plainly(tool: Tool) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query"
        code, text = tool("audit").ask(["click==8.1.7"], "osv", url)
    assert code == 3
    assert text.startswith("NOT CHECKED: the database of vulnerabilities could not be asked")
