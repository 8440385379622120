"""A handful of users: what they did, and what every run recommends to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from mbrec.columns import Split
from mbrec.dataset import PreparedDataset
from mbrec.ranking import Exclusion, top_k
from mbrec.report.blocks import Heading, Item, ItemList, Section, UserCard, Users, shown
from mbrec.report.material import Material, Subject

HISTORY = 12  # items of a history that are shown, per behavior
LISTED = 10
_LEAD = (
    "Not picked for their figures: of the users with held-out rows, ordered by the number of their "
    "training pairs, these stand at equal distances from the least to the most active. "
    "✓ held out: the user did do this. ↺: she did it in training, in another behavior."
)

IntArray = npt.NDArray[np.int64]
Mark = Callable[[int], Sequence[tuple[str, str]]]


def sample_users(material: Material) -> Section | None:
    """Cards of users of every dataset; None where no dataset is there, or nobody was asked for."""
    blocks: list[Heading | Users] = []
    if not material.sample_users:
        return None
    for dataset, subjects in material.datasets:
        if len(material.datasets) > 1:
            blocks.append(Heading(f"Dataset of {', '.join(s.letter for s in subjects)}"))
        blocks.append(Users(list(_cards(dataset, subjects, material))))
    return Section("users", "Some users", _LEAD, blocks) if blocks else None


def chosen(dataset: PreparedDataset, split: Split, number: int) -> IntArray:
    """Indices of users with held-out rows, spread evenly over activity; no randomness."""
    held = [dataset.pairs(behavior, split).user_idx for behavior in dataset.behaviors]
    users = np.unique(np.concatenate(held)).astype(np.int64)
    activity = np.zeros(dataset.num_users, np.int64)
    for pairs in dataset.train_relations().values():
        activity += np.bincount(pairs.user_idx, minlength=dataset.num_users)
    ordered = users[np.lexsort((users, activity[users]))]
    places = (np.arange(number) + 0.5) / number * len(ordered)
    found: IntArray = ordered[np.unique(places.astype(int))] if len(ordered) else ordered
    return found


def _cards(
    dataset: PreparedDataset, subjects: list[Subject], material: Material
) -> Iterator[UserCard]:
    users = chosen(dataset, material.split, material.sample_users)
    train = {b: _of(dataset, b, "train", users) for b in dataset.behaviors}
    held = {b: _of(dataset, b, material.split, users) for b in dataset.behaviors}
    ranked = {
        behavior: [
            (subject, _ranked(subject, dataset, behavior, users))
            for subject in subjects
            if behavior in subject.run.behaviors
        ]
        for behavior in dataset.behaviors
    }
    for place, user in enumerate(users):
        history = [_history(dataset, b, train[b][place]) for b in dataset.behaviors]
        lists = [
            (
                shown(behavior),
                [
                    _list(dataset, rows[place], subject.letter if material.several else "", mark)
                    for subject, rows in runs
                ],
            )
            for behavior, runs in ranked.items()
            for mark in [partial(_marks, behavior=behavior, place=place, held=held, train=train)]
        ]
        pairs = sum(len(train[b][place]) for b in dataset.behaviors)
        out = sum(len(held[b][place]) for b in dataset.behaviors)
        yield UserCard(
            shown(dataset.user_ids[int(user)].as_py()),
            f"{pairs:,} training pairs, {out:,} held-out {material.split} rows",
            [entry for entry in history if entry.items],
            [(behavior, found) for behavior, found in lists if found],
        )


def _list(dataset: PreparedDataset, items: IntArray, badge: str, mark: Mark) -> ItemList:
    found = [Item(_item_id(dataset, item), mark(item)) for item in items.tolist() if item >= 0]
    return ItemList("", found, badge=badge)


def _history(dataset: PreparedDataset, behavior: str, items: IntArray) -> ItemList:
    return ItemList(
        shown(behavior),
        [Item(_item_id(dataset, item)) for item in items[:HISTORY].tolist()],
        more=max(len(items) - HISTORY, 0),
    )


def _marks(
    item: int,
    *,
    behavior: str,
    place: int,
    held: Mapping[str, list[IntArray]],
    train: Mapping[str, list[IntArray]],
) -> list[tuple[str, str]]:
    marks = []
    if item in held[behavior][place]:
        marks.append(("✓", "held out: the user did this"))
    others = [b for b in train if b != behavior and item in train[b][place]]
    if others:
        marks.append(("↺", f"in training: {', '.join(map(shown, others))}"))
    return marks


def _ranked(
    subject: Subject, dataset: PreparedDataset, behavior: str, users: IntArray
) -> npt.NDArray[np.int64]:
    """Lists (N, 10) as they are measured: without the training items of the same behavior."""
    known = Exclusion.from_pairs(dataset.pairs(behavior, "train"), dataset.num_users)
    scorer = subject.run.scorer(behavior)
    found: npt.NDArray[np.int64] = top_k(
        scorer, torch.from_numpy(users), min(LISTED, dataset.num_items), known
    ).items.numpy()
    return found


def _of(dataset: PreparedDataset, behavior: str, split: Split, users: IntArray) -> list[IntArray]:
    """The items of each of some users, latest first where times are known."""
    pairs = dataset.pairs(behavior, split)
    times = dataset.timestamps(behavior, split).fill_null(0).to_numpy(zero_copy_only=False)
    left, right = (np.searchsorted(pairs.user_idx, users, side) for side in ("left", "right"))
    return [
        pairs.item_idx[start:stop][np.argsort(-times[start:stop], kind="stable")].astype(np.int64)
        for start, stop in zip(left, right, strict=True)
    ]


def _item_id(dataset: PreparedDataset, item: int) -> str:
    return shown(dataset.item_ids[item].as_py())
