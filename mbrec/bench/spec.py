"""What a BENCH.toml may say.

    report = "test"                  # the rows of the table; "valid" where there are no test rows
    metrics = ["ndcg@5", "hr@5"]
    seeds = [1, 2, 3, 4, 5]
    trials = 6                       # settings tried per method and dataset, the same for all
    ours = ["bigel"]
    [datasets]
    jd = "../data/jd"                # relative to this file
    [settings]                       # of all methods, as in a config file
    train.epochs = 60
    [grid]                           # of all methods that have none of their own
    [methods.mostpop]
    [methods.lightgcn]
    grid = {"train.lr" = [2e-3, 1e-2], "model.l2" = [1e-4, 1e-3]}
    [methods."bigel, small"]
    method = "bigel"
    settings = {"model.size" = 32}

Everything is checked before anything is trained.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError
from pydantic import field_validator as validator

from mbrec import config as configuration
from mbrec.errors import UsageError
from mbrec.evaluation import DEFAULT_KS
from mbrec.metrics import METRICS
from mbrec.models.base import MethodConfig

SELECT = "train.metric"  # what the search maximizes: one for all methods

Grid = dict[str, tuple[Any, ...]]


def some_values(grid: Grid) -> Grid:
    """`grid`; a `ValueError` if a setting of it has no value, since nothing would be tried."""
    for key, values in grid.items():
        if not values:
            raise ValueError(f"{key} has no value to try")
    return grid


class MethodSpec(MethodConfig):
    """One row of the table."""

    method: str = ""
    """Name in the registry; empty: the `method` of the common settings, else the row's name."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run, over the common ones; keys may be dotted."""

    grid: Grid | None = None
    """Setting → the values to try; absent: the common grid."""

    each: Literal["", "behavior", "order"] = ""
    """"behavior": one training per behavior, on it alone, together one row; "order": one row per
    order of the auxiliary behaviors, but for the prepared one."""

    @validator("grid")
    @classmethod
    def _some_values(cls, grid: Grid | None) -> Grid | None:
        return some_values(grid) if grid is not None else None


class BenchSpec(MethodConfig):
    """A bench."""

    name: str = "bench"
    """Title of the tables."""

    report: Literal["test", "valid"] = "test"
    """The rows that the tables are measured on; a dataset without test rows takes "valid"."""

    metrics: tuple[str, ...] = Field(default=("ndcg@5", "hr@5"), min_length=1)
    """What the tables show."""

    seeds: tuple[NonNegativeInt, ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    """Of the runs with the best setting; the search uses the first."""

    trials: PositiveInt = 6
    """Settings tried per method and dataset, the defaults among them."""

    max_seconds: NonNegativeFloat = 0
    """Training time at which a run stops after the epoch; 0: none."""

    ours: tuple[str, ...] = ()
    """Rows whose gain over the best other row is shown."""

    datasets: dict[str, str] = Field(default_factory=dict)
    """Name → folder; empty: to be given on the command line."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of all runs."""

    grid: Grid = Field(default_factory=dict)
    """The grid of methods that have none of their own."""

    methods: dict[str, MethodSpec] = Field(min_length=1)
    """Row → what it is, in the order of the tables."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings given on the command line; they win over settings and grids."""

    @validator("metrics")
    @classmethod
    def _known_metrics(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            name, _, cut = value.partition("@")
            if name not in METRICS or not cut.isdecimal() or int(cut) < 1:
                raise ValueError(f"{value!r} is no metric; give e.g. ndcg@5 or hr@10")
        return tuple(dict.fromkeys(values))

    @validator("seeds")
    @classmethod
    def _distinct_seeds(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(values))

    @validator("grid")
    @classmethod
    def _some_values(cls, grid: Grid) -> Grid:
        return some_values(grid)

    @property
    def select(self) -> str:
        """What the search maximizes on validation: a macro average over behaviors."""
        values = {**dotted(self.settings), **self.overrides}
        return str(values.get(SELECT, "ndcg@5"))

    @property
    def ks(self) -> tuple[int, ...]:
        """The list lengths that are measured."""
        wanted = {int(name.partition("@")[2]) for name in (*self.metrics, self.select)}
        return tuple(sorted({*DEFAULT_KS, *wanted}))


def load_spec(path: Path, overrides: Iterable[str] = (), data: Iterable[str] = ()) -> BenchSpec:
    """Read a BENCH.toml.

    Args:
        path: The file. Datasets are relative to it.
        overrides: "key=value" as of `--set`: a field of the bench, or a setting of all runs.
        data: "name=folder", which wins over the file and may add datasets; or a folder alone, where
            the file names one dataset.

    Raises:
        UsageError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    values = configuration.read_toml(path)
    values.setdefault("name", path.stem)
    settings: dict[str, Any] = {}
    for override in overrides:
        one: dict[str, Any] = {}
        configuration.assign(one, override)
        if next(iter(one)) in _FIELDS:
            configuration.assign(values, override)
        else:
            settings.update(dotted(one))
    folders = {**_folders(values.get("datasets"), path), **_given(values.get("datasets"), data)}
    spec = _checked({**values, "datasets": folders, "overrides": settings}, path)
    for label, method in spec.methods.items():
        if SELECT in {**dotted(method.settings), **(method.grid or {}), **spec.grid}:
            raise UsageError(
                f"{label!r} sets {SELECT} in {path}.",
                "All methods are chosen by the same metric: set it under [settings].",
            )
    missing = [label for label in spec.ours if label not in spec.methods]
    if missing:
        raise UsageError(f"{path} has no method {missing[0]!r}, which `ours` names.")
    return spec


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with keys such as "train.lr", whether they were written so or in tables.

    Raises:
        UsageError: `model` or `train` is no table.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in _SECTIONS:
            if not isinstance(value, Mapping):
                raise UsageError(f"The setting {key} = {value!r} of a bench is no table.")
            found.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            found[key] = value
    return found


_SECTIONS = ("model", "train")
_FIELDS = set(BenchSpec.model_fields) - {"overrides", "settings", "grid", "methods", "datasets"}


def _folders(values: object, path: Path) -> dict[str, str]:
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise UsageError(f"[datasets] in {path} is not a table of name = folder.")
    return {
        name: str(path.parent / Path(value).expanduser()) if value else ""
        for name, value in values.items()
    }


def _given(values: object, data: Iterable[str]) -> dict[str, str]:
    names = list(values) if isinstance(values, dict) else []
    folders = {}
    for text in data:
        name, equals, folder = text.partition("=")
        if not equals:
            if len(names) != 1:
                raise UsageError(
                    f"--data {text} does not say which dataset it is.",
                    f"Write --data {names[0] if names else 'NAME'}={text}.",
                )
            name, folder = names[0], text
        folders[name] = folder
    return folders


def _checked(values: Mapping[str, Any], path: Path) -> BenchSpec:
    methods = values.get("methods")
    tables = {"": values, **(methods if isinstance(methods, dict) else {})}
    for label, table in tables.items():
        kind: type[MethodConfig] = MethodSpec if label else BenchSpec
        for key in table if isinstance(table, dict) else ():
            if key not in kind.model_fields:
                near = difflib.get_close_matches(key, kind.model_fields, n=1)
                place = f" under [methods.{label}]" if label else ""
                hint = f"Did you mean {near[0]}?" if near else ""
                raise UsageError(f"{path} has an unknown key {key!r}{place}.", hint)
    try:
        return BenchSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{key} in {path} does not fit: {first['msg']}.") from error
