"""Ids as numbers from 0: the places of users or items in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int32]

_SPARSE = 8  # a table over the range of ids may have so many places per row


def encode(chunks: Sequence[pa.ChunkedArray]) -> tuple[pa.Array, IntArray]:
    """Number ids.

    Args:
        chunks: Ids, all whole numbers or all dictionaries of texts; emptied on the way.

    Returns:
        The distinct ids in order (numbers by size, texts by their bytes), int64 or string, and
        the place there of every id given.
    """
    if pa.types.is_dictionary(chunks[0].type):
        parts = [chunk for part in chunks for chunk in part.chunks]
        return _encode_texts(pa.chunked_array(parts, chunks[0].type))
    found, codes = _encode_numbers([part.to_numpy() for chunk in chunks for part in chunk.chunks])
    return pa.array(found.astype(np.int64)), codes


def renumbered(
    ids: pa.Array, codes: IntArray, *, as_numbers: bool = False
) -> tuple[pa.Array, IntArray]:
    """Leave out ids that no row has.

    Args:
        ids: The distinct ids, in order.
        codes: Their places (N,) in the rows that are left; changed in place.
        as_numbers: Write texts as numbers if all can be, and nothing is lost.

    Returns:
        The same for what is left; the order may be another.
    """
    present = np.zeros(len(ids), dtype=bool)
    present[codes] = True
    kept = ids.filter(pa.array(present))
    places = np.cumsum(present, dtype=np.int32) - np.int32(1)
    numbers = _whole_numbers(kept) if as_numbers else None
    if numbers is not None:
        order = np.argsort(numbers)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        kept, places = pa.array(numbers[order]), rank[places]
    elif present.all():
        return kept, codes
    np.take(places, codes, out=codes, mode="clip")
    return kept, codes


def _encode_numbers(
    chunks: Sequence[npt.NDArray[Any]],
) -> tuple[npt.NDArray[Any], IntArray]:
    """Number by number of a chunk: of all rows there is nothing but the result."""
    chunks = [chunk for chunk in chunks if len(chunk)]
    codes = np.empty(sum(map(len, chunks)), dtype=np.int32)
    if not chunks:
        return np.empty(0, dtype=np.int64), codes
    low = min(int(chunk.min()) for chunk in chunks)
    high = max(int(chunk.max()) for chunk in chunks)
    if high - low < _SPARSE * len(codes):
        present = np.zeros(high - low + 1, dtype=bool)
        for chunk in chunks:
            present[chunk.astype(np.int64) - low] = True
        rank = np.cumsum(present, dtype=np.int32) - np.int32(1)
        found = np.flatnonzero(present) + low
        parts = (rank[chunk.astype(np.int64) - low] for chunk in chunks)
    else:
        ordered = np.sort(np.concatenate(chunks))
        found = ordered[np.append(True, ordered[1:] != ordered[:-1])]
        del ordered
        parts = (np.searchsorted(found, chunk).astype(np.int32) for chunk in chunks)
    start = 0
    for part in parts:
        codes[start : start + len(part)] = part
        start += len(part)
    return found, codes


def _encode_texts(chunks: pa.ChunkedArray) -> tuple[pa.Array, IntArray]:
    unified = chunks.unify_dictionaries()
    words = unified.chunk(0).dictionary if unified.num_chunks else pa.array([], pa.string())
    order = pc.sort_indices(words.cast(pa.binary())).to_numpy()
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    parts = [rank[chunk.indices.to_numpy()] for chunk in unified.chunks]
    codes = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
    return words.take(pa.array(order)), codes


def _whole_numbers(ids: pa.Array) -> npt.NDArray[np.int64] | None:
    """The ids as numbers if all are whole numbers in the canonical form; see `clock.whole_number`.

    None if they are not, or numbers already.
    """
    if pa.types.is_integer(ids.type):
        return None
    if not pc.all(pc.match_substring_regex(ids, r"^(?:0|-?[1-9][0-9]{0,18})$")).as_py():
        return None
    try:
        numbers: npt.NDArray[np.int64] = ids.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:  # more than 64 bits
        return None
    return numbers
