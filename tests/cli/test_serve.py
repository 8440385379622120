"""`mbrec serve` as an operator runs it: a process, signals, and what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbrec.dataset import PreparedDataset
from mbrec.run import Run

httpx = pytest.importorskip("httpx2", reason="httpx2, by which the tests ask, is not installed")
pytest.importorskip("fastapi", reason="fastapi (the extra `serve`) is not installed")
pytest.importorskip("uvicorn", reason="uvicorn (the extra `serve`) is not installed")

START = "import sys; from mbrec.cli.main import main; main(sys.argv[1:])"
PATIENCE = 240.0  # seconds; a loaded machine takes long to import torch


@pytest.fixture
def service(tiny_run: Run, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The process, its address, and the file of what it says."""
    said = tmp_path / "said.txt"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "serve", str(tiny_run.path), "--port", "0"],
            stderr=stream,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process, address(process, said), said
    finally:
        process.kill()
        process.wait()


def address(process: subprocess.Popen[bytes], said: Path) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"Serving planted on (http://127\.0\.0\.1:\d+) ", said.read_text())
        if found and httpx.get(f"{found[1]}/health", timeout=PATIENCE).status_code == 200:
            return found[1]
        time.sleep(0.1)
    pytest.fail(said.read_text())


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_answers_takes_a_new_run_on_sighup_and_ends_in_peace(
    service: tuple[subprocess.Popen[bytes], str, Path],
    tiny_run: Run,
    tiny_dataset: PreparedDataset,
    make_run: Callable[..., Run],
) -> None:
    process, url, said = service
    asked = f"{url}/users/u1/top?behavior=purchase&k=3"
    before = httpx.get(asked, timeout=PATIENCE).json()
    factors = {name: tiny_run.factors(name) for name in tiny_run.behaviors}
    fresh = make_run(tiny_dataset, factors | {"click": tiny_run.factors("purchase")}, "new")
    info = (fresh.path / "run.json").read_text()
    shutil.rmtree(tiny_run.path)
    fresh.path.rename(tiny_run.path)
    (tiny_run.path / "run.json").write_text(info + "\n")  # the same scores, another version
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: httpx.get(f"{url}/health", timeout=PATIENCE).json()["run"] != before["run"])
    after = httpx.get(asked, timeout=PATIENCE).json()
    assert after["items"] == before["items"]
    assert 'mbrec_reloads_total{result="served"} 1.0' in httpx.get(f"{url}/metrics").text
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert "Traceback" not in said.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["", '[parameters]\n"path.user_id" = "u1"\n'])
def test_schemathesis_finds_no_answer_that_the_openapi_document_does_not_announce(
    service: tuple[subprocess.Popen[bytes], str, Path], tmp_path: Path, settings: str
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    (tmp_path / "schemathesis.toml").write_text(settings)  # any users, or one who is known
    run = "from schemathesis.cli import schemathesis; schemathesis()"
    done = subprocess.run(
        [sys.executable, "-c", run, "run", f"{service[1]}/openapi.json", "--checks", "all",
         "--max-examples", "40", "--seed", "1", "--generation-database", "none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout


def test_a_taken_port_or_a_missing_run_is_said_in_a_line(
    mbrec: Callable[..., tuple[int, str, str]], tiny_run: Run, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, said = mbrec("serve", tiny_run.path, "--port", port)
        assert code == 2
        assert f"Cannot listen on 127.0.0.1, port {port}" in said.splitlines()[-1]
    code, _, said = mbrec("serve", tmp_path, "--port", 0)
    assert code == 1
    assert "is no run" in said.splitlines()[-1]
    assert mbrec("serve", tiny_run.path, "--data", tmp_path / "gone", "--port", 0)[0] == 1


def test_a_missing_library_is_said_with_what_to_install(
    mbrec: Callable[..., tuple[int, str, str]], tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, said = mbrec("serve", tiny_run.path)
    assert code == 2
    assert "pip install 'mbrec[serve]'" in said
