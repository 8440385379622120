"""Trained methods whose embeddings can be taken apart exactly: LightGCN, CRGCN, BiGEL, BiGEL+.

What is linear is followed; what is not is held at its value. Gates: g ⊗ e is what e carries, times
the gate as it stands. Lengths: a vector divided by its length is the vector times a number.
"""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor

from mbrec.engines import SIDES
from mbrec.explain.carried import Carried, Center, cascaded, propagated, scaled
from mbrec.explain.shares import NO_NODES
from mbrec.models.base import TrainedMethod
from mbrec.models.bigel.cgf import CascadingGatedFeedback
from mbrec.models.bigel.gce import GlobalContextEnhancement
from mbrec.models.bigel.model import Bigel
from mbrec.models.bigel_plus.context import ContextualBranch
from mbrec.models.bigel_plus.model import BigelPlus
from mbrec.models.crgcn import Crgcn
from mbrec.models.lightgcn import LightGcn
from mbrec.propagation import Nodes, light_gcn

Block = list[Carried]
"""What adds up to a stretch of an embedding's dimensions, but for one factor per node."""


@singledispatch
def trace(method: TrainedMethod, behavior: str, center: Center, part: str) -> list[Block] | None:
    """Take the embedding apart by which `method` scores a user or an item.

    Args:
        method: With its trained weights.
        behavior: Whose scores.
        center: The user or item.
        part: The part of a sum of scorers that is asked for, by name; "" for the whole.

    Returns:
        One block after the other, over the dimensions; None for methods without a rule.
    """
    return None


@trace.register
def _(method: LightGcn, behavior: str, center: Center, part: str) -> list[Block]:
    name = method.relation_of(behavior)
    place = list(method.relations).index(name)
    base = Nodes(method.user_emb[place], method.item_emb[place])
    layers, combination = method.config.layers, method.config.combination
    relation = method.relations[name]
    share, found = propagated(center, "neighbors", relation, base, layers, combination)
    return [[scaled(center.own("", base), share), *found]]


@trace.register
def _(method: Crgcn, behavior: str, center: Center, part: str) -> list[Block]:
    base = Nodes(method.user_emb, method.item_emb)
    gcn = method.cascade
    return [
        cascaded(center, "cascade", gcn.steps, base, gcn.combination, gcn.normalize, until=behavior)
    ]


@trace.register
def _(method: Bigel, behavior: str, center: Center, part: str) -> list[Block]:
    """Equations 5-9: e'' = e^(b_k) + g ⊗ e^(b_K) + g' ⊗ (W e_global + b); the gates are held."""
    base, gcn = Nodes(method.user_emb, method.item_emb), method.cgl
    side, row = SIDES[center.side], slice(center.node, center.node + 1)

    def until(name: str) -> Block:
        return cascaded(
            center, "cascade", gcn.steps, base, gcn.combination, gcn.normalize, until=name
        )

    found = until(behavior)
    if behavior == method.target:
        return [found]
    state = method.propagate()
    own = state.own[behavior][center.side][row]
    target = state.own[method.target][center.side][row]
    if method.config.cgf:
        feedback = method.cgf[method.key(behavior, side)]
        assert isinstance(feedback, CascadingGatedFeedback)
        gate = feedback.gate(own).double()
        found += [c.through(gate.mul, "feedback") for c in until(method.target)]
        own = feedback(own, target)
    if method.config.gce:
        enhancement = method.gce[method.key(behavior, side)]
        assert isinstance(enhancement, GlobalContextEnhancement)
        found += _global_context(method, center, enhancement, enhancement.gate(own).double())
    return [found]


@trace.register
def _(method: BigelPlus, behavior: str, center: Center, part: str) -> list[Block]:
    found: list[Block] = []
    if part in ("", "cascade"):
        for cascade in method.cascades:
            assert isinstance(cascade, Bigel)
            found += trace(cascade, behavior, center, "") or []
    if part in ("", "context") and method.context is not None:
        found.append(_contextual(method.context, center))
    return found


def _global_context(
    method: Bigel, center: Center, enhancement: GlobalContextEnhancement, gate: Tensor
) -> Block:
    """What GCE adds: g' ⊗ (W e_global + b)."""
    base, config = Nodes(method.user_emb, method.item_emb), method.config
    matrix, bias = enhancement.project.weight.double(), enhancement.project.bias.double()
    name = "global context"
    share, found = propagated(
        center, name, method.merged, base, config.global_layers, config.combination
    )
    found = [scaled(center.own(name, base), share), *found]
    mapped = [c.through(lambda vectors: gate * (vectors @ matrix.T), name) for c in found]
    return [*mapped, Carried(f"{name}: constant", "", 0, NO_NODES, gate * bias)]


def _contextual(branch: ContextualBranch, center: Center) -> Block:
    base = Nodes(branch.user_emb, branch.item_emb)
    share, found = propagated(center, "context", branch.relation, base, branch.layers, "mean")
    block = [scaled(center.own("context", base), share), *found]
    length = light_gcn(branch.relation, base, branch.layers)[center.side][center.node].norm()
    return [scaled(carried, 1.0 / max(float(length), 1e-12)) for carried in block]
