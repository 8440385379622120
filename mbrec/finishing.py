"""What a new dataset is checked for, and what its manifest says of it.

The table is read in batches: of all its rows only the indices stay in memory, 8 bytes per
interaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.columns import BEHAVIOR, ITEM_IDX, SPLIT, SPLITS, TIMESTAMP, USER_IDX
from mbrec.errors import ArtefactError, DataError
from mbrec.graph import IntArray, Pairs
from mbrec.interactions import check_apart, check_nodes, codes_of
from mbrec.manifest import REMEDY, SCHEMA_VERSION

_ROWS = 1 << 18  # that are read at a time


@dataclass(frozen=True)
class NewTable:
    """A table of interactions that was just written.

    Attributes:
        path: The file.
        behaviors: The cascade order.
        user_idx: (N,), in the order of the file.
        item_idx: (N,)
        sizes: (K, 3) rows of every behavior and split.
    """

    path: Path
    behaviors: tuple[str, ...]
    user_idx: IntArray
    item_idx: IntArray
    sizes: npt.NDArray[np.int64]

    @classmethod
    def read(cls, path: Path, behaviors: Sequence[str]) -> NewTable:
        """Read a file whose rows are in order of behavior and split.

        Raises:
            ArtefactError: It cannot be read, or holds an unknown name.
            DataError: Its rows are in another order.
        """
        sizes = np.zeros(len(behaviors) * len(SPLITS), dtype=np.int64)
        rows = last = 0
        try:
            with pq.ParquetFile(path) as file:
                total = file.metadata.num_rows
            users, items = (np.empty(total, dtype=np.int32) for _ in range(2))
            for batch in _batches(path, USER_IDX, ITEM_IDX, BEHAVIOR, SPLIT):
                part = codes_of(batch[BEHAVIOR], behaviors) * np.int16(len(SPLITS))
                part += codes_of(batch[SPLIT], SPLITS)
                if part[0] < last or np.any(part[1:] < part[:-1]):
                    raise DataError("The interactions are not sorted by behavior and split.")
                last = part[-1]
                sizes += np.bincount(part, minlength=len(sizes))
                for found, name in ((users, USER_IDX), (items, ITEM_IDX)):
                    found[rows : rows + len(batch)] = batch[name].cast(pa.int32()).to_numpy()
                rows += len(batch)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise ArtefactError(f"{path} is damaged: {error}.", REMEDY) from error
        return cls(path, tuple(behaviors), users, items, sizes.reshape(-1, len(SPLITS)))

    def pairs(self, behavior: int, split: int) -> Pairs:
        """The pairs of a behavior and split by their numbers, without copying."""
        part = behavior * len(SPLITS) + split
        stop = int(self.sizes.ravel()[: part + 1].sum())
        rows = slice(stop - int(self.sizes[behavior, split]), stop)
        return Pairs(self.user_idx[rows], self.item_idx[rows])

    def relations(self) -> dict[str, Pairs]:
        """Behavior → its training pairs."""
        return {name: self.pairs(code, 0) for code, name in enumerate(self.behaviors)}

    def count(self) -> dict[str, dict[str, int]]:
        """Split → behavior → number of rows."""
        return {
            split: {name: int(self.sizes[k, s]) for k, name in enumerate(self.behaviors)}
            for s, split in enumerate(SPLITS)
        }

    def check(self, num_users: int, num_items: int) -> None:
        """Check what every reader relies on: known nodes, sorted, no pair twice in a behavior.

        Raises:
            DataError: Naming the behavior and splits that break them.
        """
        check_nodes(Pairs(self.user_idx, self.item_idx), num_users, num_items)
        for code, behavior in enumerate(self.behaviors):
            parts = [self.pairs(code, place) for place in range(len(SPLITS))]
            for pairs, split in zip(parts, SPLITS, strict=True):
                if not _ascending(pairs):
                    raise DataError(
                        f"The {split} rows of {behavior!r} are not sorted, or hold a pair twice."
                    )
            check_apart(parts, behavior, num_items)

    def content_hash(self, users: pa.ChunkedArray, items: pa.ChunkedArray) -> str:
        """A hash of what the dataset says, independent of how Parquet happens to store it.

        Args:
            users: The shop's ids.
            items: Likewise.
        """
        digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, list(self.behaviors)]).encode())
        for ids in (users, items):
            digest.update(f"|{ids.type}|{len(ids)}|".encode())
            if pa.types.is_integer(ids.type):
                digest.update(ids.to_numpy().tobytes())
            else:
                digest.update(pc.binary_length(ids).to_numpy().tobytes())
                digest.update("".join(ids.to_pylist()).encode())
        for array in (self.user_idx, self.item_idx):
            digest.update(b"|")
            digest.update(array.data)
        digest.update(b"|")
        for part, size in enumerate(self.sizes.ravel()):
            for start in range(0, int(size), _ROWS):
                numbers = np.full(min(_ROWS, int(size) - start), part, dtype=np.int16)
                digest.update(numbers.data)
        digest.update(b"|")
        for batch in _batches(self.path, TIMESTAMP):
            times = batch[TIMESTAMP].cast(pa.int64())
            known = pc.fill_null(times, np.iinfo(np.int64).min).to_numpy()
            digest.update(np.ascontiguousarray(known).data)
        return digest.hexdigest()


def _batches(path: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Some columns of the file, texts as dictionaries; no batch is empty."""
    with pq.ParquetFile(path, read_dictionary=[BEHAVIOR, SPLIT]) as file:
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            if len(batch):
                yield batch


def _ascending(pairs: Pairs) -> bool:
    """Whether pairs are in order of user and item, each once."""
    for start in range(0, len(pairs), _ROWS):
        users, items = (a[start : start + _ROWS + 1] for a in (pairs.user_idx, pairs.item_idx))
        greater = items[1:] > items[:-1]
        greater &= users[1:] == users[:-1]
        greater |= users[1:] > users[:-1]
        if not greater.all():
            return False
    return True
