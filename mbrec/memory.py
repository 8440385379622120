"""How much memory is left, to refuse what cannot fit before the system ends the process."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mbrec.errors import TrainingError

_GIB = 1 << 30
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h


def free_memory(device: torch.device | str = "cpu", root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take; None where the system does not say.

    On the CPU: Linux's own estimate (MemAvailable), or what the limits of its control groups leave
    if that is less, as in a container. Page cache that can be dropped counts as free.

    Args:
        device: Whose memory.
        root: Where /proc and /sys are.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [*_available(root), *_group_limits(root)]
    return max(min(found), 0) if found else None


def require_memory(needed: int, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Refuse work that does not fit.

    Args:
        needed: Bytes that it takes at most.
        what: What takes them, as the subject of a sentence.
        remedy: What to do instead.
        device: Whose memory.

    Raises:
        TrainingError: Less than `needed` is free.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise TrainingError(
            f"{what} takes about {needed / _GIB:.1f} GiB of memory ({needed:,} bytes); "
            f"{free / _GIB:.1f} GiB are free ({free:,} bytes).",
            remedy,
        )


def require_learning(weights: Iterable[Tensor], *, averaged: bool, validated: bool) -> None:
    """Refuse to learn weights, which are there already, unless what that adds to them fits.

    Beside the weights there are their gradients, the two moments of Adam, the moving average and,
    while that is validated, the weights themselves once more. What a step holds in between comes
    on top, and depends on the method.

    Args:
        weights: All of them, where they are learned.
        averaged: Whether a moving average is kept.
        validated: Whether anything is validated.

    Raises:
        TrainingError: It does not fit.
    """
    given = list(weights)
    copies = 3 + averaged * (1 + validated)
    average = ", their moving average" if averaged else ""
    require_memory(
        copies * sum(weight.nbytes for weight in given),
        f"To learn {sum(weight.numel() for weight in given):,} weights (gradients, moments of Adam"
        f"{average})",
        "Lower model.size" + (", or set train.average = 0." if averaged else "."),
        given[0].device,
    )


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it needs next, until `return_freed_memory`.

    A training step takes and frees tensors all the time, of some MiB each or of hundreds. glibc
    gives such memory back to the system, which has to clear it, page by page, when it is taken
    again: up to a tenth of a step on a small log, and a third on a large one. Other allocators are
    left as they are.
    """
    _set_malloc(_MMAP_MAX, 0)  # take all from the heap, of which nothing goes back …
    _set_malloc(_TRIM_THRESHOLD, -1)  # … from its end


def return_freed_memory() -> None:
    """End what `keep_freed_memory` began, and give back what is free."""
    # What is set once no longer adapts by itself: this is how far it would have.
    limits = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
    done = [_set_malloc(setting, value) for setting, value in limits.items()]
    if all(done):
        ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(setting: int, value: int) -> bool:
    """Set what glibc's `mallopt` sets; whether there is one."""
    try:
        return bool(ctypes.CDLL(None).mallopt(setting, value))
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return False


def _available(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc" / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _group_limits(root: Path) -> Iterator[int]:
    """What every limit of this process's control groups leaves, of version 1 and 2."""
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        top = root / "sys" / "fs" / "cgroup"
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top /= "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.strip("/")
        # Inside a container the path may be the host's; its own limit is then at the top.
        for place in {folder, *folder.parents, top}:
            if place == top or top in place.parents:
                yield from _left(place, *names)


def _left(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    limits, used = _lines(group / limit), _lines(group / usage)
    if not limits or not used or not limits[0].isdigit():  # no such group, or "max"
        return
    stat = dict(line.split() for line in _lines(group / "memory.stat"))
    yield int(limits[0]) - int(used[0]) + int(stat.get(cache, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
