"""Shares of a score by embeddings: by the trained model where it has a rule, else by a mixture."""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from torch import Tensor

from mbrec.building import build_method
from mbrec.columns import GLOBAL
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError
from mbrec.explain.carried import Carried, Center
from mbrec.explain.mixture import mixture
from mbrec.explain.shares import Done, Shares, single
from mbrec.explain.tracing import Block, trace
from mbrec.keeping import Keeper
from mbrec.models.base import TrainedMethod
from mbrec.run import CHECKPOINTS, Run
from mbrec.scoring import Factors

_MISFIT = 1e-3  # of an embedding's length, by which a recomputed one may differ from the stored one

log = logging.getLogger(__name__)


class EmbeddingShares:
    """Takes scores by embeddings apart.

    Args:
        run: The run.
        settings: Its settings.
        dataset: As the training saw it.
        behavior: Whose scores.
        user: The user.
        item: The item.
        side: Whose neighbors are told: 0 the user's items, 1 the item's users.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        dataset: PreparedDataset,
        behavior: str,
        user: int,
        item: int,
        side: int,
    ) -> None:
        self._run, self._settings, self._dataset = run, settings, dataset
        self._behavior, self._side, self._pair = behavior, side, (user, item)
        self.traced = False  # whether some score was taken apart by the model
        self.fitted = False  # whether some score was taken apart by a mixture

    @torch.no_grad()
    def __call__(self, scorer: Factors, name: str) -> list[Shares]:
        """The shares of the score by `scorer`, the part `name` of a sum, or the whole."""
        shares = self._by_model(scorer, name)
        if shares is not None:
            self.traced = True
            return shares
        self.fitted = True
        user, item = self._pair
        found = mixture(scorer, user, item, done_by(self._dataset, 0, user))
        return [s.scaled(1.0, f"{name}: {s.part}") for s in found] if name else found

    def _by_model(self, scorer: Factors, name: str) -> list[Shares] | None:
        if self._method is None:
            return None
        node = self._pair[self._side]
        done = done_by(self._dataset, self._side, node)
        blocks = trace(self._method, self._behavior, Center.of(self._side, node, done), name)
        if blocks is None:
            return None
        tables = (scorer.user_emb, scorer.item_emb)
        own = tables[self._side][node].double()
        other = tables[1 - self._side][self._pair[1 - self._side]].double()
        widths = [block[0].vectors.shape[1] for block in blocks]
        if sum(widths) != len(own):
            return None
        found: list[Shares] = []
        for block, stored, scored in zip(
            blocks, torch.split(own, widths), torch.split(other, widths), strict=True
        ):
            factor = _factor(block, stored)
            if factor is None:
                log.warning("%s has other embeddings than its checkpoint gives.", self._run.path)
                return None
            found += [shares for c in block for shares in _shares(c, factor * scored, done)]
        return found

    @cached_property
    def _method(self) -> TrainedMethod | None:
        """The trained model; None if the run has none, or is of a method without embeddings."""
        return restored(self._run, self._settings, self._dataset)


def restored(run: Run, settings: Settings, dataset: PreparedDataset) -> TrainedMethod | None:
    """The trained model of a run, on the CPU, with the weights that rank.

    Args:
        run: The run.
        settings: Its settings.
        dataset: As the training saw it.

    Returns:
        None if the run has no checkpoint of it, or is of a method that does not learn by steps.
    """
    folder = run.path / CHECKPOINTS
    if not folder.is_dir():
        return None
    settings = settings.model_copy(update={"engine": "torch", "device": "cpu"})
    method = build_method(dataset, settings, torch.device("cpu"))
    if not isinstance(method, TrainedMethod):
        return None
    keeper = Keeper(method, settings.train.average, folder)
    if not keeper.complete:
        return None
    try:
        keeper.load()
    except ArtefactError as error:  # of another release, say; what ranks is not touched by it
        log.warning("%s The final embeddings alone are looked at.", error.message)
        return None
    return method.eval()


def done_by(dataset: PreparedDataset, side: int, node: int) -> Done:
    """What a user (side 0) has done in training, or who has done it to an item (side 1)."""
    found = {}
    for name, pairs in dataset.train_relations().items():
        sides = (pairs.user_idx, pairs.item_idx)
        mine = sides[side] == node
        found[name] = sides[1 - side][mine].astype("int64")
    return Done(tuple(found), found)


def _factor(block: Block, stored: Tensor) -> float | None:
    """What the sum of the vectors has to be multiplied by to be the stored embedding (d,).

    None if no number does: the embedding is of other weights.
    """
    total = torch.stack([carried.vectors.sum(0) for carried in block]).sum(0)
    length = float(total @ total)
    factor = float(stored @ total) / length if length else 0.0
    misfit = float((stored - factor * total).norm())
    return factor if misfit <= _MISFIT * max(float(stored.norm()), 1e-12) else None


def _shares(carried: Carried, scored: Tensor, done: Done) -> list[Shares]:
    values = (carried.vectors @ scored).numpy()
    if not carried.relation:
        return [single(carried.part, float(values.sum()))]
    if carried.relation == GLOBAL:
        return done.combined(carried.part, carried.layer, carried.nodes, values)
    return [Shares(carried.part, carried.relation, carried.layer, carried.nodes, values)]
