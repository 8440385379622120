"""The networks of MB-GMN that write weights for others (see `model.py`).

They take most of a training step. So a product that several behaviors or sources need is taken
once, and what they make for a node only to reduce it is never there for all nodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mbrec.models.mb_gmn.blocks import SLOPE, blocks, leaky_backward, linear, zeros
from mbrec.propagation import Nodes


class MetaTransform(nn.Module):
    """The meta network that makes a low-rank transform per node and behavior.

    With F₁ as an array (h, r, h), e F₁ m of all behaviors' m is (Σ_a e_a F₁[a]) m: one product for
    all behaviors. And with F₂ as a matrix of low ⊗ m, no node's factors are ever made.

    Args:
        half: h, the size of the embeddings.
        rank: r.
        generator: For the initial weights.

    Cost: O(K N h² r) time and O(N h (r + K)) memory for N nodes and K behaviors.
    """

    def __init__(self, half: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self._shape = half, rank
        self.hidden = linear(3 * half, half, generator)  # M, of users and items alike
        self.factors = nn.ModuleList(  # F₁ and F₂ of users, F₁ and F₂ of items
            linear(half, half * rank, generator) for _ in range(4)
        )

    def forward(self, behaviors: Tensor, base: Nodes, near: Sequence[Nodes]) -> list[Nodes]:
        """ẽ_0 … ẽ_K of all nodes, (U, 2h) and (I, 2h).

        Args:
            behaviors: s_0 … s_K. (1 + K, h)
            base: e. (U, h) and (I, h)
            near: n_1 … n_K, likewise; n_0 is their sum.
        """
        sides = [
            self._side(side, behaviors, own, [nodes[side] for nodes in near])
            for side, own in enumerate(base)
        ]
        return [Nodes(user, item) for user, item in zip(*sides, strict=True)]

    def _side(
        self, side: int, behaviors: Tensor, own: Tensor, near: Sequence[Tensor]
    ) -> list[Tensor]:
        half, rank = self._shape
        of_behavior, of_own, of_near = torch.split(self.hidden.weight, half, dim=1)
        heard = [nodes @ of_near.T for nodes in near]
        common = F.linear(own, of_own, self.hidden.bias)
        parts = torch.stack([torch.stack(heard).sum(0), *heard], dim=1)  # (N, 1 + K, h)
        meta = F.leaky_relu(parts + common.unsqueeze(1) + behaviors @ of_behavior.T, SLOPE)
        first, second = (dict(self.factors[2 * side + n].named_parameters()) for n in range(2))
        made = _Transform.apply(  # type: ignore[no-untyped-call]
            own,
            meta,
            # (h r, c) → (h, r c): own rows times it are, per node, what takes m to low.
            first["weight"].view(half, rank * half),
            first["bias"].view(half, rank),
            second["weight"].view(rank, half, half).transpose(1, 2).reshape(-1, half),
            second["bias"].view(rank, half),
        )
        return [torch.cat([rows, own], dim=1) for rows in made.unbind(1)]


class _Transform(torch.autograd.Function):
    """(F₁ m) (F₂ m) e of several m per node, (N, M, h), without the factors.

        low = (e F) m + e f,   made = (low ⊗ m) S + low s

    F and S are the weights of the maps that make F₁ and F₂, f and s their biases.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, meta: Tensor, first: Tensor, first_bias: Tensor, *second: Tensor
    ) -> Tensor:
        """The result (N, M, h) of e (N, h), m (N, M, r) and the weights of the maps."""
        weight, bias = second
        made = torch.empty_like(meta)
        low = meta.new_empty(*meta.shape[:2], len(bias))
        for rows in blocks(own):
            to_low = (own[rows] @ first).view(-1, len(bias), own.shape[1])  # (n, r, h)
            start = (own[rows] @ first_bias).unsqueeze(1)
            torch.add(torch.bmm(meta[rows], to_low.transpose(1, 2)), start, out=low[rows])
            outer = _outer(low[rows], meta[rows]).view(-1, len(weight))
            flat = made[rows].flatten(0, 1)
            torch.mm(low[rows].flatten(0, 1), bias, out=flat).addmm_(outer, weight)
        ctx.save_for_backward(own, meta, low, first, first_bias, weight, bias)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """The gradients of all six, from that of the result (N, M, h)."""
        own, meta, low, *weights = ctx.saved_tensors
        first, first_bias, weight, bias = weights
        of_own, of_meta = torch.empty_like(own), torch.empty_like(meta)
        of_first, of_first_bias, of_weight, of_bias = (zeros(w) for w in weights)
        for rows in blocks(own):
            e, m, flat = own[rows], meta[rows], gradient[rows].flatten(0, 1)
            outer = _outer(low[rows], m)  # (n, M, r, h)
            of_weight.addmm_(outer.view(-1, len(weight)).T, flat)
            of_bias.addmm_(low[rows].flatten(0, 1).T, flat)
            of_outer = (flat @ weight.T).view_as(outer)
            torch.mul(of_outer, low[rows].unsqueeze(3), out=outer)
            of_low = of_outer.mul_(m.unsqueeze(2)).sum(3)  # (n, M, r)
            of_low += (flat @ bias.T).view_as(of_low)
            to_low = (e @ first).view(-1, len(bias), e.shape[1])
            torch.baddbmm(outer.sum(2), of_low, to_low, out=of_meta[rows])
            of_to_low = torch.bmm(of_low.transpose(1, 2), m).flatten(1)
            of_start = of_low.sum(1)  # (n, r)
            of_first.addmm_(e.T, of_to_low)
            of_first_bias.addmm_(e.T, of_start)
            torch.mm(of_start, first_bias.T, out=of_own[rows]).addmm_(of_to_low, first.T)
        return of_own, of_meta, of_first, of_first_bias, of_weight, of_bias


class MetaPredictor(nn.Module):
    """The meta network that weighs the dimensions of a node for a pair of behaviors.

    Args:
        size: d.
        generator: For the initial weights.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(3 * size, size, generator)  # of users and items alike
        self.weights = nn.ModuleDict(
            {side: linear(size, size, generator) for side in ("user", "item", "bias")}
        )

    def users(self, sources: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        """a_u ⊗ e_s,u of some users, (N, d) per source, from e_s and e_b of them."""
        return [weighed for weighed, _ in self._weigh(sources, own, "user")]

    def items(self, sources: Sequence[Tensor], own: Tensor) -> list[tuple[Tensor, Tensor]]:
        """a_i ⊗ e_s,i, (N, d), and v_i · e_s,i, (N, 1), of some items, per source."""
        return self._weigh(sources, own, "item", "bias")

    def _weigh(
        self, sources: Sequence[Tensor], own: Tensor, *names: str
    ) -> list[tuple[Tensor, Tensor]]:
        size = own.shape[1]
        of_pair, of_own = torch.split(self.hidden.weight, [2 * size, size], dim=1)
        common = F.linear(own, of_own, self.hidden.bias)
        weight = torch.cat([self.weights[name].get_parameter("weight") for name in names])
        bias = torch.cat([self.weights[name].get_parameter("bias") for name in names])
        return [
            _Weigh.apply(source, own, common, of_pair, weight, bias)  # type: ignore[no-untyped-call]
            for source in sources
        ]


class _Weigh(torch.autograd.Function):
    """(1 + a) ⊗ s, and v · s, with [a ‖ v] = φ([s ⊗ b ‖ s] Hᵀ + common) Wᵀ + c.

    W may make a alone; then the second is (N, 0).
    """

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, own: Tensor, common: Tensor, hidden: Tensor, *last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both results, (N, d) and (N, n), of s and b (N, d), common (N, h), H, W and c."""
        weight, bias = last
        size = source.shape[1]
        scored, meta = torch.empty_like(source), torch.empty_like(common)
        made = source.new_empty(len(source), len(weight))
        dots = source.new_empty(len(source), len(weight) // size - 1)
        for rows in blocks(source):
            pair = _pair(source[rows], own[rows])
            torch.addmm(common[rows], pair, hidden.T, out=meta[rows])
            F.leaky_relu_(meta[rows], SLOPE)
            torch.addmm(bias, meta[rows], weight.T, out=made[rows])
            part = made[rows].view(len(source[rows]), -1, size) * source[rows].unsqueeze(1)
            torch.add(source[rows], part[:, 0], out=scored[rows])
            torch.sum(part[:, 1:], 2, out=dots[rows])
        ctx.save_for_backward(source, own, meta, made, hidden, weight)
        return scored, dots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_scored: Tensor, of_dots: Tensor) -> tuple[Tensor, ...]:
        """The gradients of all six, from those of both results."""
        source, own, meta, made, hidden, weight = ctx.saved_tensors
        of_source, of_own, of_common = (torch.empty_like(e) for e in (source, own, meta))
        of_hidden, of_weight, of_bias = zeros(hidden), zeros(weight), zeros(weight[:, 0])
        for rows in blocks(source):
            size, s = source.shape[1], source[rows]
            each = of_dots[rows].unsqueeze(2).expand(-1, -1, size)
            outer = torch.cat([of_scored[rows].unsqueeze(1), each], 1)  # (n, 1 or 2, d)
            total = torch.sum(outer * made[rows].view_as(outer), 1).add_(of_scored[rows])
            of_made = outer.mul_(s.unsqueeze(1)).flatten(1)
            of_weight.addmm_(of_made.T, meta[rows])
            of_bias += of_made.sum(0)
            step = of_common[rows] = leaky_backward(of_made @ weight, meta[rows])
            of_hidden.addmm_(step.T, _pair(s, own[rows]))
            of_product, directly = torch.split(step @ hidden, size, dim=1)
            torch.mul(of_product, s, out=of_own[rows])
            torch.add(total, directly, out=of_source[rows]).addcmul_(of_product, own[rows])
        return of_source, of_own, of_common, of_hidden, of_weight, of_bias


def _outer(low: Tensor, meta: Tensor) -> Tensor:
    """(n, M, r, h)."""
    return low.unsqueeze(3) * meta.unsqueeze(2)


def _pair(source: Tensor, own: Tensor) -> Tensor:
    """[s ⊗ b ‖ s], (n, 2 d)."""
    return torch.cat([source * own, source], dim=1)
