"""CGL: cascading GCN learning (equations 2-4 of BiGEL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import functional as F

from mbrec.propagation import Combination, Nodes, Relation, light_gcn


def norms_of_all(config: Any) -> str:
    """Why columns cannot be learned apart: the norms of all nodes need all columns."""
    return "model.normalize needs the norms of all nodes" if config.normalize else ""


class CascadingGcn:
    """One LightGCN per behavior, each starting from the embeddings of the behavior before it.

        e^(b_0) = e⁰
        e^(b_k) = GCN_k(e^(b_{k-1})) + e^(b_{k-1})

    It has no weights of its own.

    Args:
        relations: One per behavior, in cascade order.
        layers: L_k per behavior.
        combination: How the layers of one GCN become its output.
        normalize: L2-normalize every GCN output before the residual, as CRGCN does. The paper does
            not say; without it, the size of an embedding carries popularity.
    """

    def __init__(
        self,
        relations: Sequence[Relation],
        layers: Sequence[int],
        combination: Combination,
        normalize: bool,
    ) -> None:
        self.steps = tuple(zip(relations, layers, strict=True))
        self.combination = combination
        self.normalize = normalize

    def __call__(self, base: Nodes) -> Mapping[str, Nodes]:
        """Behavior → e^(b_k), from the base embeddings e⁰."""
        embeddings = {}
        current = base
        for relation, layers in self.steps:
            if self.normalize:
                learned = light_gcn(relation, current, layers, self.combination)
                learned = Nodes(F.normalize(learned.user, dim=1), F.normalize(learned.item, dim=1))
                current = Nodes(learned.user + current.user, learned.item + current.item)
            else:
                current = light_gcn(relation, current, layers, self.combination, residual=True)
            embeddings[relation.name] = current
        return embeddings
