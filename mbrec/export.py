"""Export: the top-K lists of a run as a table, with the shop's own ids.

Columns: user_id, behavior, rank (1 is best), item_id, score. Rows are grouped by behavior, then by
user. Lists are written as they are ranked, so memory does not grow with the number of users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mbrec.columns import SPLITS
from mbrec.device import pick_device
from mbrec.errors import DataError, UsageError
from mbrec.files import atomic_path, refuse_file_above, refuse_loss
from mbrec.graph import merge
from mbrec.list_tables import Ids, rows_of, schema_of
from mbrec.locks import locked
from mbrec.parallel.ranking import top_k_together
from mbrec.parallel.team import ALONE, Team
from mbrec.ranking import Exclusion, TopK, tile_height
from mbrec.results import Progress
from mbrec.run import Run
from mbrec.scoring import Scorer
from mbrec.storage import storage_errors
from mbrec.tables import count_risky, table_writer
from mbrec.user_lists import find_users, read_user_list

ExcludeSeen = Literal["same", "any", "none"]

_STEP_ROWS = 1 << 19  # rows written at a time
_STEP_USERS = 256  # at least, rounded up to whole tiles
_NAMED = 5  # unknown users that are named

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    k: int
    exclude_seen: ExcludeSeen
    behaviors: tuple[str, ...]
    users: int  # for each of which every behavior has a list
    rows: int
    short_lists: int  # lists with fewer than k items
    unknown_users: tuple[str, ...]  # asked for, but not in the run

    def summary(self) -> dict[str, Any]:
        """The same as plain types, the first few unknown users by name."""
        return {
            "out": str(self.path),
            "k": self.k,
            "exclude_seen": self.exclude_seen,
            "behaviors": list(self.behaviors),
            "users": self.users,
            "rows": self.rows,
            "short_lists": self.short_lists,
            "unknown_users": {
                "count": len(self.unknown_users),
                "first": list(self.unknown_users[:_NAMED]),
            },
        }


def export_run(
    path: Path | str,
    out: Path | str,
    *,
    k: int = 20,
    behaviors: Sequence[str] | None = None,
    users: Path | str | Sequence[int | str] | None = None,
    exclude_seen: ExcludeSeen = "same",
    data: Path | str | None = None,
    device: str = "auto",
    force: bool = False,
    spreadsheet: bool = False,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Export:
    """Write the top-K lists of a run, atomically.

    Args:
        path: The run's folder.
        out: A .parquet, .csv or .jsonl file (.csv.gz and .jsonl.gz too).
        k: Length of the lists; shorter only where fewer items are left.
        behaviors: Which lists; by default all.
        users: Whose lists, in this order: raw ids, or a file of them (see `read_user_list`);
            by default all users of the run. A user named twice gets one list.
        exclude_seen: "same" leaves out what the user has done in the list's behavior, "any" what
            she has done in any behavior, "none" nothing. Unlike in evaluation, rows of all splits
            count as done: an export is for use.
        data: Where the dataset is (needed unless `exclude_seen` is "none"); by default, where it
            was at training.
        device: "auto", "cpu" or "cuda".
        force: Replace an existing file.
        spreadsheet: Write CSV that a spreadsheet does not run, see `table_writer`. By default ids
            are written as they are, for programs to read.
        progress: Called now and then with behavior, users done and users in all.
        team: Processes that split the users; all call it, and the first writes.

    Raises:
        UsageError: An unknown suffix or behavior, `k` below 1, `out` exists, or `spreadsheet` and
            no CSV.
        DataError: None of `users` is in the run, or their file cannot be read.
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.
        DeviceError: CUDA was asked for and there is none.
        BusyError: `out` lies in the run, into which another process writes.
        StorageError: The disk is full, or `out` cannot be written.
    """
    out = Path(out)
    open_lists(out, force=force, spreadsheet=spreadsheet)
    run, place = Run(path), pick_device(device)
    refuse_loss(out, [*run.files(), *([users] if isinstance(users, (str, Path)) else [])])
    names = known_behaviors(behaviors, run)
    user_idx, unknown = _select(users, run)
    exclusions = seen_items(run, names, exclude_seen, data)
    lists = ((name, run.scorer(name).to(place), exclusions(name)) for name in names)
    ids = Ids(run.user_ids, run.item_ids)
    if team.first:
        with alone(out, run):
            rows, short = write_lists(out, ids, user_idx, k, lists, spreadsheet, progress, team)
    else:
        rows, short = 0, 0
        for _ in _ranked(user_idx, k, lists, progress, team):
            pass
    return Export(out, k, exclude_seen, names, len(user_idx), rows, short, tuple(unknown))


def open_lists(out: Path, *, force: bool, spreadsheet: bool) -> None:
    """Refuse an output that cannot be written, before anything is computed.

    Raises:
        UsageError: An unknown suffix, `out` exists, or `spreadsheet` and no CSV.
    """
    table_writer(out, spreadsheet=spreadsheet)
    refuse_file_above(out)
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Give the path of a file.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already.", "Choose another file, or add --force.")


def write_lists(
    out: Path,
    ids: Ids,
    user_idx: Tensor,
    k: int,
    lists: Iterable[tuple[str, Scorer, Exclusion | None]],
    spreadsheet: bool = False,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> tuple[int, int]:
    """Rank and write lists, atomically.

    Args:
        out: A file, as `open_lists` lets it pass.
        ids: Of the scorers' users and items.
        user_idx: Whose lists, (N,).
        k: Their length.
        lists: Behavior, what ranks it, and what is left out.
        spreadsheet: See `table_writer`.
        progress: Called now and then with behavior, users done and users in all.
        team: This is the first of those that split the users.

    Returns:
        Rows written, and how many lists have fewer than k items.
    """
    rows, short = 0, 0
    open_writer = table_writer(out, spreadsheet=spreadsheet)
    with atomic_path(out) as temporary, open_writer(temporary, schema_of(ids)) as write:
        for behavior, batch, best in _ranked(user_idx, k, lists, progress, team):
            table = rows_of(ids, behavior, batch, best)
            write(table)
            rows += len(table)
            short += int((best.items[:, -1] < 0).sum())
    if not spreadsheet:
        _warn_of_formulas(out, ids)
    return rows, short


def _ranked(
    user_idx: Tensor,
    k: int,
    lists: Iterable[tuple[str, Scorer, Exclusion | None]],
    progress: Progress | None,
    team: Team,
) -> Iterator[tuple[str, Tensor, TopK]]:
    """Behavior, some users and their lists, until all behaviors and users are through."""
    for behavior, scorer, exclude in lists:
        for start, batch in _steps(user_idx, k, scorer.device):
            yield behavior, batch, top_k_together(team, scorer, batch, k, exclude)
            if progress is not None:
                progress(behavior, start + len(batch), len(user_idx))


@contextmanager
def alone(out: Path, run: Run) -> Iterator[None]:
    """Make the folder of `out`; if that is in the run, keep other writers out of it."""
    within = out.resolve().is_relative_to(run.path.resolve())
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(run.path) if within else nullcontext():
            yield


def _warn_of_formulas(out: Path, ids: Ids) -> None:
    risky = count_risky(ids.users) + count_risky(ids.items)
    if risky and ".csv" in out.name.lower():
        log.warning(
            "%d ids begin as formulas do; %s has them as they are. For a spreadsheet, export with "
            "--spreadsheet-safe.",
            risky,
            out,
        )


def known_behaviors(behaviors: Sequence[str] | None, run: Run) -> tuple[str, ...]:
    """The behaviors to export, in cascade order."""
    unknown = [name for name in behaviors or () if name not in run.behaviors]
    if unknown:
        raise UsageError(
            f"{run.path} has no behavior {unknown[0]!r}.", f"It has {', '.join(run.behaviors)}."
        )
    return tuple(name for name in run.behaviors if not behaviors or name in behaviors)


def _select(
    users: Path | str | Sequence[int | str] | None, run: Run
) -> tuple[Tensor, Sequence[str]]:
    """Indices of the users to export, and the ids among them that the run does not know."""
    if users is None:
        return torch.arange(len(run.user_ids)), ()
    wanted = read_user_list(Path(users)) if isinstance(users, (str, Path)) else list(users)
    found, unknown = find_users(wanted, run.user_ids)
    named = ", ".join(unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
    asked = len(found) + len(unknown)
    if not len(found):
        raise DataError(
            f"None of the {asked} users asked for is in {run.path}: {named}.",
            "Give ids as they are in the raw log.",
        )
    if unknown:
        log.warning(
            "%d of the %d users asked for are not in %s and get no list: %s.",
            len(unknown),
            asked,
            run.path,
            named,
        )
    return torch.from_numpy(found), unknown


def seen_items(
    run: Run, behaviors: Sequence[str], seen: ExcludeSeen, data: Path | str | None
) -> Callable[[str], Exclusion | None]:
    """Behavior → the items that its lists leave out."""
    if seen == "none":
        return lambda behavior: None
    dataset = run.dataset(data)

    def done(names: Sequence[str]) -> Exclusion:
        parts = {
            f"{name} {split}": dataset.pairs(name, split) for name in names for split in SPLITS
        }
        return Exclusion.from_pairs(merge(parts, dataset.num_items), dataset.num_users)

    if seen == "same":
        return lambda behavior: done([behavior])
    everything = done(dataset.behaviors)
    return lambda behavior: everything


def _steps(user_idx: Tensor, k: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Batches of users, whole tiles of the device, with the number of users before them."""
    height = tile_height(device)
    least = -(-_STEP_USERS // height) * height
    step = max(_STEP_ROWS // (k * least), 1) * least
    for start in range(0, len(user_idx), step):
        yield start, user_idx[start : start + step]
