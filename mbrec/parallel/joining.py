"""How a process finds the others of its team: by the environment, as `torchrun` sets it.

`mbrec.parallel.launching` sets the same variables, and a file for the processes to meet at.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch

from mbrec.device import pick_device
from mbrec.errors import DeviceError, RankError
from mbrec.parallel.launching import MEETING
from mbrec.parallel.team import ALONE, Team

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for another: as long as the longest that one does by itself, such as to
write a checkpoint."""


@contextmanager
def joined(device: str = "auto", patience: timedelta = PATIENCE) -> Iterator[Team]:
    """The team that this process was started in; `ALONE` if in none.

    Tensors on the CPU are exchanged by gloo, those on CUDA devices (one for each rank of a machine)
    by NCCL.

    Args:
        device: "auto", "cpu" or "cuda".
        patience: See `PATIENCE`.

    Raises:
        DeviceError: There are fewer CUDA devices than ranks, or torch cannot do this.
        RankError: The others did not come in time.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield ALONE
        return
    distributed = torch.distributed
    if not distributed.is_available():
        raise DeviceError("This build of torch has no torch.distributed.", "Train in one process.")
    # The functions of this module take the group there is when they are defined as a default, and
    # keep it for good; optimizers import it. So it has to be imported before there is a group, or
    # gloo's threads outlive `destroy_process_group`, and one that needs the interpreter while that
    # ends aborts the process ("terminate called without an active exception").
    importlib.import_module("torch.distributed.nn.functional")
    rank, place = int(os.environ["RANK"]), pick_device(device)
    if place.type == "cuda":
        _take_device(int(os.environ.get("LOCAL_RANK", rank)))
    meeting = os.environ.get(MEETING)
    try:
        distributed.init_process_group(
            "nccl" if place.type == "cuda" else "gloo",
            init_method=f"file://{meeting}" if meeting else "env://",
            rank=rank,
            world_size=ranks,
            timeout=patience,
        )
        control = None
        if place.type == "cuda":
            control = distributed.new_group(backend="gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RankError(f"The {ranks} processes did not find each other ({reason}).") from error
    team = Team(rank, ranks, None, control)
    try:
        if place.type == "cpu":
            team.open_mailboxes()
        yield team
    finally:
        team.close()
        with suppress(RuntimeError):  # the others may be gone
            distributed.destroy_process_group()


def _take_device(number: int) -> None:
    if number >= torch.cuda.device_count():
        raise DeviceError(
            f"Rank {number} of this machine has no CUDA device: there are "
            f"{torch.cuda.device_count()}.",
            "Start as many processes as there are devices, or use --device cpu.",
        )
    torch.cuda.set_device(number)
