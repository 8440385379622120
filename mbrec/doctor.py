"""What this installation can do, and what to do about what it cannot.

Nothing heavy is imported here: the libraries are tried in a process of their own (`mbrec.probe`),
so that one that is broken or missing is a line of the report and not the end of it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mbrec.backend import TESTED_PAIRS
from mbrec.version import __version__

State = Literal["ok", "note", "problem"]
GIGABYTE = 1e9
ENOUGH_MEMORY = 2 * GIGABYTE
ENOUGH_DISK = 2 * GIGABYTE
PROBE_SECONDS = 180
ABSENT = "not installed"
PAIRS = f"Tested pairs: {'; '.join(TESTED_PAIRS)}."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    """`note`: works, but could be better, or is not there and need not be."""
    detail: str
    remedy: str = ""
    """What to do; empty if nothing is to be done."""


@dataclass(frozen=True)
class Report:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    trains_with: tuple[str, ...]
    """Engines and devices on which a propagation gave the right sums, e.g. "dgl on cpu"."""

    @property
    def ready(self) -> bool:
        """Whether training is possible on some device."""
        return bool(self.trains_with)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"mbrec": __version__, "ready": self.ready, **asdict(self)}


def examine() -> Report:
    """Look at everything. Takes a few seconds and raises nothing."""
    steps, ended = _probe()
    wrong = list(_requirements())
    tried = [*_libraries(steps), *_torch(steps), *_dgl(steps), *_propagation(steps)]
    said = {finding.name for finding in wrong if finding.detail == ABSENT}
    findings = [_python(), *wrong, *(finding for finding in tried if finding.name not in said)]
    findings += [ended] if ended else []
    findings += [*_machine(steps), *_extras()]
    trains_with = tuple(name for name, step in steps.items() if " on " in name and step["ok"])
    return Report(tuple(findings), trains_with)


def _probe() -> tuple[dict[str, dict[str, Any]], Finding | None]:
    """What `mbrec.probe` said by step, and a finding if it did not come to its end."""
    command = [sys.executable, "-m", "mbrec.probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        output, code = _text(expired.stdout), -signal.SIGKILL
    steps, current = {}, "start"
    for line in output.splitlines():
        if line.startswith('{"step"'):
            said = json.loads(line)
            current = said["step"]
            if "ok" in said:
                steps[current] = said
    if code == 0:
        return steps, None
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    detail = f"the process that tried {current} ended by {how}"
    return steps, Finding(current, "problem", detail, f"Install it anew. {PAIRS}")


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _python() -> Finding:
    version = platform.python_version()
    detail = f"{version}, {platform.system()} {platform.machine()}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", "ok", detail)
    return Finding("python", "note", detail, "mbrec is tested on Python 3.10 to 3.12: use one.")


def _requirements() -> Iterator[Finding]:
    """Packages that are missing or of a version outside the range that mbrec asks for."""
    try:
        from packaging.requirements import Requirement

        texts = metadata.requires("mbrec") or []
    except (ImportError, metadata.PackageNotFoundError) as error:
        yield Finding("packages", "problem", str(error), "Install mbrec with pip.")
        return
    for requirement in map(Requirement, texts):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        install = f"Run: pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            yield Finding(requirement.name, "problem", ABSENT, install)
        elif not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version}, but mbrec needs {requirement.specifier}"
            yield Finding(requirement.name, "problem", detail, install)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _libraries(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for name, step in steps.items():
        if name in ("torch", "dgl") or " on " in name:
            continue
        package = "ibis-framework" if name == "ibis" else name
        if step["ok"]:
            yield Finding(package, "ok", step["detail"])
        else:
            yield Finding(package, "problem", step["detail"], f"Install {package} anew.")


def _torch(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    step = steps.get("torch")
    if step is None:
        return
    if not step["ok"]:
        yield Finding("torch", "problem", step["detail"], "Install torch 2.2 or newer.")
        return
    built = f"CUDA {step['cuda_build']}" if step["cuda_build"] else "CPU only"
    yield Finding("torch", "ok", f"{step['detail']} ({built})")
    for number, device in enumerate(step["cuda_devices"]):
        memory = f"{device['memory'] / GIGABYTE:.0f} GB"
        yield Finding(f"cuda:{number}", "ok", f"{device['name']}, {memory}")
    if step["cuda_devices"]:
        return
    if not Path("/dev/nvidia0").exists() and shutil.which("nvidia-smi") is None:
        yield Finding("cuda", "note", "no NVIDIA device here; training uses the CPU")
    elif step["cuda_build"]:
        remedy = "Update the NVIDIA driver, or install a torch for an older CUDA."
        yield Finding("cuda", "problem", "torch sees no CUDA device", remedy)
    else:
        remedy = "Install a CUDA build of torch to use the GPU."
        yield Finding("cuda", "problem", "a GPU is here, but torch is a CPU build", remedy)


def _dgl(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    step = steps.get("dgl")
    if step is None:
        return
    if not step["ok"]:
        remedy = f"{PAIRS} Until then, train with --engine torch."
        reason = step["detail"].removeprefix("DeviceError: ")
        yield Finding("dgl", "problem", reason.split(" Tested pairs")[0], remedy)
        return
    yield Finding("dgl", "ok", step["detail"])
    for name in step["shimmed"]:
        detail = "does not load here; mbrec replaced it by an empty module and never uses it"
        yield Finding(name, "note", detail)


def _propagation(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for name, step in steps.items():
        if " on " not in name:
            continue
        engine, device = name.split(" on ")
        if step["ok"]:
            yield Finding(name, "ok", step["detail"])
        elif engine == "dgl" and device == "cuda":
            remedy = f"Train with --engine torch, or install a CUDA build of DGL. {PAIRS}"
            yield Finding(name, "note", step["detail"], remedy)
        else:
            other = "dgl" if engine == "torch" else "torch"
            yield Finding(name, "problem", step["detail"], f"Train with --engine {other}. {PAIRS}")


def _machine(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = steps.get("torch", {}).get("threads")
    used = f"; torch uses {threads} threads" if threads else ""
    yield Finding("cpu", "ok", f"{cores} cores for this process{used}")
    memory = _memory()
    if memory is not None:
        detail = f"{memory / GIGABYTE:.1f} GB available"
        remedy = "Close other programs, or give prep a --memory-limit below it."
        low = memory < ENOUGH_MEMORY
        yield Finding("memory", "note" if low else "ok", detail, remedy if low else "")
    free = shutil.disk_usage(Path.cwd()).free
    detail, low = f"{free / GIGABYTE:.1f} GB free in {Path.cwd()}", free < ENOUGH_DISK
    remedy = "Make room, or work in another folder." if low else ""
    yield Finding("disk", "note" if low else "ok", detail, remedy)


def _memory(root: Path = Path("/")) -> float | None:
    """Bytes that can still be used: what the system has, or what the container may take."""
    available = None
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = float(line.split()[1]) * 1024
    limit, used = (
        _read(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory.current")
    )
    if limit.strip().isdigit() and used.strip().isdigit():
        room = float(limit) - float(used)
        return room if available is None else min(room, available)
    return available


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _extras() -> Iterator[Finding]:
    """Optional parts of mbrec that are not, or not wholly, installed."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in metadata.requires("mbrec") or []]
        extras = metadata.metadata("mbrec").get_all("Provides-Extra") or []
    except (ImportError, metadata.PackageNotFoundError):
        return  # said already
    for extra in extras:
        missing = [
            requirement.name
            for requirement in requirements
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
            and _installed(requirement.name) is None
        ]
        if missing:
            remedy = f"If you want it: pip install 'mbrec[{extra}]'"
            yield Finding(f"[{extra}]", "note", f"without {', '.join(missing)}", remedy)
        else:
            yield Finding(f"[{extra}]", "ok", "installed")
