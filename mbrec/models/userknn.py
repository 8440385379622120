"""UserKNN: what similar users have done (Herlocker et al., SIGIR 1999; here for implicit feedback).

    ŷ_b(u, i) = Σ_{v ∈ N_u} s_uv x^b_vi + c x_ui        over the N users most similar to u

with the similarities of `mbrec.similar_users` on the merged histories X of all behaviors. What the
neighbors have done counts in the behavior that is ranked, x^b, or in any. What a user has done
herself by another behavior counts c: what she has clicked, she may well buy.

Deviations: the cosine of item-weighted histories instead of the correlation of ratings, and no
normalization by Σ_v s_uv. Who is like nobody gets what is popular.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from mbrec.history import scorable, weighted_history
from mbrec.models.base import Context, Entry, Method, MethodConfig
from mbrec.models.mostpop import popularity_tail
from mbrec.scoring import Sum, UserNeighbors
from mbrec.similar_users import require_similar_users, similar_users


class UserKnnConfig(MethodConfig):
    """Settings of UserKNN."""

    neighbors: PositiveInt = 100
    """N, the similar users of a user."""

    shrink: NonNegativeFloat = 1.0
    """h; the higher, the less similar are users with short histories."""

    history: Literal["behavior", "merged"] = "behavior"
    """What counts of the neighbors: what they have done in the behavior, or in any."""

    itself: NonNegativeFloat = 0.3
    """c: how much counts what the user has done herself."""


class UserKnn(Method):
    """UserKNN.

    Args:
        config: Settings.
        context: The training part of a dataset.
    """

    def __init__(self, config: UserKnnConfig, context: Context) -> None:
        self.config = config
        self._context = context

    def scorers(self) -> dict[str, Sum]:
        """The neighbors of all users times histories, the same for all behaviors or one for each.

        Raises:
            TrainingError: They do not fit into memory.
        """
        config, context = self.config, self._context
        require_similar_users(
            context.num_users,
            config.neighbors,
            "UserKNN",
            "Lower model.neighbors, or prepare the data with fewer users (a higher --min-user).",
        )
        merged = weighted_history(context, context.behaviors, {})
        similar = scorable(similar_users(merged, config.neighbors, config.shrink))
        own = scorable(merged).to(context.device)
        result = {}
        for name in context.behaviors:
            alone = config.history == "behavior"
            done = scorable(weighted_history(context, (name,), {})) if alone else own
            scorer = UserNeighbors(similar, done).to(context.device)
            tail = popularity_tail(context, name)
            result[name] = Sum((scorer, own, tail), (1.0, config.itself, 1.0))
        return result


ENTRY = Entry(UserKnnConfig, UserKnn, needs_engine=False)
