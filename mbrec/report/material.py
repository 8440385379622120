"""What a report is made from: the runs, read once."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import MbrecError
from mbrec.report.blocks import Heading, shown
from mbrec.report.measured import Measured, measure
from mbrec.results import HeldOut, Progress
from mbrec.resuming import own_settings
from mbrec.run import Run
from mbrec.statistics import dataset_statistics
from mbrec.summary import read_journal, run_summary
from mbrec.tune.summary import StudySummary


@dataclass(frozen=True)
class Subject:
    """A run, and all that sections ask of it."""

    letter: str  # what it is called beside others: A, B, …
    run: Run
    summary: Mapping[str, Any]  # what `mbrec.summary.run_summary` gives
    records: Sequence[Mapping[str, Any]]  # the lines of its journal, one per epoch
    dataset: PreparedDataset | None  # opened for training rows and the split; None if it is gone
    measured: Measured | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return shown(self.run.path.resolve().name)

    @property
    def settings(self) -> Settings | None:
        """Its settings; None where its method is not installed."""
        try:
            return own_settings(self.run.path)
        except MbrecError:
            return None


@dataclass(frozen=True)
class Material:
    """The runs of a report, in the order they were given."""

    subjects: tuple[Subject, ...]
    split: HeldOut
    sample_users: int
    data: Path | None  # where the dataset is, if it was said
    studies: tuple[StudySummary, ...] = ()  # searches for settings

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.subjects) > 1

    @property
    def behaviors(self) -> list[str]:
        """The behaviors of all runs."""
        return list(dict.fromkeys(b for subject in self.subjects for b in subject.run.behaviors))

    @property
    def lengths(self) -> list[int]:
        """All list lengths that some run was measured at."""
        return sorted({k for s in self.subjects if s.measured for k in s.measured.ks})

    @cached_property
    def datasets(self) -> list[tuple[PreparedDataset, list[Subject]]]:
        """Every dataset that is there, once, with the runs on it."""
        found: dict[str, tuple[PreparedDataset, list[Subject]]] = {}
        for subject in self.subjects:
            if subject.dataset is not None:
                key = subject.run.dataset_hash
                found.setdefault(key, (subject.dataset, []))[1].append(subject)
        return list(found.values())

    def statistics(self, dataset: PreparedDataset) -> dict[str, Any]:
        """What `mbrec inspect` says of a dataset; of its held-out parts that is counts alone."""
        return dataset_statistics(PreparedDataset(dataset.path))

    def heading(self, subject: Subject) -> list[Heading]:
        """What parts the runs from each other within a section; nothing for a single run."""
        if not self.several:
            return []
        return [Heading(f"{subject.name} · {shown(subject.run.model)}", subject.letter)]


def gather(
    paths: Sequence[Path],
    *,
    split: HeldOut,
    data: Path | None,
    sample_users: int,
    progress: Progress | None,
) -> Material:
    """Read the runs, and measure what was not measured yet.

    Raises:
        ArtefactError: A run or its dataset is missing, damaged, or they do not belong together.
        DataError: A dataset has no rows in the split.
    """
    subjects = []
    for letter, path in zip(_letters(len(paths)), paths, strict=True):
        run = Run(path)
        there = data is not None or run.dataset_path.exists()
        dataset = run.dataset(data, splits=("train", split)) if there else None
        subjects.append(
            Subject(
                letter,
                run,
                run_summary(path),
                read_journal(Path(path)),
                dataset,
                measure(run, dataset, split, progress),
            )
        )
    return Material(tuple(subjects), split, sample_users, data)


def _letters(number: int) -> list[str]:
    """A … Z, then A2, B2, …."""
    letters = string.ascii_uppercase
    return [
        letters[place % 26] + (str(place // 26 + 1) if place >= 26 else "")
        for place in range(number)
    ]
