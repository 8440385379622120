"""If these fail, a training that cannot fit is killed by the system instead of being refused."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mbrec import memory
from mbrec.errors import TrainingError
from mbrec.memory import free_memory, require_learning, require_memory


def write(root: Path, **files: str) -> None:
    """File names with "/" written as "__"."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def meminfo(root: Path, kilobytes: int) -> None:
    write(root, proc__meminfo=f"MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: {kilobytes} kB\n")


def test_without_limits_it_is_what_the_system_estimates(tmp_path: Path) -> None:
    assert free_memory(root=tmp_path) is None
    meminfo(tmp_path, 5)
    assert free_memory(root=tmp_path) == 5 * 1024


def test_a_limit_of_any_group_above_counts_without_its_page_cache(tmp_path: Path) -> None:
    meminfo(tmp_path, 1000)
    folder = tmp_path / "sys" / "fs" / "cgroup"
    write(tmp_path, proc__self__cgroup="0::/shop/train\n")
    for group, limit, used, cache in (("shop", "9000", "4000", 500), ("shop/train", "max", "1", 0)):
        place = folder / group
        place.mkdir(parents=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"active_file 70\ninactive_file {cache}\n")
    assert free_memory(root=tmp_path) == 9000 - 4000 + 500


def test_in_a_container_the_limit_stands_at_the_top(tmp_path: Path) -> None:
    meminfo(tmp_path, 1000)
    write(tmp_path, proc__self__cgroup="9:cpu:/x\n8:name=systemd:/\n7:memory:/docker/abc\n")
    place = tmp_path / "sys" / "fs" / "cgroup" / "memory"
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").write_text("800")
    (place / "memory.usage_in_bytes").write_text("1000")
    assert free_memory(root=tmp_path) == 0


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 3 << 30)
    require_memory(3 << 30, "It", "Take less.")
    with pytest.raises(TrainingError, match=r"It takes about 4\.5 GiB .*3\.0 GiB are .*Take less"):
        require_memory(9 << 29, "It", "Take less.")
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    require_memory(1 << 60, "It", "Take less.")


@pytest.mark.parametrize(
    ("averaged", "validated", "copies"),
    [(False, True, 3), (False, False, 3), (True, False, 4), (True, True, 5)],
)
def test_what_learning_adds_to_the_weights_has_to_fit(
    averaged: bool, validated: bool, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [torch.zeros(100, 5), torch.zeros(300)]
    how = {"averaged": averaged, "validated": validated}
    monkeypatch.setattr(memory, "free_memory", lambda device: copies * 3200)
    require_learning(weights, **how)
    monkeypatch.setattr(memory, "free_memory", lambda device: copies * 3200 - 1)
    remedy = r"Lower model\.size" + (r", or set train\.average = 0" if averaged else r"\.")
    with pytest.raises(TrainingError, match=rf"800 weights .*{copies * 3200:,} bytes.*{remedy}"):
        require_learning(weights, **how)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")
@pytest.mark.parametrize("rows", [20_000, 160_000])  # 5 and 41 MB
def test_memory_that_a_step_frees_is_not_fetched_from_the_system_again(rows: int) -> None:
    script = f"""
import resource, torch
from mbrec.memory import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(13):
    if step == 3:
        before = faults()
    tables = [torch.ones({rows}, 64) for _ in range(8)]
    del tables
print(faults() - before)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(found.stdout) < 1000  # 100,000 without: ten steps of 8 tables of 1,250 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")
def test_what_was_kept_is_given_back() -> None:
    script = """
import torch
from pathlib import Path
from mbrec.memory import keep_freed_memory, return_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
keep_freed_memory()
tables = [torch.ones(160_000, 64) for _ in range(8)]
print(resident())
del tables
print(resident())
return_freed_memory()
print(resident())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    full, kept, left = map(int, found.stdout.split())
    assert kept > full - 1000
    assert left < full - 70_000  # 80,000 pages of tables
