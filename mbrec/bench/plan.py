"""What a bench has to run: per dataset and row a lane, first its trials, then its final runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mbrec import config as configuration
from mbrec.bench.search import Point, candidates
from mbrec.bench.spec import SELECT, BenchSpec, MethodSpec, dotted
from mbrec.columns import Split
from mbrec.dataset import PreparedDataset
from mbrec.errors import DataError, UsageError
from mbrec.models.registry import names
from mbrec.results import HeldOut
from mbrec.run import SCHEMA_VERSION as RUN_SCHEMA
from mbrec.version import __version__

CELL_SCHEMA = 2
PRECEDES = " ≻ "

Phase = Literal["trial", "final"]


@dataclass(frozen=True)
class DatasetInfo:
    """What a plan knows of a dataset: its manifest, and no row of it."""

    name: str
    path: Path
    content_hash: str
    behaviors: tuple[str, ...]
    users: int
    items: int
    held_out: tuple[str, ...]  # behaviors with validation rows
    report: HeldOut  # the rows that the tables are measured on

    @classmethod
    def open(cls, name: str, path: Path, report: HeldOut) -> DatasetInfo:
        """Read the manifest.

        Raises:
            ArtefactError: The folder is no prepared dataset.
            DataError: It has no validation rows, so nothing could be chosen.
        """
        visible: tuple[Split, ...] = ("train",)
        dataset = PreparedDataset(path, visible)
        rows = dataset.manifest["counts"]["splits"]
        held_out = tuple(b for b in dataset.behaviors if rows["valid"].get(b))
        if not held_out:
            raise DataError(
                f"{path} has no validation rows, by which a bench chooses settings.",
                "Prepare it with a split that has them.",
            )
        return cls(
            name=name,
            path=path.resolve(),
            content_hash=dataset.content_hash,
            behaviors=dataset.behaviors,
            users=dataset.num_users,
            items=dataset.num_items,
            held_out=held_out,
            report=report if any(rows["test"].values()) else "valid",
        )


@dataclass(frozen=True)
class Cell:
    """One run: settings and a seed on a dataset, and the rows that it is measured on."""

    dataset: DatasetInfo
    label: str
    phase: Phase
    trial: int  # which candidate
    point: Point  # what it changes
    given: Mapping[str, Any]  # dotted settings that are not left to their defaults
    seed: int
    splits: tuple[HeldOut, ...]
    metrics: tuple[str, ...]  # those that are kept per user
    ks: tuple[int, ...]
    max_seconds: float = 0

    @property
    def key(self) -> str:
        """Names the run: equal for whatever would train and measure the same."""
        what = [
            CELL_SCHEMA,
            RUN_SCHEMA,
            __version__,
            self.dataset.content_hash,
            dict(self.given),
            self.seed,
            self.splits,
            self.max_seconds,
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def settings(self) -> configuration.Settings:
        """Every setting of the run."""
        return resolve({**self.given, "seed": self.seed})


@dataclass(frozen=True)
class Lane:
    """One search and its final runs: a row of the table on one dataset, or a part of it."""

    spec: BenchSpec
    dataset: DatasetInfo
    label: str
    method: str
    given: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[Point, ...] = ({},)
    alone: str = ""  # the one behavior that this part of the row trains on
    error: str = ""  # why it cannot run at all

    @property
    def searched(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.points) > 1

    def trials(self) -> list[Cell]:
        """The runs of the search; they see no test row."""
        if not self.searched or self.error:
            return []
        seed = self.spec.seeds[0]
        return [self._cell("trial", number, seed) for number in range(len(self.points))]

    def finals(self, trial: int) -> list[Cell]:
        """The runs of candidate `trial` with every seed."""
        return [self._cell("final", trial, seed) for seed in self.spec.seeds]

    def _cell(self, phase: Phase, trial: int, seed: int) -> Cell:
        both = phase == "final" and self.dataset.report == "test"
        point = self.points[trial]
        return Cell(
            dataset=self.dataset,
            label=self.label,
            phase=phase,
            trial=trial,
            point=point,
            given=_over(self.given, point, self.spec),
            seed=seed,
            splits=("valid", "test") if both else ("valid",),
            metrics=self.spec.metrics,
            ks=self.spec.ks,
            max_seconds=self.spec.max_seconds,
        )


def make_plan(spec: BenchSpec) -> list[Lane]:
    """All lanes, by dataset, in the order of the methods.

    A method that the registry does not know gets a lane with an error: the others still run.

    Raises:
        UsageError: No dataset has a path, or a setting does not fit its method.
        ArtefactError: A folder is no prepared dataset.
    """
    datasets = [
        DatasetInfo.open(name, Path(path), spec.report)
        for name, path in spec.datasets.items()
        if path
    ]
    if not datasets:
        missing = ", ".join(f"--data {name}=FOLDER" for name in spec.datasets) or "--data FOLDER"
        raise UsageError("No dataset of this bench has a path.", f"Give one: {missing}.")
    return [
        lane
        for dataset in datasets
        for label, method in spec.methods.items()
        for lane in _lanes(spec, dataset, label, method)
    ]


def resolve(given: Mapping[str, Any]) -> configuration.Settings:
    """Settings from dotted values.

    Raises:
        UsageError: An unknown key, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for key, value in given.items():
        section, dot, name = key.partition(".")
        (values.setdefault(section, {}) if dot else values)[name or section] = value
    return configuration.from_dict(values)


def _choosable(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting, of a training that keeps its validation rows."""
    return configuration.require_validation(resolve(given)).to_dict()


def _over(given: Mapping[str, Any], point: Point, spec: BenchSpec) -> dict[str, Any]:
    return {**given, **point, **spec.overrides}


def _lanes(spec: BenchSpec, dataset: DatasetInfo, label: str, method: MethodSpec) -> Iterable[Lane]:
    common = dotted(spec.settings)
    given = {**common, **dotted(method.settings), SELECT: spec.select}
    given["method"] = method.method or common.get("method", label)
    if method.each == "behavior":
        for name in dataset.held_out:
            one = {**given, "behaviors": [name]}
            yield _lane(spec, dataset, label, method, one, alone=name)
    elif method.each == "order":
        for order in _other_orders(dataset.behaviors):
            name = f"{label} {PRECEDES.join(order[:-1])}"
            yield _lane(spec, dataset, name, method, {**given, "order": list(order)})
    else:
        yield _lane(spec, dataset, label, method, given)


def _other_orders(behaviors: Sequence[str]) -> Iterable[tuple[str, ...]]:
    *auxiliaries, target = behaviors
    orders = ((*order, target) for order in itertools.permutations(auxiliaries))
    return (order for order in orders if order != tuple(behaviors))


def _lane(
    spec: BenchSpec,
    dataset: DatasetInfo,
    label: str,
    method: MethodSpec,
    given: Mapping[str, Any],
    alone: str = "",
) -> Lane:
    name = str(given["method"])
    if name not in names():
        return Lane(spec, dataset, label, name, error=f"There is no method {name!r}.", alone=alone)
    grid = spec.grid if method.grid is None else method.grid
    try:
        points = candidates(
            grid,
            spec.trials,
            f"seed {spec.seeds[0]}",  # equal grids are searched at the same points
            lambda point: _choosable(_over(given, point, spec)),
        )
    except UsageError as error:
        raise UsageError(f"Row {label!r}: {error.message}", error.remedy) from error
    return Lane(spec, dataset, label, name, given, tuple(points), alone)
