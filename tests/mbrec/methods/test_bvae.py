"""If these fail, BVAE is not the paper's BVAE, or needs the whole of users × items in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.columns import GLOBAL
from mbrec.models.bvae import Bvae, BvaeConfig
from mbrec.randomness import generator

Array = npt.NDArray[np.float64]


def unit(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("weighting", [True, False])
@pytest.mark.parametrize("block", [1, 3, 8])
def test_scores_and_losses_are_the_papers_equations(
    hand_made: Any, weighting: bool, block: int
) -> None:
    config = BvaeConfig(size=3, weighting=weighting, block=block, kl_weight=0.3)
    model = hand_made.build(Bvae, config)
    w = hand_made.weights(model)
    mean = unit(hand_made.matrix(GLOBAL)) @ w["mean.weight"] + w["mean.bias"]
    there = [0, 1, 2, 3]  # who stands in the batch
    scores, terms = {}, {"kl": 0.0}
    for place, behavior in enumerate(hand_made.behaviors):
        z = 3 * mean  # no noise: all three z_k are the mean
        scores[behavior] = z @ w[f"decoder.{place}.weight"].T + w[f"decoder.{place}.bias"]
        x, logits = hand_made.matrix(behavior)[there], scores[behavior][there]
        log_variance = unit(x) @ w[f"variance.{place}.weight"] + w[f"variance.{place}.bias"]
        variance = np.exp(log_variance)
        divergence = 0.5 * (variance + mean[there] ** 2 - log_variance - 1).sum(1)
        terms["kl"] += 0.3 * divergence.mean()
        loss = -(x * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
        scale = np.sqrt(variance).mean(1) ** 2
        if weighting:
            loss = 0.5 * loss / scale + np.log(scale)
        if x.any():
            terms[f"nll/{behavior}"] = loss[x.any(1)].mean()
    hand_made.check_scores(model, scores)
    hand_made.check_losses(model, terms)


def test_the_gradients_by_blocks_are_those_of_the_whole(hand_made: Any) -> None:
    model = hand_made.build(Bvae, BvaeConfig(size=3, block=3)).double()
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(3, "z"), requires_grad=True)
    rows = model._union.of_users(torch.arange(5))
    rows = type(rows)(rows.indptr, rows.items, rows.values.double())
    upstream = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    decoder = model.decoder[1]
    inputs = [z, decoder.weight, decoder.bias]
    by_blocks = torch.autograd.grad(decoder(z, rows) @ upstream, inputs)
    log_softmax = torch.log_softmax(z @ decoder.weight.T + decoder.bias, dim=1)
    plain = -(torch.tensor(hand_made.matrix(GLOBAL)) * log_softmax).sum(1)
    for found, expected in zip(
        by_blocks, torch.autograd.grad(plain @ upstream, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_noise_comes_from_the_epoch_alone_and_beta_grows(hand_made: Any) -> None:
    def losses(epoch: int, seed: int) -> dict[str, torch.Tensor]:
        config = BvaeConfig(size=3, kl_weight=1.0, anneal_epochs=4, users=3)
        model = hand_made.build(Bvae, config)
        model.begin_epoch(epoch, generator(seed, "method"))
        terms: dict[str, torch.Tensor] = model.losses(None, hand_made.batch())
        return terms

    first = losses(1, 1)
    assert all(torch.equal(first[name], term) for name, term in losses(1, 1).items())
    assert not torch.equal(first["nll/page.view"], losses(1, 2)["nll/page.view"])
    grown = [float((losses(epoch, 1)["kl"] / first["kl"]).detach()) for epoch in (2, 4, 9)]
    assert grown == pytest.approx([2.0, 4.0, 4.0])
