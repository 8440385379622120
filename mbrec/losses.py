"""The losses that several methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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

    Memory: O(B²), divided by the number of shares.
    """
    if cosine:
        anchor, positive = F.normalize(anchor, dim=1), F.normalize(positive, dim=1)
    loss: Tensor = _InfoNce.apply(  # type: ignore[no-untyped-call]
        anchor / temperature, positive, first
    )
    return loss


class _InfoNce(torch.autograd.Function):
    """InfoNCE of scaled rows. Its gradient is softmax - 1 on the diagonal, which forward has.

    So only one matrix (B, B) is kept, and no exponential is taken twice.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, positive: Tensor, first: int) -> Tensor:
        shares = torch.log_softmax(anchor @ positive.T, dim=1)  # (B, B)
        loss = -shares.diagonal(first).sum() / len(positive)
        shares.exp_().diagonal(first).sub_(1)
        ctx.save_for_backward(anchor, positive, shares)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        anchor, positive, shares = ctx.saved_tensors
        scale = outer / len(positive)
        return scale * (shares @ positive), scale * (shares.T @ anchor), None
