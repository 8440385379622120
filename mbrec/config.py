"""The settings of a training: defaults < config file < options < `--set`, checked as a whole.

    method = "bigel"
    seed = 1
    engine = "dgl"
    device = "auto"
    [model]        # the fields of the method's own config, e.g. BigelConfig
    [train]        # the fields of TrainConfig

Unknown keys are errors with a suggestion; values are checked by type and range.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic import field_validator as validator

from mbrec.errors import RIGHTS, UsageError
from mbrec.metrics import METRICS
from mbrec.models.base import MethodConfig
from mbrec.models.registry import find

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TrainConfig(MethodConfig):
    """How a method is trained. A method may have other defaults: `--list-settings` shows them."""

    epochs: PositiveInt = 100
    """Passes over all training pairs, at most."""

    batch_size: PositiveInt = 8192
    """Positive pairs per step, over all behaviors together."""

    lr: PositiveFloat = 2e-3
    """Learning rate of Adam."""

    negatives: PositiveInt = 1
    """Negatives per positive pair."""

    metric: str = "ndcg@5"
    """What validation maximizes: its macro average over the behaviors with validation rows."""

    patience: PositiveInt = 8
    """Validations without a better value before training stops."""

    eval_every: PositiveInt = 1
    """Epochs between validations (and checkpoints)."""

    average: float = Field(default=0.0, ge=0, lt=1)
    """γ of the moving average of the weights that is validated and kept; 0: the weights."""

    weighting: Literal["equal", "uncertainty", "gradnorm"] = "equal"
    """How the behaviors' losses are weighted: "equal", or by weights that are learned along."""

    task_weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Behavior → a fixed factor of its loss; 1 for those that are not named."""

    weighting_lr: PositiveFloat = 0.025
    """Learning rate of learned weights (of the log-variances, for uncertainty)."""

    gradnorm_alpha: NonNegativeFloat = 0.5
    """GradNorm: how strongly behaviors that learn slowly are favored; 0 makes all norms equal."""

    gradnorm_every: PositiveInt = 5
    """GradNorm: steps between updates; one costs as much as a backward pass per behavior."""

    @validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        name, _, cut = value.partition("@")
        if name not in METRICS or not re.fullmatch(r"[1-9]\d*", cut):
            raise ValueError(f"give one of {', '.join(METRICS)} at a K, e.g. ndcg@5")
        return value

    @property
    def metric_k(self) -> int:
        """K of `metric`."""
        return int(self.metric.partition("@")[2])


class Settings(MethodConfig):
    """Everything that decides a run, but for the data."""

    method: str = "bigel"
    """The method, by its name in the registry."""

    seed: NonNegativeInt = 1
    """The one source of randomness."""

    engine: Literal["dgl", "torch"] = "dgl"
    """Who does the message passing."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where; "auto" is CUDA where there is one."""

    behaviors: tuple[str, ...] = ()
    """The behaviors to train on and to rank; empty: all that the dataset has."""

    order: Literal["canonical", "learned", "random"] | tuple[str, ...] = "canonical"
    """The cascade: "canonical", as prepared; "learned", from what precedes what in the training
    part; "random", drawn by the seed; or all behaviors by name. The target stays last."""

    rows: Literal["train", "train+valid"] = "train"
    """What is learned from; with "train+valid" nothing is held out, all epochs are trained, and
    nothing is chosen. `mbrec refit` sets it, with what a run before has chosen."""

    model: MethodConfig = Field(default_factory=MethodConfig)
    """The method's own settings."""

    train: TrainConfig = Field(default_factory=TrainConfig)
    """How it is trained."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with every default written out."""
        return {**self.model_dump(mode="json"), "model": self.model.model_dump(mode="json")}

    def to_toml(self) -> str:
        """The text of a config file that gives these settings."""
        return tomli_w.dumps(self.to_dict())


def resolve(
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Settings:
    """Settings from a config file, options and `key=value` overrides, later ones winning.

    Args:
        file: A TOML file, or None.
        options: Top-level values, e.g. {"method": "lightgcn"}; None values count as not given.
        overrides: E.g. "model.cgf=false"; the value is read as TOML, or as a bare string.

    Raises:
        UsageError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    values = read_toml(file) if file is not None else {}
    values.update({key: value for key, value in (options or {}).items() if value is not None})
    for override in overrides:
        assign(values, override)
    origin = f" (in {file} or --set)" if file is not None else ""
    return from_dict(values, origin)


def require_validation(settings: Settings) -> Settings:
    """The same settings, if a search can choose among trainings of them.

    Raises:
        UsageError: They learn from the validation rows.
    """
    if settings.rows != "train":
        raise UsageError(
            f"With rows = {settings.rows!r}, no validation rows are left to choose settings by.",
            "Leave it out, then `mbrec refit` the run of the best settings.",
        )
    return settings


def from_dict(values: Mapping[str, Any], origin: str = "") -> Settings:
    """Settings from plain values.

    Args:
        values: As in a config file.
        origin: Where they come from, for errors.

    Raises:
        UsageError: A key is unknown, or a value does not fit.
    """
    values = dict(values)
    method = values.get("method", Settings.model_fields["method"].default)
    entry = find(str(method))
    sections: dict[str, type[BaseModel]] = {"model": entry.config, "train": TrainConfig}
    defaults: dict[str, Mapping[str, Any]] = {"model": {}, "train": entry.train}
    checked: dict[str, Any] = {}
    for name, kind in sections.items():
        section = values.pop(name, {})
        if not isinstance(section, Mapping):
            raise UsageError(f"[{name}] is not a table of settings{origin}.")
        checked[name] = _validate(kind, {**defaults[name], **section}, f"{name}.", origin)
    plain: Settings = _validate(Settings, values, "", origin)
    return plain.model_copy(update=checked)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: It is not there or not TOML; caused by a `PermissionError`, it may not be read.
    """
    try:
        values: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        remedy = RIGHTS if isinstance(error, PermissionError) else "Check its path."
        raise UsageError(
            f"Cannot read the config file {path}: {error.strerror}.", remedy
        ) from error
    except ValueError as error:
        raise UsageError(f"The config file {path} is not valid TOML: {error}.") from error
    return values


def differences(old: Settings, new: Settings) -> list[str]:
    """The dotted keys in which two settings differ."""
    first, second = flat(old.to_dict()), flat(new.to_dict())
    return sorted(key for key in first | second if first.get(key) != second.get(key))


def describe(method: str) -> list[tuple[str, Any, str]]:
    """Every setting of a method as (dotted key, default, description).

    Raises:
        UsageError: There is no such method.
    """
    values = from_dict({"method": method}).to_dict()
    defaults = {
        **values,
        **{f"{part}.{key}": v for part in ("model", "train") for key, v in values[part].items()},
    }
    kinds: dict[str, type[BaseModel]] = {
        "": Settings,
        "model.": find(method).config,
        "train.": TrainConfig,
    }
    return [
        (prefix + name, defaults[prefix + name], " ".join((field.description or "").split()))
        for prefix, kind in kinds.items()
        for name, field in kind.model_fields.items()
        if prefix + name not in ("model", "train")
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys; an empty table stays a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def assign(values: dict[str, Any], override: str) -> None:
    """Set in `values` what `override`, as given to `--set`, says.

    Raises:
        UsageError: It is not of the form key=value, or its key leads into a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {override!r} is not of the form key=value.")
    *path, last = key.strip().split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {override!r}: {part!r} is a value, not a section.")
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        values[last] = text  # a bare word, e.g. model.combination=last


def _validate(kind: type[BaseModel], values: Mapping[str, Any], prefix: str, origin: str) -> Any:
    for key in values:
        if key not in kind.model_fields:
            near = difflib.get_close_matches(key, kind.model_fields, n=1)
            remedy = (
                f"Did you mean {prefix}{near[0]}?"
                if near
                else f"There are: {', '.join(prefix + name for name in kind.model_fields)}."
            )
            raise UsageError(f"There is no setting {prefix}{key}{origin}.", remedy)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # Where a setting may be a number or a table, the error of the branch that was meant.
        first = max(error.errors(), key=lambda one: len(_place(one["loc"], values)))
        key = prefix + ".".join(_place(first["loc"], values))
        raise UsageError(
            f"The setting {key} = {first['input']!r} does not fit{origin}: {first['msg']}."
        ) from error


def _place(location: Iterable[Any], values: Any) -> list[str]:
    """The keys of a wrong value, without the names that pydantic gives the branches of a type."""
    keys = []
    for key in location:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            continue
        keys.append(str(key))
    return keys
