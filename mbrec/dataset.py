"""The prepared dataset: one folder, its one reader and its one writer.

    manifest.json         what it is, the funnel, the split, versions, hashes
    users.parquet         user_idx ↔ user_id          items.parquet likewise
    interactions.parquet  user_idx, item_idx, behavior, timestamp, split
    graph.bin             DGL heterograph of the training pairs; a cache that can be made again
    rejects.parquet       malformed rows: file, line, reason, text

`interactions.parquet` is sorted by behavior (in cascade order), split, user and item.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns import GLOBAL, ITEM_ID, SPLITS, USER_ID, Split
from mbrec.errors import ArtefactError, DataError, DeviceError, LeakageError
from mbrec.files import atomic_folder, kept_aside, sha256, write_json
from mbrec.finishing import NewTable
from mbrec.graph import Pairs, build_graph, load_graph, merge, save_graph, whole_graph
from mbrec.guard import count_rows, inside, read_ids, seal
from mbrec.interactions import Interactions
from mbrec.manifest import REMEDY, SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
USERS = "users.parquet"
ITEMS = "items.parquet"
INTERACTIONS = "interactions.parquet"
GRAPH = "graph.bin"
REJECTS = "rejects.parquet"

FILES = (MANIFEST, USERS, ITEMS, INTERACTIONS, GRAPH, REJECTS)

REJECTS_SCHEMA = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)

log = logging.getLogger(__name__)


class PreparedDataset:
    """A prepared dataset, opened for reading.

    Args:
        path: The folder that `mbrec prep` wrote.
        splits: The splits that may be read. Whatever trains or selects opens the dataset without
            "test" and cannot reach a test row through it.

    Raises:
        ArtefactError: The folder is no prepared dataset, damaged, or of another schema version.
    """

    def __init__(self, path: Path | str, splits: Sequence[Split] = SPLITS) -> None:
        self.path = Path(path)
        self.splits = tuple(splits)
        if not (self.path / MANIFEST).is_file():
            aside = kept_aside(self.path)
            raise ArtefactError(
                f"{self.path} is no prepared dataset (it has no {MANIFEST}).",
                f"A killed `mbrec prep` left it in {aside}."
                if aside
                else "Make one with `mbrec prep`.",
            )
        content = Manifest.read(inside(self.path, MANIFEST))
        self.manifest = content.values
        self.behaviors = content.behaviors
        self.num_users, self.num_items = content.num_users, content.num_items
        self.content_hash = content.content_hash
        self._hashes = content.files
        self._sound: set[str] = set()  # files whose hash was right
        # Before anything is made for so many users and items, they have to be there.
        self._check_count(USERS, self.num_users)
        self._check_count(ITEMS, self.num_items)

    @property
    def target(self) -> str:
        """The last behavior of the cascade."""
        return self.behaviors[-1]

    @cached_property
    def user_ids(self) -> pa.Array:
        """The shop's user ids (int64 or string) at positions 0 … U-1."""
        return self._ids(USERS, USER_ID)

    @cached_property
    def item_ids(self) -> pa.Array:
        """The shop's item ids (int64 or string) at positions 0 … I-1."""
        return self._ids(ITEMS, ITEM_ID)

    def pairs(self, behavior: str, split: Split) -> Pairs:
        """The distinct pairs of one behavior and split, sorted by user, then item.

        Raises:
            LeakageError: `split` is not among the splits this dataset was opened with.
        """
        return self._part(behavior, split)[0]

    def timestamps(self, behavior: str, split: Split) -> pa.Array:
        """Unix seconds (int64, null where unknown) of the rows that `pairs` gives, in its order.

        Raises:
            LeakageError: `split` is not among the splits this dataset was opened with.
        """
        return self._part(behavior, split)[1]

    def _part(self, behavior: str, split: Split) -> tuple[Pairs, pa.Array]:
        """What `pairs` and `timestamps` give, without copying."""
        if split not in self.splits:
            raise LeakageError(
                f"The {split} rows of {self.path} were asked for by code that must not see them.",
                f"It opened the dataset for {', '.join(self.splits)} only.",
            )
        if behavior not in self.behaviors:
            raise DataError(
                f"{self.path} has no behavior {behavior!r}.",
                f"It has {', '.join(self.behaviors)}.",
            )
        table = self._interactions
        rows = table.rows(self.behaviors.index(behavior), split)
        return table.pairs(rows), table.timestamps.slice(rows.start, rows.stop - rows.start)

    def train_relations(self) -> dict[str, Pairs]:
        """Behavior → training pairs, in cascade order."""
        return {behavior: self.pairs(behavior, "train") for behavior in self.behaviors}

    def graph(self) -> Any:
        """The DGL heterograph of the training pairs; made again if its file is not that graph.

        The file is read only if its hash is the one that the manifest records, and what it holds is
        compared with `interactions.parquet`: who makes a graph that leaks can make its hash, too.
        """
        path = inside(self.path, GRAPH)
        relations = self.train_relations()
        if path.is_file() and sha256(path) == self._hashes.get(GRAPH):
            graph = load_graph(path, relations, self.num_users, self.num_items)
            if graph is not None:
                return graph
        log.warning("%s is missing or was changed; building the graph from %s.", path, INTERACTIONS)
        return build_graph(relations, self.num_users, self.num_items)

    @cached_property
    def _interactions(self) -> Interactions:
        path = self._checked(INTERACTIONS)
        table = Interactions.read(path, self.behaviors)
        try:
            table.check_sound(self.behaviors, self.num_users, self.num_items)
        except DataError as error:
            raise _damaged(path, error.message.rstrip(".")) from error
        return table

    def _ids(self, name: str, column: str) -> pa.Array:
        path = self._checked(name)
        try:
            return read_ids(path, column)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error

    def _check_count(self, name: str, count: int) -> None:
        path = self._checked(name)
        try:
            rows = count_rows(path)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        if rows != count:
            raise _damaged(path, f"it has {rows:,} ids where the manifest claims {count:,}")

    def _checked(self, name: str) -> Path:
        """The path of a file that has the hash that the manifest records."""
        path = inside(self.path, name)
        if not path.is_file():
            raise ArtefactError(f"{path} is missing.", REMEDY)
        if name not in self._sound and sha256(path) != self._hashes.get(name):
            raise _damaged(path, "its SHA-256 is not the one in the manifest")
        self._sound.add(name)
        return path


@dataclass
class DatasetWriter:
    """Collects the files of a dataset in a temporary folder; `finish` completes it.

    Whoever prepares data writes `INTERACTIONS`, `USERS`, `ITEMS` and `REJECTS` into `folder`
    (with any engine, in the row order given at the top of this module), then calls `finish`.
    """

    folder: Path
    finished: bool = field(default=False, init=False)

    def finish(self, behaviors: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Check the files, build the graph, hash everything and write the manifest.

        Args:
            behaviors: The cascade order, target last.
            manifest: What only the preparation knows: source, funnel, split, inputs, options,
                versions. `counts` is merged with the counts found here.

        Returns:
            The complete manifest.

        Raises:
            DataError: A pair of one behavior stands twice, or training is empty.
            RuntimeError: There are not as many rows as `counts` says were kept.
        """
        table = NewTable.read(self.folder / INTERACTIONS, behaviors)
        rows = len(table.user_idx)
        found: Mapping[str, Any] = manifest.get("counts", {})
        if found.get("kept", rows) != rows:
            raise RuntimeError(f"{found['kept']} rows were kept, and {rows} are written")
        users = pq.read_table(self.folder / USERS, columns=[USER_ID])[USER_ID]
        items = pq.read_table(self.folder / ITEMS, columns=[ITEM_ID])[ITEM_ID]
        table.check(len(users), len(items))
        relations = table.relations()
        if not any(len(pairs) for pairs in relations.values()):
            raise DataError("No training rows are left.", "Loosen the filters or the split.")
        merged = merge(relations, len(items))
        self._save_graph({**relations, GLOBAL: merged}, len(users), len(items))
        counts = {
            **found,
            "users": len(users),
            "items": len(items),
            "interactions": rows,
            "splits": table.count(),
            "global_train_pairs": len(merged),
        }
        complete = seal(
            {
                "schema_version": SCHEMA_VERSION,
                **manifest,
                "behaviors": list(behaviors),
                "counts": counts,
                "content_hash": table.content_hash(users, items),
                "files": {
                    name: sha256(self.folder / name)
                    for name in (USERS, ITEMS, INTERACTIONS, GRAPH, REJECTS)
                    if (self.folder / name).is_file()
                },
            }
        )
        write_json(self.folder / MANIFEST, complete)
        self.finished = True
        return complete

    def _save_graph(self, relations: Mapping[str, Pairs], num_users: int, num_items: int) -> None:
        try:
            save_graph(whole_graph(relations, num_users, num_items), self.folder / GRAPH)
        except DeviceError as error:
            # Where there is no DGL, `--engine torch` trains from the pairs; whoever has it builds
            # the graph on opening.
            log.warning("%s is not written: %s", GRAPH, error.message)


@contextmanager
def write_dataset(path: Path, *, force: bool = False) -> Iterator[DatasetWriter]:
    """Write a dataset to `path` atomically: it appears complete or not at all.

    Raises:
        UsageError: `path` exists and `force` is not given.
    """
    with atomic_folder(path, force=force, marker=MANIFEST, known=FILES) as folder:
        writer = DatasetWriter(folder)
        yield writer
        if not writer.finished:
            raise RuntimeError("DatasetWriter.finish was not called")


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(f"{path} is damaged: {why}.", REMEDY)
