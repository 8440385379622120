"""Scorers as named tensors and a plain description, and back: how a run stores them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from mbrec.cross_fitting import CrossFitted
from mbrec.errors import DataError
from mbrec.network import Network
from mbrec.scoring import (
    Factors,
    ItemNeighbors,
    ItemToItem,
    Scorer,
    Sparse,
    Sum,
    UserNeighbors,
    Weighted,
)

_KINDS: dict[str, type[Any]] = {
    "factors": Factors,
    "sparse": Sparse,
    "item-to-item": ItemToItem,
    "item-neighbors": ItemNeighbors,
    "user-neighbors": UserNeighbors,
    "weighted": Weighted,
    "network": Network,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_SHORT = {
    "user_emb": "user",
    "item_emb": "item",
}  # user/<behavior> and item/<behavior>, as documented

_FORMS: dict[str, tuple[torch.dtype, int]] = {  # field → type and number of dimensions
    "user_emb": (torch.float32, 2),
    "item_emb": (torch.float32, 2),
    "similarity": (torch.float32, 2),
    "by_user": (torch.float32, 1),
    "by_item": (torch.float32, 1),
    "values": (torch.float32, 1),
    "indptr": (torch.int64, 1),
    "items": (torch.int64, 1),
    "width": (torch.int64, 0),
    **dict.fromkeys(("center", "scale", "bias", "last"), (torch.float32, 1)),
    **dict.fromkeys(("weights", "item_weights", "user_weights"), (torch.float32, 2)),
    "item_features": (torch.float32, 2),
    "user_features": (torch.float32, 2),
}
_WITHIN: dict[str, type[Any]] = {"inner": object, "base": Sum}  # the others are `Sparse`
_DEEPEST = 8  # sums within sums; no method makes more than two

Description = dict[str, Any]


def pack(
    scorers: Mapping[str, Scorer], *others: Mapping[str, Scorer]
) -> tuple[list[dict[str, Description]], dict[str, Tensor]]:
    """Descriptions (plain types) and tensors (on the CPU) of the scorers of all behaviors.

    Args:
        scorers: Behavior → what ranks it.
        others: More scorers of behaviors, for another use.

    Returns:
        The descriptions of each of these mappings, and the tensors of all.

    The embeddings of a behavior's `Factors` are called user/<behavior> and item/<behavior>, a copy
    for each behavior. Other tensors that scorers share are stored once.

    Raises:
        DataError: A scorer of an unknown kind.
    """
    tensors: dict[str, Tensor] = {}
    stored: dict[tuple[int, ...], str] = {}

    def keep(name: str, tensor: Tensor, share: bool) -> str:
        """The name under which a tensor is stored: its own, or that of the same one before."""
        key = (tensor.data_ptr(), *tensor.shape, *tensor.stride())
        if share and tensor.numel() and key in stored:
            return stored[key]
        while name in tensors:  # a behavior may be called like a part of another one's scores
            name += "~"
        plain = tensor.detach().cpu().contiguous()
        # Of a view, or of a tensor stored already: safetensors wants memory that is its own.
        own = share and plain.untyped_storage().nbytes() == plain.nbytes
        tensors[name] = plain if own else plain.clone()
        stored[key] = name
        return name

    def describe(scorer: Any, place: str) -> Description:
        """The description of a scorer, whose tensors are named after its place."""
        if isinstance(scorer, Sum):
            parts = [describe(part, f"{place}#{n}") for n, part in enumerate(scorer.parts)]
            return {"kind": "sum", "weights": list(scorer.weights), "parts": parts}
        if isinstance(scorer, CrossFitted):
            folds = [describe(fold, f"{place}%{n}") for n, fold in enumerate(scorer.folds)]
            return {"kind": "cross-fitted", "folds": folds}
        if type(scorer) not in _NAMES:
            raise DataError(f"A run cannot hold scores of type {type(scorer).__name__}.")
        found: Description = {"kind": _NAMES[type(scorer)]}
        for field in fields(scorer):
            value = getattr(scorer, field.name)
            short = _SHORT.get(field.name, field.name)
            if isinstance(value, Tensor):
                share = not (isinstance(scorer, Factors) and scorers.get(place) is scorer)
                found[field.name] = keep(f"{short}/{place}", value, share)
            else:
                found[field.name] = describe(value, f"{place}.{short}")
        return found

    found = [{name: describe(scorer, name) for name, scorer in scorers.items()}]
    for number, more in enumerate(others, start=1):
        found.append({name: describe(one, f"{number}/{name}") for name, one in more.items()})
    return found, tensors


def unpack(description: Mapping[str, Any], tensor: Callable[[str], Tensor]) -> Scorer:
    """The scorer of a description.

    Whoever wrote a run may have written anything into it, so types, shapes and indices are checked
    here, where a wrong one costs nothing yet.

    Args:
        description: As `pack` gave it.
        tensor: Name → tensor; a KeyError where there is none.

    Raises:
        DataError: The description or its tensors do not hold together.
        KeyError: A tensor is missing.
    """
    return _unpack(description, tensor, 0)


def _unpack(description: Any, tensor: Callable[[str], Tensor], depth: int) -> Scorer:
    if not isinstance(description, Mapping) or depth > _DEEPEST:
        raise DataError("A description of scores is no object, or sums are nested too deeply.")
    kind = description["kind"]
    if kind == "sum":
        parts = tuple(_unpack(part, tensor, depth + 1) for part in description["parts"])
        weights = tuple(float(weight) for weight in description["weights"])
        if not all(map(math.isfinite, weights)):
            raise DataError(f"The weights of a sum are {weights}.")
        return Sum(parts, weights)
    if kind == "cross-fitted":
        return CrossFitted(tuple(_unpack(fold, tensor, depth + 1) for fold in description["folds"]))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DataError(f"Unknown kind of scores {kind!r}.")
    values: list[Any] = []
    for field in fields(_KINDS[kind]):
        value = description[field.name]
        if field.name in _FORMS:
            values.append(_checked(field.name, tensor(value)))
            continue
        part = _unpack(value, tensor, depth + 1)
        wanted = _WITHIN.get(field.name, Sparse)
        if not isinstance(part, wanted):
            raise DataError(f"The {field.name} of {kind!r} is no {wanted.__name__}.")
        values.append(part)
    scorer: Scorer = _KINDS[kind](*values)
    return scorer


def _checked(name: str, value: Tensor) -> Tensor:
    kind, dim = _FORMS[name]
    if value.dtype != kind or value.dim() != dim:
        raise DataError(
            f"The tensor {name} is {value.dtype} of shape {tuple(value.shape)}; it has to be "
            f"{kind} with {dim} dimensions."
        )
    return value
