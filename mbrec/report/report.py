"""A report on runs: `mbrec report`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbrec.errors import UsageError
from mbrec.files import refuse_file_above, refuse_loss, write_text
from mbrec.report.blocks import Section, shown
from mbrec.report.data import data as data_section
from mbrec.report.gates import gates
from mbrec.report.item_map import item_map
from mbrec.report.learning import learning
from mbrec.report.material import Material, gather
from mbrec.report.metrics import metrics
from mbrec.report.overview import overview
from mbrec.report.page import render
from mbrec.report.sample_users import sample_users
from mbrec.report.searched import searched
from mbrec.report.settings import settings
from mbrec.report.side_by_side import side_by_side
from mbrec.report.sliced import slices
from mbrec.results import HeldOut, Progress
from mbrec.run import Run
from mbrec.tune.summary import study_summary

Builder = Callable[[Material], Section | None]

SECTIONS: tuple[Builder, ...] = (
    overview,
    data_section,
    learning,
    metrics,
    side_by_side,
    slices,
    gates,
    item_map,
    sample_users,
    searched,
    settings,
)
"""What a report consists of, in its order. To add a section, write a function that makes one of the
material (or None, where the runs have nothing for it), and name it here: blocks, escaping, colors
and the contents of the page follow by themselves."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    runs: int
    split: HeldOut
    sections: tuple[str, ...]
    bytes: int

    def summary(self) -> dict[str, Any]:
        """The same as plain types."""
        return {
            "report": str(self.path),
            "runs": self.runs,
            "split": self.split,
            "sections": list(self.sections),
            "bytes": self.bytes,
        }


def write_report(
    runs: Sequence[Path | str],
    out: Path | str,
    *,
    split: HeldOut = "valid",
    data: Path | str | None = None,
    users: int = 5,
    studies: Sequence[Path | str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a page on one or several runs, atomically; the runs are only read.

    Args:
        runs: Their folders. The first is what the others are compared with.
        out: The file to write.
        split: The held-out rows that figures are of. Those that `mbrec evaluate` has stored are
            taken; the others are measured.
        data: Where the dataset is; by default, where it was at each training.
        users: How many sample users are shown; 0 for a page without any.
        studies: Folders of `mbrec tune`, whose trials are shown.
        force: Replace an existing file.
        progress: See `mbrec.evaluation.evaluate`.

    Raises:
        UsageError: No run, `users` is negative, or `out` exists.
        ArtefactError: A run, its dataset or a study is missing or damaged, or they do not belong
            together.
        DataError: A dataset has no rows in the split.
        DeviceError: A library of the extra `report` is not installed.
        StorageError: The file cannot be written.
    """
    out, paths = Path(out), [Path(path) for path in runs]
    _check(paths, out, users, force)
    searches = tuple(study_summary(folder) for folder in studies)
    material = gather(
        paths,
        split=split,
        data=None if data is None else Path(data),
        sample_users=users,
        progress=progress,
    )
    material = replace(material, studies=searches)
    sections = [section for build in SECTIONS if (section := build(material)) is not None]
    names = ", ".join(subject.name for subject in material.subjects)
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    page = render(f"Report: {names}", shown(f"{split} rows, made {made}"), sections)
    write_text(out, page)
    keys = tuple(section.key for section in sections)
    return Report(out, len(paths), split, keys, len(page.encode()))


def _check(paths: Sequence[Path], out: Path, users: int, force: bool) -> None:
    """What can be seen before anything is measured."""
    if not paths:
        raise UsageError("No run is named.", "Give at least one.")
    if users < 0:
        raise UsageError(f"There are no {users} users.", "Give 0 or more.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Name a file in it.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already.", "Choose another path, or add --force.")
    refuse_file_above(out)
    if not out.parent.is_dir():
        raise UsageError(f"The folder {out.parent} does not exist.", "Make it first.")
    refuse_loss(out, (file for path in paths for file in Run(path).files()))
