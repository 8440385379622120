"""The attention of MB-GMN between what a node hears from its behaviors (see `model.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mbrec.models.mb_gmn.blocks import SLOPE, blocks, leaky_backward, linear, zeros


class BehaviorAttention(nn.Module):
    """Lets the messages of a node's behaviors attend to each other, and sums them.

    Args:
        size: d.
        heads: A divisor of d.
        generator: For the initial weights.
    """

    def __init__(self, size: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self._heads = heads
        self.project = linear(size, size, generator, bias=False)

    def forward(self, messages: Sequence[Tensor]) -> Tensor:
        """Σ_k (attended_k + φ(message_k)), (N, d), of K messages (N, d)."""
        found: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            self._heads, self.project.weight, *messages
        )
        return found


class _Attention(torch.autograd.Function):
    """Σ_k (1 + a_k) ⊗ v_k, for messages v_k after φ.

    The sum of what attends to a message is the message times a_k, the sum of the attention to it.
    """

    @staticmethod
    def forward(ctx: Any, heads: int, weight: Tensor, *messages: Tensor) -> Tensor:
        """The sum (N, d) of what attends, of W (d, d) and K messages (N, d)."""
        nodes, size = messages[0].shape
        summed = torch.empty_like(messages[0])
        queries = summed.new_empty(nodes, len(messages), size)
        shares = summed.new_empty(len(messages), len(messages), heads, nodes)  # query, key
        for rows in blocks(summed):
            values, query = _values(messages, rows), queries[rows]
            torch.matmul(values, weight.T, out=query)
            for head, part in enumerate(torch.split(query, size // heads, dim=2)):
                scores = torch.bmm(part, part.transpose(1, 2)) / (size // heads) ** 0.5
                shares[:, :, head, rows] = scores.permute(1, 2, 0)
            share = shares[..., rows] = torch.softmax(shares[..., rows], dim=1)
            torch.sum(_by_head(values, heads) * _total(share), 1, out=_by_head(summed[rows], heads))
        ctx.save_for_backward(weight, queries, shares, *messages)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of W and of all messages, from that of the sum (N, d)."""
        weight, queries, shares, *messages = ctx.saved_tensors
        size, heads = len(weight), shares.shape[2]
        of_weight, of_messages = zeros(weight), [torch.empty_like(m) for m in messages]
        for rows in blocks(gradient):
            values, share, query = _values(messages, rows), shares[..., rows], queries[rows]
            each = _by_head(gradient[rows], heads).unsqueeze(1)  # (n, 1, heads, d / heads)
            of_total = (_by_head(values, heads) * each).sum(3)  # (n, K, heads)
            of_values = (each * _total(share)).flatten(2)
            of_share = of_total.permute(1, 2, 0).contiguous()  # (K, heads, n)
            inner = (share * of_share).sum(1, keepdim=True)
            of_scores = share * (of_share - inner) / (size // heads) ** 0.5
            of_scores = of_scores + of_scores.transpose(0, 1)  # a query stands on both sides
            of_scores = of_scores.permute(3, 2, 0, 1).contiguous()  # (n, heads, K, K)
            of_query = torch.cat(
                [
                    torch.bmm(of_scores[:, head], part)
                    for head, part in enumerate(torch.split(query, size // heads, dim=2))
                ],
                dim=2,
            )
            of_weight.addmm_(of_query.flatten(0, 1).T, values.flatten(0, 1))
            of_values += of_query @ weight
            of_values = leaky_backward(of_values, values)
            for place, of_message in enumerate(of_messages):
                of_message[rows] = of_values[:, place]
        return None, of_weight, *of_messages


def _values(messages: Sequence[Tensor], rows: slice) -> Tensor:
    """φ(message), (n, K, d)."""
    return F.leaky_relu_(torch.stack([message[rows] for message in messages], dim=1), SLOPE)


def _by_head(nodes: Tensor, heads: int) -> Tensor:
    """(…, d) as (…, heads, d / heads)."""
    return nodes.view(*nodes.shape[:-1], heads, nodes.shape[-1] // heads)


def _total(share: Tensor) -> Tensor:
    """The 1 + a_k, (n, K, heads, 1), of shares (K, K, heads, n): so the CPU is not slow with K."""
    return (1 + share.sum(0)).permute(2, 0, 1).unsqueeze(3)
