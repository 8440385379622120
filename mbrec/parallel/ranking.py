"""Users split over ranks: each ranks some of them, and all get all lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mbrec.parallel.columns import Columns
from mbrec.parallel.team import Team
from mbrec.ranking import Exclusion, TopK, tile_height, top_k
from mbrec.scoring import Factors, Scorer


def top_k_together(
    team: Team,
    scorer: Scorer,
    user_idx: Tensor,
    k: int,
    exclude: Exclusion | None = None,
    *,
    user_batch: int | None = None,
) -> TopK:
    """`mbrec.ranking.top_k`, by all ranks; they have to call it with the same users.

    The ranks share the users by whole tiles, so that every score comes from the same product as in
    one process (with as many threads), and the lists are the same to the last bit.

    Returns:
        The lists of all users, in their order: on the CPU, unless there is one rank only.

    Sends 12 k bytes per user to every other rank.
    """
    if team.ranks == 1:
        return top_k(scorer, user_idx, k, exclude, user_batch=user_batch)
    height = tile_height(scorer.device)
    tiles = -(-len(user_idx) // height)
    width = -(-tiles // team.ranks) * height  # users of a rank
    own = user_idx[team.rank * width : (team.rank + 1) * width]
    found = top_k(scorer, own, k, exclude, user_batch=user_batch)
    missing = (0, 0, 0, width - len(own))
    padded = (torch.nn.functional.pad(part.cpu(), missing) for part in found)
    items, scores = (team.gather(part).flatten(0, 1)[: len(user_idx)] for part in padded)
    return TopK(items, scores)


class WholeFactors(Mapping[str, Scorer]):
    """Scorers with all columns, put together when they are asked for and not kept.

    Args:
        scorers: `Factors` with own columns; all ranks have to ask for the same one at a time.
        columns: Which these are.
    """

    def __init__(self, scorers: Mapping[str, Scorer], columns: Columns) -> None:
        self._scorers, self._columns = scorers, columns

    def __getitem__(self, behavior: str) -> Scorer:
        own = self._scorers[behavior]
        if not self._columns.split:
            return own
        assert isinstance(own, Factors)
        return Factors(self._columns.all_rows(own.user_emb), self._columns.all_rows(own.item_emb))

    def __contains__(self, behavior: object) -> bool:
        return behavior in self._scorers

    def __iter__(self) -> Iterator[str]:
        return iter(self._scorers)

    def __len__(self) -> int:
        return len(self._scorers)
