"""Checkpoints: one safetensors file holds weights, optimizer state and where training stands.

One file, so that a crash between two writes cannot leave halves of different epochs. It knows the
SHA-256 of its tensors and the run that it is of, so that neither damage nor a mix-up is trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mbrec.errors import ArtefactError
from mbrec.files import atomic_path

_PROGRESS = "mbrec-progress"
_DIGEST = "mbrec-sha256"
_ORIGIN = "mbrec-origin"

Origin = Mapping[str, Any]
"""What tells a run from others: its dataset and settings, as plain values."""


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
    path: Path,
    parts: Sequence[Part],
    at: Progress,
    loose: Mapping[str, Tensor] | None = None,
    origin: Origin | None = None,
) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: The file.
        parts: What is trained.
        at: Where it stands.
        loose: Tensors that belong to no part.
        origin: The run.
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
    plain = {name: _plain(tensor) for name, tensor in tensors.items()}
    metadata = {
        _PROGRESS: json.dumps(asdict(at)),
        _ORIGIN: json.dumps(dict(origin or {})),
        _DIGEST: _digest(plain),
    }
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata)


def load(
    path: Path, parts: Sequence[Part], origin: Origin | None = None
) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: What `save` wrote.
        parts: Of the same settings and dataset, or some of them.
        origin: The run that it has to be of. Settings that only one of them knows, since mbrec has
            changed in between, do not count.

    Returns:
        Where it stands, and the loose tensors, on the CPU.

    Raises:
        ArtefactError: The file is missing, damaged, or of another model or run.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
        at = Progress(**json.loads(metadata[_PROGRESS]))
        if metadata.get(_DIGEST, "") not in ("", _digest(tensors)):  # older releases wrote none
            raise ValueError("its SHA-256 is not the one that was saved with it")
        _check_origin(json.loads(metadata.get(_ORIGIN, "{}")), origin or {})
        for part in parts:
            part.module.load_state_dict(_under(f"{part.prefix}model/", tensors))
            if part.optimizer is not None:
                state = _under(f"{part.prefix}optimizer/", tensors)
                _load_optimizer(part.optimizer, part.module, state)
    except FileNotFoundError as error:
        raise ArtefactError(
            f"There is no checkpoint {path}.", "Train again with --force."
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtefactError(
            f"The checkpoint {path} is damaged or of another model: {reason}",
            "Train again with --force.",
        ) from error
    return at, _under("loose/", tensors)


def _check_origin(found: Origin, expected: Origin) -> None:
    wanted = json.loads(json.dumps(dict(expected)))
    other = [key for key, value in found.items() if wanted.get(key, value) != value]
    if other:
        raise ValueError(f"it is of a run with another {', '.join(other)}")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
