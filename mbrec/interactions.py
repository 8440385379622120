"""The rows of `interactions.parquet`, in memory: arrays, sorted, sliced without copying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mbrec.columns import BEHAVIOR, ITEM_IDX, SPLIT, SPLITS, TIMESTAMP, USER_IDX, Split
from mbrec.errors import ArtefactError, DataError
from mbrec.graph import IntArray, Pairs, by_users
from mbrec.guard import read_columns

INTERACTIONS_SCHEMA = pa.schema(
    [
        (USER_IDX, pa.int32()),
        (ITEM_IDX, pa.int32()),
        (BEHAVIOR, pa.string()),
        (TIMESTAMP, pa.int64()),
        (SPLIT, pa.string()),
    ]
)

_TWO_SPLITS: tuple[tuple[Split, Split], ...] = (
    ("train", "valid"),
    ("train", "test"),
    ("valid", "test"),
)


@dataclass(frozen=True)
class Interactions:
    """The columns of `interactions.parquet`, sorted by part, user and item.

    A part is one behavior's share of one split, numbered `3 * behavior + split`; each is a
    contiguous run of rows, so it is read without copying.
    """

    user_idx: IntArray  # (N,)
    item_idx: IntArray  # (N,)
    part: npt.NDArray[np.int16]  # (N,)
    timestamps: pa.Array  # (N,) int64, null where unknown

    @classmethod
    def read(cls, path: Path, behaviors: Sequence[str]) -> Interactions:
        """Read the file.

        Raises:
            ArtefactError: It is no Parquet file, lacks a column, or holds an unknown name.
        """
        try:
            table = read_columns(path, INTERACTIONS_SCHEMA.names, codes=(BEHAVIOR, SPLIT))
            behavior = codes_of(table[BEHAVIOR], behaviors)
            split = codes_of(table[SPLIT], SPLITS)
            timestamps = table[TIMESTAMP].cast(pa.int64())
            return cls(
                user_idx=_indices(table[USER_IDX]),
                item_idx=_indices(table[ITEM_IDX]),
                part=behavior * np.int16(len(SPLITS)) + split,
                timestamps=_one_chunk(timestamps),
            )
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise ArtefactError(
                f"{path} is damaged: {error}.", "Run `mbrec prep` again."
            ) from error

    def rows(self, behavior: int, split: Split) -> slice:
        """Where the rows of behavior number `behavior` and `split` stand."""
        part = behavior * len(SPLITS) + SPLITS.index(split)
        start, stop = np.searchsorted(self.part, [part, part + 1])
        return slice(int(start), int(stop))

    def pairs(self, rows: slice) -> Pairs:
        """The pairs of some rows, without copying."""
        return Pairs(self.user_idx[rows], self.item_idx[rows])

    def check_sound(self, behaviors: Sequence[str], num_users: int, num_items: int) -> None:
        """Check what was not written by `mbrec prep`: known nodes, sorted, no pair twice.

        Cheap enough for every opening: one pass, and a search for every held-out pair among those
        of training.

        Raises:
            DataError: Otherwise; a pair in two splits by the behavior and splits.
        """
        check_nodes(Pairs(self.user_idx, self.item_idx), num_users, num_items)
        part, user, item = (
            np.sign(np.diff(a.astype(np.int64))) for a in (self.part, self.user_idx, self.item_idx)
        )
        if np.any(4 * part + 2 * user + item <= 0):
            raise DataError("Its rows are not sorted, or hold a pair twice.")
        for code, behavior in enumerate(behaviors):
            parts = [self.pairs(self.rows(code, split)) for split in SPLITS]
            check_apart(parts, behavior, num_items)


def check_nodes(pairs: Pairs, num_users: int, num_items: int) -> None:
    """Refuse indices that stand for nobody or nothing.

    Raises:
        DataError: There are some.
    """
    for what, idx, count in (
        ("users", pairs.user_idx, num_users),
        ("items", pairs.item_idx, num_items),
    ):
        if len(idx) and not 0 <= idx.min() <= idx.max() < count:
            raise DataError(f"Some indices are not among the {count} {what}.")


def check_apart(parts: Sequence[Pairs], behavior: str, num_items: int) -> None:
    """Refuse a pair of one behavior in two splits. Memory: some 2^20 pairs at a time.

    Args:
        parts: The behavior's pairs, split by split, each sorted by user, then item.
        behavior: Its name.
        num_items: I.

    Raises:
        DataError: There is one; the message has the splits.
    """
    both = dict.fromkeys(_TWO_SPLITS, 0)
    for group in by_users(parts):
        keys = {split: pairs.keys(num_items) for split, pairs in zip(SPLITS, group, strict=True)}
        for first, second in _TWO_SPLITS:
            both[first, second] += _common(keys[first], keys[second])
    for (first, second), count in both.items():
        if count:
            raise DataError(
                f"{count} pairs of {behavior!r} stand in {first} and {second}.",
                "A pair of one behavior may stand in one split only.",
            )


def _common(among: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> int:
    """How many of `wanted` are in `among`, both ascending, each number once."""
    if not len(among):
        return 0
    places = np.searchsorted(among, wanted).clip(max=len(among) - 1)
    return int((among[places] == wanted).sum())


def _indices(column: pa.ChunkedArray) -> IntArray:
    """Whole numbers as int32; ValueError if a cell is empty or too large."""
    if column.null_count:
        raise ValueError("an index is missing")
    indices: IntArray = column.cast(pa.int32()).to_numpy()
    return indices


def codes_of(column: pa.ChunkedArray | pa.Array, names: Sequence[str]) -> npt.NDArray[np.int16]:
    """The position in `names` of every value of a dictionary-encoded column.

    Raises:
        ValueError: A value is missing, or not among `names`.
    """
    encoded = column
    if isinstance(column, pa.ChunkedArray):
        encoded = _one_chunk(column.unify_dictionaries())
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    known = {name: code for code, name in enumerate(names)}
    values = encoded.dictionary.to_pylist()
    lookup = np.array([known.get(value, -1) for value in values] or [0], dtype=np.int16)
    if encoded.null_count or (lookup < 0).any():
        raise ValueError(f"a value other than {', '.join(names)}")
    indices: npt.NDArray[np.int32] = encoded.indices.to_numpy()
    return lookup[indices]


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
