"""Checkpoints: one safetensors file holds weights, optimizer state and where training stands.

One file, so that a crash between two writes cannot leave halves of different epochs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mbrec.errors import ArtefactError
from mbrec.files import atomic_path

_PROGRESS = "mbrec-progress"


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    epoch: int = 0  # finished epochs
    best_epoch: int = 0  # 0: none yet
    best_value: float = float("-inf")
    waited: int = 0  # validations since the best
    seconds: float = 0.0  # spent in the training steps of finished epochs
    step: int = 0  # finished steps of the epoch after `epoch`
    step_seconds: float = 0.0  # spent in them

    def after(self, epoch: int, value: float | None, seconds: float) -> Progress:
        """Where it stands after `epoch`; `value` is None where nothing was validated."""
        spent = self.seconds + seconds
        base = replace(self, epoch=epoch, seconds=spent, step=0, step_seconds=0.0)
        if value is None:
            return base
        if value > self.best_value:
            return replace(base, best_epoch=epoch, best_value=value, waited=0)
        return replace(base, waited=self.waited + 1)


@dataclass(frozen=True)
class Part:
    """A module and what optimizes it; a checkpoint holds several under a prefix each."""

    module: nn.Module
    optimizer: torch.optim.Optimizer | None  # over `module.parameters()`; None: weights only
    prefix: str = ""


def save(
    path: Path, parts: Sequence[Part], at: Progress, loose: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: The file.
        parts: What is trained.
        at: Where it stands.
        loose: Tensors that belong to no part.
    """
    tensors = {f"loose/{name}": tensor for name, tensor in (loose or {}).items()}
    for part in parts:
        for name, tensor in part.module.state_dict().items():
            tensors[f"{part.prefix}model/{name}"] = tensor
        names = [name for name, _ in part.module.named_parameters()]
        state = part.optimizer.state_dict()["state"] if part.optimizer else {}
        for index, entries in state.items():
            for key, tensor in entries.items():
                tensors[f"{part.prefix}optimizer/{key}/{names[index]}"] = tensor
    metadata = {_PROGRESS: json.dumps(asdict(at))}
    with atomic_path(path) as temporary:
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, temporary, metadata)


def load(path: Path, parts: Sequence[Part]) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: What `save` wrote.
        parts: Of the same settings and dataset, or some of them.

    Returns:
        Where it stands, and the loose tensors, on the CPU.

    Raises:
        ArtefactError: The file is missing, damaged, or of another model.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as stream:
            at = Progress(**json.loads(stream.metadata()[_PROGRESS]))
        for part in parts:
            part.module.load_state_dict(_under(f"{part.prefix}model/", tensors))
            if part.optimizer is not None:
                state = _under(f"{part.prefix}optimizer/", tensors)
                _load_optimizer(part.optimizer, part.module, state)
    except FileNotFoundError as error:
        raise ArtefactError(f"There is no checkpoint {path}.", "Train without --resume.") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtefactError(
            f"The checkpoint {path} is damaged or of another model: {reason}",
            "Train again with --force.",
        ) from error
    return at, _under("loose/", tensors)


def _load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    names = [name for name, _ in model.named_parameters()]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        entry, _, name = key.partition("/")
        state.setdefault(names.index(name), {})[entry] = tensor
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _plain(tensor: Tensor) -> Tensor:
    # Gates that are shared would be refused as overlapping memory; a copy is not.
    return tensor.detach().cpu().contiguous().clone()
