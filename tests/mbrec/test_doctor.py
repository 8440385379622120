"""The doctor reports what is broken instead of breaking with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mbrec import doctor
from mbrec.doctor import Finding, Report, examine


def broken(place: Path, package: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package before the installed one, for the process that tries it."""
    (place / package).mkdir()
    (place / package / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(place))


def named(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


def test_here_both_engines_propagate_on_the_cpu() -> None:
    report = examine()
    assert {"dgl on cpu", "torch on cpu"} <= set(report.trains_with)
    assert report.ready
    assert named(report, "torch").state == "ok"
    assert [f for f in report.findings if f.state == "problem" and "cuda" not in f.name] == []
    assert json.loads(json.dumps(report.to_dict()))["ready"] is True


def test_a_broken_dgl_is_reported_and_training_goes_on_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, "dgl", "raise OSError('libgraph.so: undefined symbol')", monkeypatch)
    report = examine()
    finding = named(report, "dgl")
    assert finding.state == "problem"
    assert "undefined symbol" in finding.detail
    assert "dgl 2.1.0 with torch" in finding.remedy
    assert "--engine torch" in finding.remedy
    assert "dgl on cpu" not in report.trains_with
    assert report.ready


@pytest.mark.parametrize(
    "code", ["raise ImportError('libtorch.so: no such file')", "raise ModuleNotFoundError('torch')"]
)
def test_without_torch_nothing_trains_and_the_report_still_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    broken(tmp_path, "torch", code, monkeypatch)
    report = examine()
    assert not report.ready
    assert named(report, "torch").state == "problem"
    assert "torch 2.2" in named(report, "torch").remedy
    assert named(report, "disk").detail


def test_a_library_that_ends_the_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    broken(tmp_path, "torch", crash, monkeypatch)
    report = examine()
    assert not report.ready
    assert named(report, "torch").detail == "the process that tried torch ended by SIGSEGV"


def test_a_probe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        begun = b'{"step": "torch", "begins": true}\n'
        raise subprocess.TimeoutExpired(["mbrec"], 1, output=begun)

    monkeypatch.setattr(subprocess, "run", hang)
    assert "SIGKILL" in named(examine(), "torch").detail


def test_missing_and_outdated_packages_are_named_once_with_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name == "duckdb":
            raise metadata.PackageNotFoundError(name)
        return {"pyarrow": "1.0"}.get(name, "999")

    monkeypatch.setattr(metadata, "version", version)
    steps = {"duckdb": {"ok": False, "detail": "ModuleNotFoundError: No module named 'duckdb'"}}
    monkeypatch.setattr(doctor, "_probe", lambda: (steps, None))
    report = examine()
    assert [f.detail for f in report.findings if f.name == "duckdb"] == ["not installed"]
    assert "pip install 'duckdb" in named(report, "duckdb").remedy
    assert named(report, "pyarrow").detail.startswith("1.0, but mbrec needs")


def test_a_dgl_without_cuda_is_no_problem_where_the_torch_engine_can_use_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = [{"name": "Some GPU", "memory": 80e9}]
    steps = {
        "torch": {
            "ok": True,
            "detail": "2.9",
            "cuda_build": "12.8",
            "cuda_devices": gpu,
            "threads": 4,
        },
        "dgl": {"ok": True, "detail": "2.1.0", "shimmed": ["dgl.graphbolt"]},
        "dgl on cpu": {"ok": True, "detail": ""},
        "torch on cpu": {"ok": True, "detail": ""},
        "dgl on cuda": {"ok": False, "detail": "DGLError: Device API cuda is not enabled"},
        "torch on cuda": {"ok": True, "detail": ""},
    }
    monkeypatch.setattr(doctor, "_probe", lambda: (steps, None))
    report = examine()
    assert named(report, "cuda:0").detail == "Some GPU, 80 GB"
    assert named(report, "dgl on cuda").state == "note"
    assert "--engine torch" in named(report, "dgl on cuda").remedy
    assert "torch on cuda" in report.trains_with


def test_memory_is_what_a_container_may_still_take(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert doctor._memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000000 kB\n")
    assert doctor._memory(tmp_path) == 4_096_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000\n")
    assert doctor._memory(tmp_path) == 4_096_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("501000\n")
    assert doctor._memory(tmp_path) == 500_000


def test_the_report_itself_loads_neither_torch_nor_dgl() -> None:
    script = "import sys, mbrec.doctor; print({'torch', 'dgl', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
