"""Export of embeddings: the vectors behind the scores, for libraries of nearest neighbors.

    embeddings.json              model, behaviors, metric, and which file holds what
    users.parquet, items.parquet user_id and item_id, in the order of the vectors
    <behavior>.users.npy         (U, d) float32
    <behavior>.items.npy         (I, d) float32
    <behavior>.items.faiss       a FAISS flat index of the items, where asked for

The score of a user and an item is the inner product of their vectors (equation 12 of BiGEL).
Reading the folder needs neither torch nor DGL, only numpy and pyarrow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mbrec.columns import ITEM_ID, USER_ID
from mbrec.errors import ArtefactError, DeviceError
from mbrec.export import known_behaviors
from mbrec.files import atomic_folder, refuse_existing, sha256, write_json
from mbrec.run import Run
from mbrec.scoring import Factors, Scorer, Sum, Weighted

SCHEMA_VERSION = 1
ABOUT = "embeddings.json"
USERS = "users.parquet"
ITEMS = "items.parquet"
FILES = (ABOUT, USERS, ITEMS, "*.users.npy", "*.items.npy", "*.items.faiss")  # as for `fnmatch`
METRIC = "inner product"

_LONGEST = 80  # characters of a behavior's name in the name of a file


@dataclass(frozen=True)
class Embeddings:
    """What was written."""

    path: Path
    model: str
    sizes: dict[str, int]  # behavior → d
    users: int
    items: int
    faiss: bool

    def summary(self) -> dict[str, Any]:
        """The same as plain types."""
        return {
            "embeddings": str(self.path),
            "model": self.model,
            "metric": METRIC,
            "sizes": dict(self.sizes),
            "users": self.users,
            "items": self.items,
            "faiss": self.faiss,
        }


def export_embeddings(
    path: Path | str,
    out: Path | str,
    *,
    behaviors: Sequence[str] | None = None,
    faiss: bool = False,
    force: bool = False,
) -> Embeddings:
    """Write the vectors of a run as .npy files with the shop's ids, atomically.

    Args:
        path: The run's folder.
        out: The folder to make.
        behaviors: Which ones; by default all.
        faiss: Write a FAISS flat index of the items of each behavior, too.
        force: Replace a folder of embeddings.

    Raises:
        UsageError: An unknown behavior, or `out` exists.
        ArtefactError: The run is missing or damaged, or its method does not score by embeddings.
        DeviceError: FAISS was asked for and is not installed.

    Memory holds the run and the vectors of one behavior.
    """
    out = Path(out)
    refuse_existing(out, force=force, marker=ABOUT, known=FILES)
    write_index = _index_writer() if faiss else None
    run = Run(path)
    names = known_behaviors(behaviors, run)
    found = {name: _required(run, name) for name in names}
    files: dict[str, dict[str, Any]] = {}
    with atomic_folder(out, force=force, marker=ABOUT, known=FILES) as folder:
        for name, factors in found.items():
            stem = _stem(name, run.behaviors.index(name))
            users, items = (_plain(table) for table in (factors.user_emb, factors.item_emb))
            files[name] = {"size": users.shape[1]}
            for side, table in (("users", users), ("items", items)):
                files[name][side] = f"{stem}.{side}.npy"
                _save(folder / files[name][side], table)
            if write_index is not None:
                files[name]["faiss"] = f"{stem}.items.faiss"
                write_index(items, folder / files[name]["faiss"])
        pq.write_table(pa.table({USER_ID: run.user_ids}), folder / USERS)
        pq.write_table(pa.table({ITEM_ID: run.item_ids}), folder / ITEMS)
        write_json(folder / ABOUT, _about(run, files, folder))
    sizes = {name: int(entry["size"]) for name, entry in files.items()}
    return Embeddings(out, run.model, sizes, len(run.user_ids), len(run.item_ids), faiss)


def _save(path: Path, table: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """`np.save`, which has an error of its own for a full disk, without the system's number."""
    table = np.ascontiguousarray(table)
    with path.open("wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(table)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(table.data)


def as_factors(scorer: Scorer) -> Factors | None:
    """One pair of embeddings with the same inner products, or None where there is none.

    The parts of a sum stand side by side, the users' multiplied by the weight of the part:
    Σ_p w_p ⟨u_p, i_p⟩ = ⟨(w_1 u_1, w_2 u_2, …), (i_1, i_2, …)⟩.
    """
    if isinstance(scorer, Factors):
        return scorer
    if isinstance(scorer, Weighted):
        inner = as_factors(scorer.inner)
        return inner and _weighted(inner, scorer.by_user, scorer.by_item)
    if not isinstance(scorer, Sum):
        return None
    parts = [factors for part in scorer.parts if (factors := as_factors(part)) is not None]
    if len(parts) < len(scorer.parts):
        return None
    users = [part.user_emb * weight for part, weight in zip(parts, scorer.weights, strict=True)]
    return Factors(torch.cat(users, 1), torch.cat([part.item_emb for part in parts], 1))


def _weighted(inner: Factors, by_user: torch.Tensor, by_item: torch.Tensor) -> Factors:
    """(a_u + b_i) ⟨u, i⟩ = ⟨(a_u u, u), (i, b_i i)⟩."""
    users, items = inner.user_emb, inner.item_emb
    return Factors(
        torch.cat([users * by_user[:, None], users], 1),
        torch.cat([items, items * by_item[:, None]], 1),
    )


def _required(run: Run, behavior: str) -> Factors:
    factors = as_factors(run.scorer(behavior))
    if factors is None:
        raise ArtefactError(
            f"{run.path} has no embeddings to write: its method {run.model!r} scores {behavior!r} "
            "by the users' histories, or by them and embeddings together.",
            "Take its lists from `mbrec export --out`, or its scores from `mbrec serve`.",
        )
    return factors


def _plain(table: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = table.detach().cpu().contiguous().numpy()
    return array


def _stem(behavior: str, place: int) -> str:
    """How the files of a behavior begin: its name, if that can be part of a file's name."""
    safe = re.sub(r"[^\w-]+", "_", behavior)[:_LONGEST]
    return behavior if safe == behavior else f"{place}-{safe}"


def _about(run: Run, files: dict[str, dict[str, Any]], folder: Path) -> dict[str, Any]:
    written = sorted(entry.name for entry in folder.iterdir())
    return {
        "schema_version": SCHEMA_VERSION,
        "model": run.model,
        "metric": METRIC,
        "run": str(run.path.resolve()),
        "dataset_hash": run.dataset_hash,
        "users": {"count": len(run.user_ids), "ids": USERS},
        "items": {"count": len(run.item_ids), "ids": ITEMS},
        "behaviors": files,
        "files": {name: sha256(folder / name) for name in written},
    }


def _index_writer() -> Any:
    """Writes item vectors as a FAISS index that searches all of them, by inner product."""
    try:
        faiss = import_module("faiss")
    except ImportError as error:
        raise DeviceError(
            f"FAISS cannot be loaded ({error}).", "Install it: pip install 'mbrec[ann]'."
        ) from error

    def write(items: np.ndarray[Any, np.dtype[np.float32]], path: Path) -> None:
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
        faiss.write_index(index, str(path))

    return write
