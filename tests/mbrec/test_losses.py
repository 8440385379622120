"""If these fail, training optimizes something else than the papers say."""

from __future__ import annotations

import math

import pytest
import torch

from mbrec import losses
from mbrec.losses import bpr, info_nce


def test_bpr_by_hand() -> None:
    positive, negative = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 2.0], [0.0, -1.0]])
    margins = [1.0, -1.0, 0.0, 1.0]
    expected = sum(-math.log(1 / (1 + math.exp(-m))) for m in margins) / 4
    assert bpr(positive, negative).item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_by_hand() -> None:
    anchor = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positive = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    half = 1 / math.sqrt(2)
    rows = [[1.0, half], [0.0, half]]
    expected = sum(
        math.log(sum(math.exp(s / 0.5) for s in row)) - row[n] / 0.5 for n, row in enumerate(rows)
    )
    assert info_nce(anchor, positive, 0.5).item() == pytest.approx(expected / 2, rel=1e-6)
    dots = [[3.0, 1.0], [0.0, 2.0]]
    expected = sum(math.log(sum(map(math.exp, row))) - row[n] for n, row in enumerate(dots))
    loss = info_nce(anchor, positive, 1.0, cosine=False)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-6)


def test_losses_stay_finite_for_huge_scores() -> None:
    positive = torch.tensor([1e4, -1e4], requires_grad=True)
    negative = torch.tensor([[-1e4], [1e4]])
    loss = bpr(positive, negative)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert positive.grad is not None
    assert positive.grad.isfinite().all()
    rows = torch.eye(3) * 100
    assert info_nce(rows, -rows, 1.0, cosine=False).isfinite()


@pytest.mark.parametrize("cosine", [True, False])
def test_gradients_by_finite_differences(cosine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, positive = (
        torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(
        lambda a, p: info_nce(a, p, 0.3, cosine=cosine), (anchor, positive)
    )
    assert torch.autograd.gradcheck(bpr, (anchor[:, 0], positive))


def test_the_losses_of_shares_add_up_to_those_of_all() -> None:
    random = torch.Generator().manual_seed(3)
    scores = torch.randn(7, 3, generator=random)
    parts = [bpr(s[:, 0], s[:, 1:], len(scores)) for s in torch.tensor_split(scores, 9)]
    torch.testing.assert_close(torch.stack(parts).sum(), bpr(scores[:, 0], scores[:, 1:]))

    anchor, positive = torch.randn(2, 7, 4, generator=random).requires_grad_()
    cuts = [(0, 3), (3, 7), (7, 7)]
    nce = [info_nce(anchor[start:stop], positive, 0.3, first=start) for start, stop in cuts]
    found, expected = torch.stack(nce).sum(), info_nce(anchor, positive, 0.3)
    torch.testing.assert_close(found, expected)
    for part, whole in zip(
        torch.autograd.grad(found, (anchor, positive)),
        torch.autograd.grad(expected, (anchor, positive)),
        strict=True,
    ):
        torch.testing.assert_close(part, whole)


@pytest.mark.parametrize("similarities", [1, 10, 13, 26])
def test_info_nce_does_not_depend_on_its_blocks(
    similarities: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, positive = (
        torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    )
    shares = torch.log_softmax(anchor @ positive.T / 0.3, dim=1)
    wanted = -shares.diagonal().mean()
    monkeypatch.setitem(losses._BLOCK, "cpu", similarities)
    loss = info_nce(anchor, positive, 0.3, cosine=False)
    torch.testing.assert_close(loss, wanted)
    gradients = [torch.autograd.grad(term, (anchor, positive)) for term in (loss, wanted)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)
