"""Memory through which the ranks of one machine hand tensors to each other.

gloo sends them through the loopback interface, which takes several times as long. The memory is
that of Linux's nameless files (`memfd_create`), which the others open through /proc: there is no
name to clean up, no limit such as a container's /dev/shm has, and all is gone with the process,
however that ends.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import secrets
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

_PROC = Path("/proc")
_WORD = 8  # bytes of the token
_TURNS = (0, 1)


class Mailboxes:
    """Two boxes from this rank to every other, and two from every other to this one.

    They take turns: what came in one exchange stays until the next but one. For by then all have
    been to the one in between, and so are done with the first.

    Raises:
        OSError: The system has no such files.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("This system has no files in memory.")
        self._rank, self._turn = rank, 0
        self._others: dict[tuple[int, int], _Box] = {}
        token = secrets.randbits(8 * _WORD - 2)
        files = [[os.memfd_create("mbrec") for _ in _TURNS] for _ in range(ranks)]
        self._own = {
            (peer, turn): _Box(file)
            for peer, both in enumerate(files)
            for turn, file in enumerate(both)
        }
        for box in self._own.values():
            box.holding(1, torch.int64, grow=True)[0] = token
        self.address = torch.tensor([_machine(), os.getpid(), token, *chain(*files)])
        """What another process needs to open them: the machine, the process, what the boxes begin
        with until they are used, and their files. (3 + 2 R,) int64"""

    def open(self, addresses: Sequence[Tensor]) -> bool:
        """Open the boxes of the others, by the addresses of rank 0, 1, …; whether that worked."""
        for peer, address in enumerate(addresses):
            machine, process, token, *files = address.tolist()
            if machine != _machine():
                return False
            for turn in _TURNS:
                path = _PROC / str(process) / "fd" / str(files[len(_TURNS) * self._rank + turn])
                try:
                    box = self._others[peer, turn] = _Box(os.open(path, os.O_RDWR | os.O_CLOEXEC))
                    if box.holding(1, torch.int64)[0] != token:
                        return False
                except (OSError, ValueError):  # ValueError: what is mapped is too short
                    return False
        return True

    def room(self, peer: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Where `put` will leave what is for another rank, to be filled before."""
        box = self._own[peer, 1 - self._turn]
        return box.holding(math.prod(shape), dtype, grow=True).view(*shape)

    def put(self, parts: Sequence[Tensor]) -> None:
        """Begin an exchange: leave what is for rank 0, 1, … in their boxes."""
        for peer, part in enumerate(parts):
            if peer != self._rank:
                room = self.room(peer, part.shape, part.dtype)
                if room.data_ptr() != part.data_ptr():
                    room.copy_(part)
        self._turn = 1 - self._turn

    def look(self, peer: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """What another rank has put there in this exchange, after it has; not a copy."""
        return self._others[peer, self._turn].holding(math.prod(shape), dtype).view(*shape)

    def close(self) -> None:
        """Give the files back; the memory goes with the last tensor that is in it."""
        for box in (*self._own.values(), *self._others.values()):
            box.close()
        self._own, self._others = {}, {}


class _Box:
    """Memory that grows.

    Args:
        file: Its descriptor, which is closed with it.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._memory = torch.empty(0, dtype=torch.uint8)

    def holding(self, count: int, dtype: torch.dtype, grow: bool = False) -> Tensor:
        """The tensor (count,) that it begins with.

        Args:
            count: Of numbers.
            dtype: Of them.
            grow: Make it large enough; else it is, already.
        """
        needed = count * dtype.itemsize
        if needed > len(self._memory):
            if grow:
                os.ftruncate(self._file, needed + needed // 4)  # sizes vary from step to step
            whole = mmap.mmap(self._file, os.fstat(self._file).st_size)
            self._memory = torch.frombuffer(whole, dtype=torch.uint8)
        return self._memory[:needed].view(dtype)

    def close(self) -> None:
        os.close(self._file)


def _machine() -> int:
    """The same for processes that see each other in /proc, and hardly for others."""
    boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_bytes()
    group = (_PROC / "self" / "ns" / "pid").stat().st_ino
    digest = hashlib.sha256(boot + str(group).encode()).digest()
    return int.from_bytes(digest[:_WORD], "big", signed=True)
