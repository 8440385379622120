"""The losses that several methods share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalized ranking: the mean of -ln σ(ŷ_ui - ŷ_uj) (Rendle et al., UAI 2009).

    Written as softplus, which stays finite for any finite scores.

    Args:
        positive: Scores of observed pairs. (B,)
        negative: Scores of unobserved pairs. (B, N)

    Returns:
        A scalar.
    """
    return F.softplus(negative - positive.unsqueeze(1)).mean()


def info_nce(
    anchor: Tensor, positive: Tensor, temperature: float, *, cosine: bool = True
) -> Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al., 2018; equations 10-11 of BiGEL).

    The positive of row n is row n of `positive`; all other rows are its negatives.

    Args:
        anchor: One view of B distinct nodes. (B, d)
        positive: The other view of the same nodes, in the same order. (B, d)
        temperature: τ > 0.
        cosine: Compare by cosine; else by inner product.

    Returns:
        A scalar: the mean over rows of logsumexp_m(s_nm / τ) - s_nn / τ.

    Memory: O(B²).
    """
    if cosine:
        anchor, positive = F.normalize(anchor, dim=1), F.normalize(positive, dim=1)
    loss: Tensor = _InfoNce.apply(anchor / temperature, positive)  # type: ignore[no-untyped-call]
    return loss


class _InfoNce(torch.autograd.Function):
    """InfoNCE of scaled rows. Its gradient is softmax - 1 on the diagonal, which forward has.

    So only one matrix (B, B) is kept, and no exponential is taken twice.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, positive: Tensor) -> Tensor:
        shares = torch.log_softmax(anchor @ positive.T, dim=1)  # (B, B)
        loss = -shares.diagonal().mean()
        shares.exp_().diagonal().sub_(1)
        ctx.save_for_backward(anchor, positive, shares)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor]:
        anchor, positive, shares = ctx.saved_tensors
        scale = outer / len(anchor)
        return scale * (shares @ positive), scale * (shares.T @ anchor)
