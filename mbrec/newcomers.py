"""Lists for users whom a run does not know, from what they have done since.

The run stays as it is: items keep what was learned of them, and only the users are new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mbrec.columns import BEHAVIOR, ITEM_ID, TIMESTAMP, USER_ID
from mbrec.device import pick_device
from mbrec.errors import DataError
from mbrec.export import (
    ExcludeSeen,
    alone,
    known_behaviors,
    open_lists,
    write_lists,
)
from mbrec.files import refuse_loss
from mbrec.folding import FoldIn
from mbrec.graph import Pairs, merge
from mbrec.list_tables import Ids
from mbrec.models.base import Times
from mbrec.ranking import Exclusion
from mbrec.results import Progress
from mbrec.run import Run
from mbrec.scoring import Scorer

Indices = npt.NDArray[Any]


@dataclass(frozen=True)
class Newcomers:
    """Users whom a run does not know, and what of their events it can use."""

    user_ids: pa.Array  # (N,) of the run's type if they fit it, else text; ascending
    relations: dict[str, Pairs]  # behavior → distinct pairs of newcomers and known items
    times: dict[str, Times]  # behavior → Unix seconds of these pairs, where the log has them
    known_users: int  # users of the log that the run knows; their events are not used
    unknown_items: int  # items of newcomers that it does not know
    lost_events: int  # events with such items
    lost_users: int  # newcomers who have no other events


@dataclass(frozen=True)
class NewLists:
    """What was written."""

    path: Path
    k: int
    exclude_seen: ExcludeSeen
    behaviors: tuple[str, ...]
    users: int
    rows: int
    short_lists: int
    known_users: int
    unknown_items: int
    lost_events: int
    lost_users: int

    def summary(self) -> dict[str, Any]:
        """The same as plain types."""
        return {**vars(self), "path": str(self.path), "behaviors": list(self.behaviors)}


def find_newcomers(run: Run, events: pa.Table) -> Newcomers:
    """Sort out the events of users whom the run does not know.

    Args:
        run: Which users, items and behaviors are known.
        events: user_id, item_id and behavior as text, each once; timestamp, if there.

    Raises:
        DataError: No event is left.
    """
    known = pc.is_in(events[USER_ID], value_set=run.user_ids.cast(pa.string()))
    fresh = events.filter(pc.invert(known))
    places = pc.index_in(fresh[ITEM_ID], value_set=run.item_ids.cast(pa.string()))
    usable = pc.is_valid(places)
    kept, lost = fresh.filter(usable), fresh.filter(pc.invert(usable))
    known_users = len(pc.unique(events.filter(known)[USER_ID]))
    if not len(kept):
        raise DataError(
            f"The log has no new user with an item that {run.path} knows: {known_users:,} users "
            f"are known already, {len(lost):,} events are of unknown items.",
            "Give raw ids, as in the log that the run was trained on.",
        )
    texts = pc.unique(kept[USER_ID])
    users = _as_ids(texts, run.user_ids.type)
    order = pc.sort_indices(users)
    user_idx = pc.index_in(kept[USER_ID], value_set=texts.take(order)).to_numpy()
    item_idx = places.filter(usable).to_numpy()
    relations, times = {}, {}
    for name in run.behaviors:
        rows = pc.equal(kept[BEHAVIOR], name).to_numpy()
        relations[name], place = _pairs(user_idx[rows], item_idx[rows], len(run.item_ids))
        if TIMESTAMP in kept.column_names:
            found = kept[TIMESTAMP].filter(rows)
            if found.null_count < len(found):
                times[name] = found.fill_null(np.iinfo(np.int64).min).to_numpy()[place]
    return Newcomers(
        user_ids=users.take(order),
        relations=relations,
        times=times,
        known_users=known_users,
        unknown_items=len(pc.unique(lost[ITEM_ID])),
        lost_events=len(lost),
        lost_users=len(pc.unique(fresh[USER_ID])) - len(texts),
    )


def export_new_users(
    path: Path | str,
    out: Path | str,
    events: pa.Table,
    *,
    k: int = 20,
    behaviors: Sequence[str] | None = None,
    exclude_seen: ExcludeSeen = "same",
    data: Path | str | None = None,
    device: str = "auto",
    force: bool = False,
    spreadsheet: bool = False,
    progress: Progress | None = None,
) -> NewLists:
    """Write the top-K lists of users whom a run does not know, atomically.

    Args:
        path: The run's folder.
        out: A .parquet, .csv or .jsonl file (.csv.gz and .jsonl.gz too).
        events: What users have done: user_id, item_id and behavior as text, each once, and the
            timestamp, if there, of first or last as the dataset keeps it
            (`mbrec.data_prep.events.read_events` gives that). Users whom the run knows get no list.
        k: Length of the lists; shorter only where fewer items are left.
        behaviors: Which lists; by default all.
        exclude_seen: As for `mbrec.export.export_run`, by what stands in `events`.
        data: Where the dataset is; by default, where it was at training.
        device: "auto", "cpu" or "cuda".
        force: Replace an existing file.
        spreadsheet: See `mbrec.tables.table_writer`.
        progress: Called now and then with behavior, users done and users in all.

    Raises:
        UsageError: See `mbrec.export.export_run`.
        DataError: No event of a new user and a known item is left.
        ArtefactError: The run or the dataset is missing or damaged, or the method's scores do not
            follow from what users have done.
        DeviceError: CUDA was asked for and there is none.
    """
    out = Path(out)
    open_lists(out, force=force, spreadsheet=spreadsheet)
    run, place = Run(path), pick_device(device)
    refuse_loss(out, run.files())
    names = known_behaviors(behaviors, run)
    found = find_newcomers(run, events)
    count, num_items = len(found.user_ids), len(run.item_ids)
    relations = run.dataset(data, splits=("train",)).train_relations()
    training = {name: relations[name] for name in run.behaviors}  # it may be of some of them
    fold = FoldIn(training, found.relations, len(run.user_ids), count, num_items, found.times)
    seen = _seen(found, exclude_seen, num_items)

    def lists() -> Iterator[tuple[str, Scorer, Exclusion | None]]:
        for name in names:
            what = f"{run.path} ({run.model}), {name!r}"
            yield name, fold.scorer(run.scorer(name), what).to(place), seen.get(name)

    with alone(out, run):
        rows, short = write_lists(
            out,
            Ids(found.user_ids, run.item_ids),
            torch.arange(count),
            k,
            lists(),
            spreadsheet,
            progress,
        )
    return NewLists(
        path=out,
        k=k,
        exclude_seen=exclude_seen,
        behaviors=names,
        users=count,
        rows=rows,
        short_lists=short,
        known_users=found.known_users,
        unknown_items=found.unknown_items,
        lost_events=found.lost_events,
        lost_users=found.lost_users,
    )


def _as_ids(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Of the type that the run's ids have, if all are numbers; else as they are."""
    try:
        ids = texts.cast(kind)
    except pa.ArrowInvalid:
        return texts
    return ids if ids.cast(pa.string()).equals(texts.cast(pa.string())) else texts


def _pairs(user_idx: Indices, item_idx: Indices, num_items: int) -> tuple[Pairs, Indices]:
    """The pairs, sorted, and where each stood."""
    keys, place = np.unique(user_idx.astype(np.int64) * num_items + item_idx, return_index=True)
    users, items = np.divmod(keys, max(num_items, 1))
    return Pairs(users.astype(np.int32), items.astype(np.int32)), place


def _seen(found: Newcomers, exclude_seen: ExcludeSeen, num_items: int) -> Mapping[str, Exclusion]:
    """Behavior → the items that its lists leave out."""
    count = len(found.user_ids)
    if exclude_seen == "none":
        return {}
    if exclude_seen == "any":
        everything = Exclusion.from_pairs(merge(found.relations, num_items), count)
        return dict.fromkeys(found.relations, everything)
    return {name: Exclusion.from_pairs(pairs, count) for name, pairs in found.relations.items()}
