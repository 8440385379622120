"""A run: the folder that training writes and that evaluation and export read.

    run.json                what was trained, on which data, by which versions, how it went
    config.toml             every setting, resolved
    metrics.jsonl           one line per epoch
    embeddings.safetensors  user/<behavior> (U, d) and item/<behavior> (I, d), float32; for methods
                            that score otherwise, the tensors that `scorers` in run.json names
    users.parquet, items.parquet   row of an embedding ↔ the shop's id
    checkpoints/            what `--resume` needs

Reading a run needs neither DGL nor a GPU, and nothing in it is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mbrec.columns import ITEM_ID, ITEM_IDX, SPLITS, USER_ID, USER_IDX, VISIBLE, Split
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError
from mbrec.files import atomic_path, sha256, write_json
from mbrec.guard import inside, read_ids, read_object, seal
from mbrec.joined import joined
from mbrec.locks import locked
from mbrec.packing import pack, unpack
from mbrec.scoring import Factors, Scorer
from mbrec.storage import storage_errors

SCHEMA_VERSION = 4
RUN = "run.json"
CONFIG = "config.toml"
LAST_LINE = "# These were all settings."  # of config.toml
METRICS = "metrics.jsonl"
EMBEDDINGS = "embeddings.safetensors"
USERS = "users.parquet"
ITEMS = "items.parquet"
CHECKPOINTS = "checkpoints"
REMEDY = "Train again, or fetch the whole folder anew."


class Run:
    """A finished run, opened for reading.

    Raises:
        ArtefactError: The folder is no run, not finished, damaged, or of another schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / RUN).is_file():
            raise ArtefactError(
                f"{self.path} is no run (it has no {RUN}).", "Make one with `mbrec train`."
            )
        self.info = read_object(inside(self.path, RUN), "run", SCHEMA_VERSION, REMEDY)
        try:
            self.model = str(self.info["model"])
            self.behaviors = _names(self.info["behaviors"])
            self.dataset_hash = str(self.info["dataset"]["content_hash"])
            self.dataset_path = Path(self.info["dataset"]["path"])
            self._hashes: dict[str, str] = dict(self.info["files"])
            self._scorers: dict[str, Any] = dict(self.info.get("scorers", {}))
            self._crossed: dict[str, Any] = dict(self.info.get("cross_fitted", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.path / RUN, f"no usable {error}") from error
        if not self._hashes:
            raise ArtefactError(
                f"The training in {self.path} has not finished.",
                "Go on with `mbrec train … --resume`.",
            )

    @cached_property
    def user_ids(self) -> pa.Array:
        """The shop's user ids at positions 0 … U-1."""
        return self._ids(USERS, USER_ID)

    @cached_property
    def item_ids(self) -> pa.Array:
        """The shop's item ids at positions 0 … I-1."""
        return self._ids(ITEMS, ITEM_ID)

    def scorer(self, behavior: str) -> Scorer:
        """What ranks `behavior`.

        Raises:
            ArtefactError: The run has no such behavior, its file is damaged, or the scores are
                not for one row per user and item.
        """
        if behavior not in self._scorers:
            raise ArtefactError(
                f"{self.path} has no scores for {behavior!r}.",
                f"It has {', '.join(self.behaviors)}.",
            )
        return self._unpacked(self._scorers[behavior])

    def scorers(self, split: Split) -> dict[str, Scorer]:
        """Behavior → what its rows of a split are measured by.

        Of a method that learned from validation rows beyond its best epoch, these are ranked by
        what other users have taught; see `mbrec.cross_fitting`.

        Raises:
            ArtefactError: See `scorer`.
        """
        crossed = self._crossed if split == "valid" else {}
        return {
            name: self._unpacked(crossed[name]) if name in crossed else self.scorer(name)
            for name in self.behaviors
        }

    def factors(self, behavior: str) -> Factors:
        """The final embeddings that rank `behavior`, of a method that has such.

        Raises:
            ArtefactError: See `scorer`; or the method does not score by embeddings alone.
        """
        scorer = self.scorer(behavior)
        if not isinstance(scorer, Factors):
            raise ArtefactError(
                f"{self.path} ({self.model}) does not score {behavior!r} by embeddings alone.",
                "Take its lists from `mbrec export`.",
            )
        return scorer

    def dataset(
        self, path: Path | str | None = None, splits: Sequence[Split] = SPLITS
    ) -> PreparedDataset:
        """The dataset this run was trained on, checked by its content hash.

        Args:
            path: Where it is now; by default, where it was at training.
            splits: The splits that the caller may read. Of a run that was `refitted`, validation
                rows are among those of training.

        Raises:
            ArtefactError: It is not there, or is another dataset.
        """
        place = Path(path) if path is not None else self.dataset_path
        if not place.exists() and path is not None:
            raise ArtefactError(f"There is no dataset at {place}.", "Give its folder with --data.")
        if not place.exists():
            raise ArtefactError(
                f"The dataset of {self.path} is not at {place} any more.",
                "Say where it is with --data.",
            )
        dataset = PreparedDataset(place, (*VISIBLE, *splits) if self.refitted else splits)
        if dataset.content_hash != self.dataset_hash:
            raise ArtefactError(
                f"{place} is not the dataset that {self.path} was trained on (content hash "
                f"{dataset.content_hash[:12]}, the run has {self.dataset_hash[:12]}).",
                "Figures on it would be wrong; give the right one with --data, or train again.",
            )
        return joined(dataset) if self.refitted else dataset

    def files(self) -> list[Path]:
        """What a run cannot be read without."""
        return [self.path / name for name in (RUN, CONFIG, EMBEDDINGS, USERS, ITEMS)]

    @property
    def refitted(self) -> bool:
        """Whether it was trained on the validation rows, too: its dataset has none to hold out."""
        return self.info.get("rows") == "train+valid"

    @property
    def source(self) -> dict[str, str]:
        """What figures of this run are stamped with: they are stale once it differs."""
        return {"dataset": self.dataset_hash, "scores": str(self.info["files"][EMBEDDINGS])}

    def _unpacked(self, description: Any) -> Scorer:
        try:
            scorer = unpack(description, self._tensors.__getitem__)
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self.path / EMBEDDINGS, f"it does not fit {RUN}, {error}") from error
        expected = (len(self.user_ids), len(self.item_ids))
        found = (scorer.num_users, scorer.num_items)
        if found != expected:
            raise _damaged(
                self.path / EMBEDDINGS,
                f"{found[0]} × {found[1]} rows where there are {expected[0]} × {expected[1]} ids",
            )
        return scorer

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        path = self._checked(EMBEDDINGS)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error

    def _ids(self, name: str, column: str) -> pa.Array:
        path = self._checked(name)
        try:
            return read_ids(path, column)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error

    def _checked(self, name: str) -> Path:
        path = inside(self.path, name)
        if not path.is_file():
            raise ArtefactError(f"{path} is missing.", REMEDY)
        if sha256(path) != self._hashes.get(name):
            raise _damaged(path, "its SHA-256 is not the one in run.json")
        return path


def finish_run(
    path: Path,
    info: Mapping[str, Any],
    scorers: Mapping[str, Scorer],
    dataset: PreparedDataset,
    crossed: Mapping[str, Scorer] = MappingProxyType({}),
    save: Callable[[dict[str, Tensor], Path], object] = save_file,
) -> None:
    """Write what readers of a run need: scores, ids, and `run.json` last.

    Args:
        path: The run's folder, which exists.
        info: What is known of the run; `schema_version`, `behaviors`, `dataset`, `scorers`,
            `cross_fitted` and `files` are added here.
        scorers: Behavior → what ranks it.
        dataset: What it was trained on.
        crossed: Behavior → what ranks its validation rows instead, where it learned from these.
        save: Writes the tensors of the scorers into a file.
    """
    (own, of_folds), tensors = pack(scorers, crossed)
    with ExitStack() as stack:
        new: dict[str, Path] = {}
        for name in (EMBEDDINGS, USERS, ITEMS):
            new[name] = stack.enter_context(atomic_path(path / name))
        with storage_errors(path / EMBEDDINGS):
            save(tensors, new[EMBEDDINGS])
        for name, idx, column, ids in (
            (USERS, USER_IDX, USER_ID, dataset.user_ids),
            (ITEMS, ITEM_IDX, ITEM_ID, dataset.item_ids),
        ):
            rows = pa.array(range(len(ids)), pa.int32())
            with storage_errors(path / name):
                pq.write_table(pa.table({idx: rows, column: ids}), new[name])
        hashes = {name: sha256(temporary) for name, temporary in new.items()}
        # From here on the files may be of two trainings, and the run is none that can be read.
        write_run_info(path, {**info, "status": "training"}, dataset, {})
    write_run_info(path, {**info, "scorers": own, "cross_fitted": of_folds}, dataset, hashes)


@contextmanager
def run_to_write(path: Path | str) -> Iterator[Run]:
    """A finished run, with every other process that would write into it kept out.

    Raises:
        ArtefactError: See `Run`.
        BusyError: Another process writes into it.
        StorageError: Its folder cannot be written to.
    """
    Run(path)  # nothing is written into what is no run
    with storage_errors(Path(path)), locked(Path(path)):
        yield Run(path)


def write_run_info(
    path: Path, info: Mapping[str, Any], dataset: PreparedDataset, files: Mapping[str, str]
) -> None:
    """Write `run.json`; `files` maps finished artefacts to their SHA-256, empty while training."""
    write_json(
        path / RUN,
        seal(
            {
                "schema_version": SCHEMA_VERSION,
                **info,
                "behaviors": list(dataset.behaviors),
                "dataset": {
                    "path": str(dataset.path.resolve()),
                    "content_hash": dataset.content_hash,
                    "source": dataset.manifest.get("source"),
                },
                "files": dict(files),
            }
        ),
    )


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("list of behaviors")
    return tuple(value)


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(f"{path} is damaged: {why}.", REMEDY)
