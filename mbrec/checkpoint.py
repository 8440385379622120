"""Checkpoints: one safetensors file holds weights, optimizer state and where training stands.

One file, so that a crash between two writes cannot leave halves of different epochs. It knows the
SHA-256 of all that it says and the run that it is of, so that neither damage nor a mix-up is
trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mbrec.errors import ArtefactError
from mbrec.files import atomic_path
from mbrec.parallel import tensor_file
from mbrec.parallel.columns import Columns
from mbrec.parallel.team import ALONE, Team

_PROGRESS = "mbrec-progress"
_DIGEST = "mbrec-sha256"
_ORIGIN = "mbrec-origin"

Origin = Mapping[str, Any]
"""What tells a run from others: its dataset and settings, as plain values."""


@dataclass(frozen=True)
class Standing:
    """How good a part of a method has been."""

    best_epoch: int = 0  # 0: none yet
    best_value: float = float("-inf")
    waited: int = 0  # validations since the best
    values: Mapping[str, float] = field(default_factory=dict)  # behavior → metric at the best

    def after(self, epoch: int, values: Mapping[str, float]) -> Standing:
        """How good it has been after the validation of `epoch`; their mean is what counts."""
        value = sum(values.values()) / len(values)
        if value > self.best_value:
            return Standing(epoch, value, 0, dict(values))
        return replace(self, waited=self.waited + 1)


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    epoch: int = 0  # finished epochs
    seconds: float = 0.0  # spent in the training steps of finished epochs
    step: int = 0  # finished steps of the epoch after `epoch`
    step_seconds: float = 0.0  # spent in them
    parts: Mapping[str, Standing] = field(default_factory=dict)
    """Part of the method → how good it has been; empty before the first validation."""

    @classmethod
    def read(cls, text: str) -> Progress:
        """What `json.dumps` made of it."""
        values = json.loads(text)
        parts = {name: Standing(**found) for name, found in values.pop("parts", {}).items()}
        return cls(**values, parts=parts)

    @property
    def best_epoch(self) -> int:
        """The last epoch in which a part was better than before; 0: none yet."""
        return max((standing.best_epoch for standing in self.parts.values()), default=0)

    @property
    def waited(self) -> int:
        """Validations since then."""
        return min((standing.waited for standing in self.parts.values()), default=0)

    def best_epoch_of(self, part: str) -> int:
        """The best epoch of a part; 0: none yet."""
        return self.parts.get(part, Standing()).best_epoch

    def waited_of(self, part: str) -> int:
        """Validations since the best epoch of a part."""
        return self.parts.get(part, Standing()).waited

    def after(
        self, epoch: int, found: Mapping[str, Mapping[str, float]], seconds: float
    ) -> Progress:
        """Where it stands after `epoch`.

        Args:
            epoch: The one that is finished.
            found: Part → behavior → metric, of the parts that were validated.
            seconds: That its steps took.
        """
        parts = {
            name: self.parts.get(name, Standing()).after(epoch, values)
            for name, values in found.items()
        }
        return Progress(epoch, self.seconds + seconds, parts={**self.parts, **parts})


@dataclass(frozen=True)
class Part:
    """A module and what optimizes it; a checkpoint holds several under a prefix each."""

    module: nn.Module
    optimizer: torch.optim.Optimizer | None  # over `module.parameters()`; None: weights only
    prefix: str = ""
    divided: Mapping[str, Columns] = field(default_factory=dict)
    """The tensors of which this process has some columns only."""


def save(
    path: Path,
    parts: Sequence[Part],
    at: Progress,
    loose: Mapping[str, Tensor] | None = None,
    origin: Origin | None = None,
    team: Team = ALONE,
) -> None:
    """Write a checkpoint, atomically. It does not depend on the number of processes.

    Args:
        path: The file.
        parts: What is trained.
        at: Where it stands.
        loose: Tensors that belong to no part.
        origin: The run.
        team: Who trains; all of them have to call it, the first writes.
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
    metadata = {_PROGRESS: json.dumps(asdict(at)), _ORIGIN: json.dumps(dict(origin or {}))}
    divided = _divided(parts)
    if not team.first:
        tensor_file.write(None, tensors, divided)
    elif divided:
        with atomic_path(path) as temporary:
            tensor_file.write(temporary, tensors, divided, metadata, _DIGEST)
    else:
        plain = {name: _plain(tensor) for name, tensor in tensors.items()}
        with atomic_path(path) as temporary:
            save_file(plain, temporary, {**metadata, _DIGEST: _digest(plain, metadata)})


def load(
    path: Path, parts: Sequence[Part], origin: Origin | None = None, team: Team = ALONE
) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: What `save` wrote.
        parts: Of the same settings and dataset, or some of them.
        origin: The run that it has to be of. Settings that only one of them knows, since mbrec has
            changed in between, do not count.
        team: Who trains; all of them have to call it.

    Returns:
        Where it stands, and the loose tensors, on the CPU.

    Raises:
        ArtefactError: The file is missing, damaged, or of another model or run.
    """
    try:
        divided = _divided(parts)
        tensors = tensor_file.read(path, divided) if divided else load_file(path)
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata()
        at = Progress.read(metadata[_PROGRESS])
        digest = metadata.pop(_DIGEST, None)
        if digest is None:
            raise ValueError("it has no SHA-256 of what it holds")
        # The first process reads all of it for the others, which have read their columns.
        wrong = team.first and digest != _digest_of(path, tensors, metadata, divided)
        if team.any(wrong):
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
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise ArtefactError(
            f"The checkpoint {path} is damaged or of another model: {reason}",
            "Train again with --force.",
        ) from error
    return at, _under("loose/", tensors)


def _divided(parts: Sequence[Part]) -> dict[str, Columns]:
    """`Part.divided`, by the names in a checkpoint, where Adam's two moments follow the weights."""
    kinds = ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq")
    return {
        f"{part.prefix}{kind}/{name}": columns
        for part in parts
        for name, columns in part.divided.items()
        for kind in kinds
    }


def _check_origin(found: Origin, expected: Origin) -> None:
    wanted = json.loads(json.dumps(dict(expected)))
    other = [key for key, value in found.items() if wanted.get(key, value) != value]
    if other:
        raise ValueError(f"it is of a run with another {', '.join(other)}")


def _digest_of(
    path: Path,
    tensors: Mapping[str, Tensor],
    texts: Mapping[str, str],
    divided: Mapping[str, Columns],
) -> str:
    return tensor_file.content_digest(path, _DIGEST) if divided else _digest(tensors, texts)


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    digest = tensor_file.text_digest(texts)
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
