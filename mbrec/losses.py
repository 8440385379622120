"""The losses that several methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK = {"cpu": 1 << 18}
"""Similarities that InfoNCE makes at a time, by kind of device: on the CPU, 1 MiB of them."""

_LARGE_BLOCK = 1 << 24
"""The same for all others, where it counts to launch little."""

_SAFE = 60.0
"""Of numbers up to this, and down to its negative, a million can be added up as exponentials."""


def bpr(positive: Tensor, negative: Tensor, pairs: int | None = None) -> Tensor:
    """Bayesian personalized ranking: the mean of -ln σ(ŷ_ui - ŷ_uj) (Rendle et al., UAI 2009).

    Written as softplus, which stays finite for any finite scores.

    Args:
        positive: Scores of observed pairs. (B,)
        negative: Scores of unobserved pairs. (B, N)
        pairs: Of how many pairs these are a share, for the share of their mean; all by default.

    Returns:
        A scalar.
    """
    losses = F.softplus(negative - positive.unsqueeze(1))
    return losses.mean() if pairs is None else losses.sum() / (pairs * negative.shape[1])


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    temperature: float,
    *,
    cosine: bool = True,
    first: int = 0,
) -> Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al., 2018; equations 10-11 of BiGEL).

    The positive of row n is row n of `positive`; all other rows are its negatives.

    Args:
        anchor: One view of B distinct nodes, or of a share of them. (B, d)
        positive: The other view of all of them, in the same order. (B, d)
        temperature: τ > 0.
        cosine: Compare by cosine; else by inner product.
        first: Which of the nodes a share begins with.

    Returns:
        A scalar: the mean over rows of logsumexp_m(s_nm / τ) - s_nn / τ; of a share, its part of
        the mean over all.

    Memory: O(B d), and one block of the B × B similarities.
    """
    if cosine:
        anchor, positive = F.normalize(anchor, dim=1), F.normalize(positive, dim=1)
    largest = 1 / temperature if cosine else float("inf")
    loss: Tensor = _InfoNce.apply(  # type: ignore[no-untyped-call]
        anchor / temperature, positive, first, largest <= _SAFE
    )
    return loss


class _InfoNce(torch.autograd.Function):
    """InfoNCE of scaled rows. Its gradient is softmax - 1 on the diagonal, which forward has.

    So forward goes over the B × B similarities block by block, each small enough for the cache,
    takes what the gradient needs from it, and keeps none.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, positive: Tensor, first: int, safe: bool) -> Tensor:
        """The loss () of anchors (n, d), those from `first` on, against all positives (B, d).

        If `safe`, no similarity is larger than `_SAFE` or less than -`_SAFE`.
        """
        count, every = len(anchor), len(positive)
        rows = max(1, _BLOCK.get(anchor.device.type, _LARGE_BLOCK) // max(1, every))
        of_anchor, of_positive = torch.empty_like(anchor), torch.zeros_like(positive)
        total = anchor.new_zeros(())
        for start in range(0, count, rows):
            block = slice(start, start + rows)
            scores = anchor[block] @ positive.T  # (n, B)
            total -= scores.diagonal(first + start).sum()
            if not safe:
                largest = scores.amax(1, keepdim=True)
                scores.sub_(largest)
                total += largest.sum()
            shares = scores.exp_()
            sums = shares.sum(1, keepdim=True)  # (n, 1)
            total += sums.log().sum()
            torch.mm(shares, positive, out=of_anchor[block]).div_(sums)
            of_positive.addmm_(shares.T, anchor[block] / sums)
        mine = slice(first, first + count)  # the positives of these anchors
        of_anchor.sub_(positive[mine])
        of_positive[mine].sub_(anchor)
        ctx.save_for_backward(of_anchor, of_positive)
        return total / every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients (n, d) and (B, d), from that of the loss ()."""
        of_anchor, of_positive = ctx.saved_tensors
        scale = outer / len(of_positive)
        return scale * of_anchor, scale * of_positive, None, None
