"""A run as it is served, and its exchange for a newer one.

What is served is never changed: a new run is loaded beside the old one, then one reference is
exchanged. A request that began with the old run ends with it.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from mbrec.device import pick_device
from mbrec.errors import ArtefactError
from mbrec.export import ExcludeSeen, seen_items
from mbrec.files import sha256
from mbrec.ranking import Exclusion, top_k
from mbrec.run import RUN, Run
from mbrec.scoring import Scorer

_DIGITS = 12  # of a hash, enough to tell runs apart

log = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """One place of a list."""

    item_id: int | str
    score: float


@dataclass(frozen=True)
class Served:
    """A run, ready to answer."""

    path: Path
    version: str  # the first digits of the SHA-256 of run.json
    model: str
    behaviors: tuple[str, ...]
    loaded_at: datetime
    places: Mapping[str, int]  # user id as text → position
    user_ids: pa.Array
    item_ids: pa.Array
    scorers: Mapping[str, Scorer]
    seen: Mapping[tuple[ExcludeSeen, str], Exclusion]  # empty if nothing can be left out

    def top(self, user_id: str, behavior: str, k: int, exclude_seen: ExcludeSeen) -> list[Ranked]:
        """The best items of a user, best first; fewer than k where no more are left.

        Raises:
            KeyError: The run does not know the user, or cannot leave out what was asked.
        """
        place = torch.tensor([self.places[user_id]])
        exclude = None if exclude_seen == "none" else self.seen[exclude_seen, behavior]
        best = top_k(self.scorers[behavior], place, k, exclude)
        found = best.items[0] >= 0
        ids = self.item_ids.take(pa.array(best.items[0][found].cpu().numpy())).to_pylist()
        return [Ranked(*row) for row in zip(ids, best.scores[0][found].tolist(), strict=True)]


def load(path: Path, data: Path | None, device: str, *, with_seen: bool) -> Served:
    """Read a run for serving.

    Args:
        path: The run's folder.
        data: Where its dataset is; by default, where it was at training.
        device: "auto", "cpu" or "cuda".
        with_seen: Read from the dataset what users have done, so that lists can leave it out.

    Raises:
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.
        DeviceError: CUDA was asked for and there is none.

    Memory: all tensors of the run, about 100 bytes per user for the ids, and 4 bytes per pair and
    behavior of the dataset, twice, for what was seen.
    """
    # Before anything else is read: of a run that is replaced meanwhile, the files do not fit.
    version = sha256(path / RUN)[:_DIGITS] if (path / RUN).is_file() else ""
    run, place = Run(path), pick_device(device)
    # Copied: the tensors of a run are a view of its file, which somebody may write over.
    scorers = copy.deepcopy({name: run.scorer(name) for name in run.behaviors})
    seen: dict[tuple[ExcludeSeen, str], Exclusion] = {}
    kinds: tuple[ExcludeSeen, ...] = ("same", "any") if with_seen else ()
    for kind in kinds:
        items = seen_items(run, run.behaviors, kind, data)
        for name in run.behaviors:
            exclusion = items(name)
            assert exclusion is not None  # only "none" gives none
            seen[kind, name] = exclusion
    texts = run.user_ids.cast(pa.string()).to_pylist()
    return Served(
        path=path,
        version=version,
        model=run.model,
        behaviors=run.behaviors,
        loaded_at=datetime.now(timezone.utc),
        places={text: number for number, text in enumerate(texts)},
        user_ids=run.user_ids,
        item_ids=run.item_ids,
        scorers={name: scorer.to(place) for name, scorer in scorers.items()},
        seen=seen,
    )


class Shelf:
    """Holds what is served now.

    Args:
        path: The run's folder.
        load: Reads it anew.

    Raises:
        MbrecError: The run cannot be served (here only; later, the old one stays).
    """

    def __init__(self, path: Path, load: Callable[[], Served]) -> None:
        self._path, self._load = path, load
        self._lock = threading.Lock()
        self._tried = self._mark()
        self.current = load()
        self.failure = ""
        """Why the last attempt to load was refused; empty if it was not."""

    def changed(self) -> bool:
        """Whether run.json is another one than at the last attempt to load."""
        mark = self._mark()
        return bool(mark) and mark != self._tried

    def renew(self) -> bool:
        """Load the run anew and serve it; if that is not possible, go on with the old one.

        Returns:
            Whether it was exchanged.
        """
        with self._lock:
            self._tried = self._mark()
            try:
                fresh = self._load()
                self._check(fresh)
            except Exception as error:  # whatever it is, the old run still answers
                self.failure = f"{type(error).__name__}: {error}"
                log.warning(
                    "%s is not served; run %s goes on: %s",
                    self._path,
                    self.current.version,
                    error,
                )
                return False
            self.current, self.failure = fresh, ""
            return True

    def _check(self, fresh: Served) -> None:
        if fresh.behaviors != self.current.behaviors:
            raise ArtefactError(
                f"The new run has the behaviors {', '.join(fresh.behaviors)}; served are "
                f"{', '.join(self.current.behaviors)}.",
                "Start another `mbrec serve` for it.",
            )

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = (self._path / RUN).stat()
        except OSError:  # between two renames there may be none
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
