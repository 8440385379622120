"""Fixtures that several test modules use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from mbrec.dataset import (
    INTERACTIONS,
    ITEMS,
    REJECTS,
    REJECTS_SCHEMA,
    USERS,
    PreparedDataset,
    write_dataset,
)
from mbrec.interactions import INTERACTIONS_SCHEMA
from mbrec.run import Run, finish_run
from mbrec.scoring import Factors

# A shell that runs the tests in the background lets them, and every process they start, ignore
# SIGINT; tests that send it would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Row = tuple[int, int, str, str]  # user index, item index, behavior, split
TINY_BEHAVIORS = ("click", "favorite", "purchase")


def write_rows(
    path: Path,
    rows: Sequence[Row],
    *,
    users: int,
    items: int,
    behaviors: Sequence[str] = TINY_BEHAVIORS,
) -> PreparedDataset:
    """Write a prepared dataset of these rows; user 3 is "u3", item 3 is 1003."""
    order = {name: place for place, name in enumerate([*behaviors, "train", "valid", "test"])}
    ordered = sorted(rows, key=lambda row: (order[row[2]], order[row[3]], row[0], row[1]))
    columns = list(zip(*ordered, strict=True))
    with write_dataset(path) as writer:
        user_idx, item_idx = pa.array(range(users), pa.int32()), pa.array(range(items), pa.int32())
        user_ids, item_ids = [f"u{u}" for u in range(users)], [1000 + i for i in range(items)]
        pq.write_table(pa.table({"user_idx": user_idx, "user_id": user_ids}), writer.folder / USERS)
        pq.write_table(pa.table({"item_idx": item_idx, "item_id": item_ids}), writer.folder / ITEMS)
        data = [columns[0], columns[1], columns[2], range(len(ordered)), columns[3]]
        table = pa.table(
            [pa.array(c, f.type) for c, f in zip(data, INTERACTIONS_SCHEMA, strict=True)],
            schema=INTERACTIONS_SCHEMA,
        )
        pq.write_table(table, writer.folder / INTERACTIONS)
        pq.write_table(REJECTS_SCHEMA.empty_table(), writer.folder / REJECTS)
        writer.finish(behaviors, {"source": "test"})
    return PreparedDataset(path)


class Held(TorchDispatchMode):
    """Notes the most memory that results of operations held at the same time, in bytes.

    What an operation takes for itself while it runs, it does not see, nor operations of other
    threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                storage = part.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return result


@pytest.fixture
def held() -> Held:
    """To be entered around what is measured."""
    return Held()


@pytest.fixture(scope="session")
def write_planted() -> Callable[..., PreparedDataset]:
    """`write_rows`, for fixtures that live longer than a test."""
    return write_rows


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """Write a prepared dataset of given rows into a temporary folder: see `write_rows`."""

    def make(
        rows: Sequence[Row],
        *,
        users: int,
        items: int,
        behaviors: Sequence[str] = TINY_BEHAVIORS,
        name: str = "dataset",
    ) -> PreparedDataset:
        return write_rows(tmp_path / name, rows, users=users, items=items, behaviors=behaviors)

    return make


def tiny_rows() -> list[Row]:
    """24 users × 30 items with a planted taste: user u likes the items of residue u mod 3.

    Later behaviors are parts of earlier ones; `favorite` has no test rows; item 29 stands in
    test rows only, and user 23 has training rows only.
    """
    rng = np.random.default_rng(7)
    rows: list[Row] = []
    for user in range(24):
        liked = [item for item in range(29) if item % 3 == user % 3]
        clicked = rng.permutation(liked)[:8].tolist()
        held = {6: "valid", 7: "test"} if user != 23 else {}
        rows += [(user, item, "click", held.get(n, "train")) for n, item in enumerate(clicked)]
        rows += [(user, item, "favorite", "train") for item in clicked[:3]]
        rows += [(user, clicked[3], "favorite", "valid")] * (user % 2)
        rows += [(user, item, "purchase", "train") for item in clicked[1:5]]
        if user != 23:
            rows += [
                (user, clicked[5], "purchase", "valid"),
                (user, clicked[6], "purchase", "test"),
            ]
    rows.append((0, 29, "purchase", "test"))
    return rows


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The dataset of `tiny_rows`, with string user ids "u0"… and integer item ids 1000…."""
    path = tmp_path_factory.mktemp("tiny") / "dataset"
    return write_rows(path, tiny_rows(), users=24, items=30)


def planted_factors(dataset: PreparedDataset) -> dict[str, Factors]:
    """Factors that know the planted taste of `tiny_rows`: items of residue u mod 3 score best.

    Among them, and among the others, the lower index scores better by a little.
    """
    users, items = torch.arange(dataset.num_users), torch.arange(dataset.num_items)
    user_emb = torch.cat([torch.eye(3)[users % 3], torch.ones(dataset.num_users, 1)], dim=1)
    item_emb = torch.cat([torch.eye(3)[items % 3], -items[:, None] / 1024], dim=1)
    return {behavior: Factors(user_emb, item_emb) for behavior in dataset.behaviors}


def write_run(path: Path, dataset: PreparedDataset, factors: Mapping[str, Factors]) -> Run:
    """Write a finished run of these factors."""
    path.mkdir()
    finish_run(path, {"model": "planted", "seed": 1}, factors, dataset)
    return Run(path)


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_dataset: PreparedDataset) -> Run:
    """A finished run on `tiny_dataset` that ranks by the planted taste; tests may change it."""
    return write_run(tmp_path / "run", tiny_dataset, planted_factors(tiny_dataset))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Write a finished run of given factors into a temporary folder: see `write_run`."""

    def make(dataset: PreparedDataset, factors: Mapping[str, Factors], name: str = "run") -> Run:
        return write_run(tmp_path / name, dataset, factors)

    return make
