"""The processes that do one piece of work together, and what they say to each other.

Every collective goes through `Team`, so that bytes are counted and a rank that has ended is an
error with a readable message, wherever it is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from mbrec.errors import RankError
from mbrec.parallel.mailboxes import Mailboxes

Shape = tuple[int, ...]


class Team:
    """The ranks 0 … R-1 of a piece of work, seen from one of them; by default a single one.

    All ranks have to make the same calls in the same order.

    Args:
        rank: This process; rank 0 writes files.
        ranks: R.
        group: The process group of tensors on the training's device.
        control: The group of tensors on the CPU; another one than `group` beside NCCL.

    Where all ranks are on one machine, tensors on the CPU are exchanged through `Mailboxes`.
    """

    def __init__(self, rank: int = 0, ranks: int = 1, group: Any = None, control: Any = None):
        self.rank, self.ranks = rank, ranks
        self._group, self._control = group, control
        self._boxes: Mailboxes | None = None
        self.sent = 0
        """Bytes that this rank has sent so far, by the usual algorithms (rings): R - 1 times what
        it gives to `gather`, 2 (R - 1) / R times what is added up, what `exchange` gives others."""

    def open_mailboxes(self) -> bool:
        """Exchange by shared memory from now on, where all ranks can; whether they do."""
        boxes, address = None, torch.zeros(3 + 2 * self.ranks, dtype=torch.int64)
        with suppress(OSError):
            boxes = Mailboxes(self.rank, self.ranks)
            address = boxes.address
        addresses = self.gather(address)
        able = boxes is not None and boxes.open(list(addresses))
        self._boxes = boxes
        if self.any(not able):
            self.close()
        return self._boxes is not None

    def close(self) -> None:
        """Give back what `open_mailboxes` took."""
        if self._boxes is not None:
            self._boxes.close()
        self._boxes = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """What all ranks have, in order: (R, *shape) from tensors of one shape."""
        local = local.contiguous()
        if self.ranks == 1:
            return local.unsqueeze(0)
        found = local.new_empty((self.ranks, *local.shape))
        with _among(self.ranks):
            torch.distributed.all_gather(list(found.unbind(0)), local, group=self._of(local))
        self.sent += (self.ranks - 1) * local.nbytes
        return found

    def gather_first(self, local: Tensor) -> Tensor | None:
        """What `gather` gives, for rank 0; None for the others."""
        local = local.contiguous()
        if self.ranks == 1:
            return local.unsqueeze(0)
        found = local.new_empty((self.ranks, *local.shape)) if self.first else None
        parts = None if found is None else list(found.unbind(0))
        with _among(self.ranks):
            torch.distributed.gather(local, parts, dst=0, group=self._of(local))
        self.sent += 0 if self.first else local.nbytes
        return found

    def sum(self, local: Tensor) -> Tensor:
        """The sum of what all ranks have, the same bits everywhere."""
        if self.ranks == 1:
            return local
        total = local.detach().clone(memory_format=torch.contiguous_format)
        with _among(self.ranks):
            torch.distributed.all_reduce(total, group=self._of(total))
        self.sent += 2 * (self.ranks - 1) * total.nbytes // self.ranks
        return total

    def sums(self, locals_: Sequence[Tensor]) -> list[Tensor]:
        """`sum` of several tensors of any shapes, in one exchange."""
        if self.ranks == 1 or not locals_:
            return list(locals_)
        flat = self.sum(torch.cat([local.flatten() for local in locals_]))
        parts = torch.split(flat, [local.numel() for local in locals_])
        return [part.view(local.shape) for part, local in zip(parts, locals_, strict=True)]

    def room(self, shapes: Sequence[Shape], like: Tensor) -> list[Tensor]:
        """Tensors to fill for rank 0, 1, … and then to `exchange`, which so need not be copied.

        Args:
            shapes: Of them.
            like: Of their dtype and device.
        """
        boxes = self._boxes if like.device.type == "cpu" else None
        return [
            like.new_empty(shape)
            if boxes is None or peer == self.rank
            else boxes.room(peer, shape, like.dtype)
            for peer, shape in enumerate(shapes)
        ]

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """What every rank has for this one, against what this one has for every rank.

        Args:
            parts: For rank 0, 1, …, of one dtype.
            shapes: Of what rank 0, 1, … has for this one.

        Returns:
            By rank; this rank's own part as it is. What others sent stays as it is until the next
            exchange but one, and no longer.
        """
        found = self._by_boxes(parts, shapes) or self._by_messages(parts, shapes)
        self.sent += sum(part.nbytes for peer, part in enumerate(parts) if peer != self.rank)
        return found

    def _by_boxes(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """`exchange` by shared memory; nothing where there is none."""
        own = parts[self.rank]
        if self._boxes is None or own.device.type != "cpu":
            return []
        self._boxes.put(parts)
        # Messages of a byte: all is there when they are. From a rank that has ended none comes.
        byte = torch.zeros(1, dtype=torch.uint8)
        self._by_messages([byte] * self.ranks, [(1,)] * self.ranks)
        return [
            own if peer == self.rank else self._boxes.look(peer, shape, own.dtype)
            for peer, shape in enumerate(shapes)
        ]

    def _by_messages(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """`exchange` by the group's own way."""
        found = [parts[self.rank].new_empty(shape) for shape in shapes]
        found[self.rank] = parts[self.rank]
        messages = [
            torch.distributed.P2POp(way, tensor, peer, group=self._of(tensor))
            for way, tensors in (
                (torch.distributed.isend, [part.contiguous() for part in parts]),
                (torch.distributed.irecv, found),
            )
            for peer, tensor in enumerate(tensors)
            if peer != self.rank and tensor.numel()
        ]
        if messages:
            with _among(self.ranks):
                for message in torch.distributed.batch_isend_irecv(messages):
                    message.wait()
        return found

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. All ranks get the same answer; it waits for all of them."""
        if self.ranks == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), dtype=torch.int32)))

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def _of(self, tensor: Tensor) -> Any:
        return self._control if tensor.device.type == "cpu" else self._group


ALONE = Team()


@contextmanager
def _among(ranks: int) -> Iterator[None]:
    """Turn what a collective raises when a rank is gone, or does not answer, into our error."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # gloo, NCCL and the store raise these
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RankError(
            f"One of the {ranks} processes has ended or does not answer ({lines[0]}).",
            "What was saved last is kept.",
        ) from error
