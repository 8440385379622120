"""`explain_run`: one score of a run, taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from mbrec.arrangement import arrange
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import DataError, UsageError
from mbrec.explain.decomposition import POPULARITY, Asked, decompose
from mbrec.explain.embeddings import EmbeddingShares, done_by
from mbrec.explain.shares import Shares
from mbrec.resuming import own_settings
from mbrec.run import Run
from mbrec.user_lists import find_users

Side = Literal["user", "item"]

EXACT = "exact"
FITTED = "fitted: the embeddings of the user's items that add up to hers best"


@dataclass(frozen=True)
class Explanation:
    """A score, and the shares that add up to it."""

    run: Path
    model: str
    behavior: str
    user: int | str  # raw ids
    item: int | str
    score: float
    rank: int | None  # among the items not done in training; None if this one is
    ranked: int  # how many items that are
    side: Side  # whose neighbors the shares of propagation name
    how: str
    shares: tuple[Shares, ...]
    ids: Mapping[str, pa.Array]  # "user", "item" → raw ids by index

    def parts(self) -> list[dict[str, Any]]:
        """The shares by part and behavior, largest first."""
        totals: dict[tuple[str, str], float] = {}
        for shares in self.shares:
            key = shares.part, shares.behavior
            totals[key] = totals.get(key, 0.0) + shares.total
        rows = [{"part": part, "behavior": b, "value": v} for (part, b), v in totals.items() if v]
        return sorted(rows, key=_size)

    def layers(self) -> list[dict[str, Any]]:
        """The shares of propagation by layer, from 1 on; empty where nothing was propagated."""
        totals: dict[int, float] = {}
        for shares in self.shares:
            if shares.layer:
                totals[shares.layer] = totals.get(shares.layer, 0.0) + shares.total
        return [{"layer": layer, "value": totals[layer]} for layer in sorted(totals)]

    def neighbors(self) -> list[dict[str, Any]]:
        """The shares by neighbor, over all parts and layers, largest first, with raw ids."""
        totals: dict[tuple[str, int], dict[str, float]] = {}
        for shares in self.shares:
            kind = "user" if self.side == "item" and shares.layer else "item"
            for node, value in zip(shares.nodes.tolist(), shares.values.tolist(), strict=False):
                behaviors = totals.setdefault((kind, node), {})
                behaviors[shares.behavior] = behaviors.get(shares.behavior, 0.0) + value
        rows = [
            {
                "kind": kind,
                "id": self.ids[kind][node].as_py(),
                "value": sum(behaviors.values()),
                "behaviors": behaviors,
            }
            for (kind, node), behaviors in totals.items()
        ]
        return sorted(rows, key=_size)

    def summary(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "run": str(self.run),
            "model": self.model,
            "behavior": self.behavior,
            "user": self.user,
            "item": self.item,
            "score": self.score,
            "rank": self.rank,
            "ranked": self.ranked,
            "side": self.side,
            "how": self.how,
            "parts": self.parts(),
            "layers": self.layers(),
            "neighbors": self.neighbors(),
        }


def explain_run(
    path: Path | str,
    user: int | str,
    item: int | str,
    *,
    behavior: str | None = None,
    data: Path | str | None = None,
    side: Side = "user",
) -> Explanation:
    """Take one score of a run apart; the shares add up to it.

    Args:
        path: The run's folder.
        user: The shop's id.
        item: The shop's id.
        behavior: Whose list; by default the target's.
        data: Where the dataset is; by default, where it was at training.
        side: "user": the neighbors of propagation are the user's items; "item": they are the users
            of the item.

    Raises:
        UsageError: The run has no such behavior.
        DataError: The run does not know the user or the item.
        ArtefactError: The run or the dataset is missing, damaged, or they do not belong together.

    Cost: where a rule for the trained model exists, one propagation over the graph.
    """
    run = Run(path)
    name = run.behaviors[-1] if behavior is None else behavior
    if name not in run.behaviors:
        raise UsageError(
            f"{run.path} has no behavior {name!r}.", f"It has {', '.join(run.behaviors)}."
        )
    user_idx, item_idx = _find("user", user, run), _find("item", item, run)
    settings = own_settings(run.path)
    dataset = arrange(run.dataset(data, splits=("train",)), settings)
    embeddings = EmbeddingShares(
        run, settings, dataset, name, user_idx, item_idx, ("user", "item").index(side)
    )
    asked = Asked(
        user_idx,
        item_idx,
        done_by(dataset, 0, user_idx),
        _history_weights(settings, dataset, name),
        _part_names(run, name),
        embeddings,
    )
    label = asked.names[0] if len(asked.names) == 1 else ""
    shares = tuple(decompose(run.scorer(name), asked, label))
    score, rank, ranked = _rank(run, dataset, name, user_idx, item_idx)
    return Explanation(
        run=run.path,
        model=run.model,
        behavior=name,
        user=run.user_ids[user_idx].as_py(),
        item=run.item_ids[item_idx].as_py(),
        score=score,
        rank=rank,
        ranked=ranked,
        side=side,
        how=FITTED if embeddings.fitted else EXACT,
        shares=shares,
        ids={"user": run.user_ids, "item": run.item_ids},
    )


def _find(kind: str, wanted: int | str, run: Run) -> int:
    ids = run.user_ids if kind == "user" else run.item_ids
    found, _ = find_users([wanted], ids)
    if not len(found):
        raise DataError(
            f"There is no {kind} {wanted!r} in {run.path}.",
            f"Give the id as it is in the raw log, e.g. {ids[0].as_py()!r}.",
        )
    return int(found[0])


def _part_names(run: Run, behavior: str) -> list[str]:
    """What the parts of a stack are called (`mbrec.stacking`); nothing where there is none."""
    learned = (run.info.get("calibration") or {}).get(behavior, {})
    return [*learned.get("weights", {}), *([POPULARITY] if learned.get("biases") else [])]


def _history_weights(
    settings: Settings, dataset: PreparedDataset, behavior: str
) -> dict[str, float]:
    """What the behaviors count in the histories of item similarities."""
    own = settings.model.model_dump()
    if own.get("history") == "behavior":
        return {behavior: 1.0}
    weights = own.get("weights") or {}
    return {name: float(weights.get(name, 1.0)) for name in dataset.behaviors}


def _rank(
    run: Run, dataset: PreparedDataset, behavior: str, user: int, item: int
) -> tuple[float, int | None, int]:
    """The score, its place in the user's list as in evaluation, and the list's whole length."""
    scorer = run.scorer(behavior)
    scores = scorer.scores(torch.tensor([user]), 0, scorer.num_items)[0]
    own = scores[item]
    mine = dataset.pairs(behavior, "train")
    seen = torch.from_numpy(mine.item_idx[mine.user_idx == user].astype("int64"))
    open_ = torch.ones(len(scores), dtype=torch.bool)
    open_[seen] = False
    before = (scores > own) | ((scores == own) & (torch.arange(len(scores)) < item))
    rank = int((before & open_).sum()) + 1 if bool(open_[item]) else None
    return float(own), rank, int(open_.sum())


def _size(row: Mapping[str, Any]) -> float:
    return -abs(float(row["value"]))
