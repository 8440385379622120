"""If these fail, BVAE is not the paper's BVAE, or needs the whole of users × items in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mbrec.graph import Pairs
from mbrec.models.base import Context
from mbrec.models.bvae import Bvae, BvaeConfig
from mbrec.randomness import generator
from mbrec.sampling import Triples

BEHAVIORS = ("page.view", "favorite", "purchase")  # a dot in a name is a trap of torch modules
USERS, ITEMS = 5, 4
TRAIN = {
    "page.view": [(0, 0), (0, 1), (1, 1), (2, 0), (2, 2), (3, 1)],
    "favorite": [],  # an empty relation
    "purchase": [(0, 1), (1, 3), (2, 2)],  # user 4 has nothing
}


def make(**settings: Any) -> Bvae:
    train = {}
    for behavior, rows in TRAIN.items():
        users, items = zip(*rows, strict=True) if rows else ((), ())
        train[behavior] = Pairs(np.array(users, np.int32), np.array(items, np.int32))
    random = generator(1, "init")
    context = Context(BEHAVIORS, USERS, ITEMS, train, None, random, torch.device("cpu"))
    model = Bvae(BvaeConfig(size=3, **settings), context)
    with torch.no_grad():  # larger weights, so that a missing term cannot hide
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(2, "test")) * 0.7)
    return model


def batch() -> dict[str, Triples]:
    triples = {}
    for behavior, rows in TRAIN.items():
        if rows:
            users, items = map(torch.tensor, zip(*rows, strict=True))
            triples[behavior] = Triples(users, items, (items.unsqueeze(1) + 2) % ITEMS)
    return triples


def matrix(*behaviors: str) -> np.ndarray:
    result = np.zeros((USERS, ITEMS))
    for behavior in behaviors:
        for pair in TRAIN[behavior]:
            result[pair] = 1
    return result


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def weights(model: Bvae) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def dense_mean(model: Bvae) -> np.ndarray:
    w = weights(model)
    return unit(matrix(*BEHAVIORS)) @ w["mean.weight"] + w["mean.bias"]


def dense_logits(model: Bvae, place: int) -> np.ndarray:
    w = weights(model)
    z = len(BEHAVIORS) * dense_mean(model)  # no noise: every z_k is the mean
    return z @ w[f"decoder.{place}.weight"].T + w[f"decoder.{place}.bias"]


def test_scores_are_the_decoders_of_the_mean() -> None:
    model = make()
    everyone = torch.arange(USERS)
    for place, behavior in enumerate(BEHAVIORS):
        found = model.scorers()[behavior].scores(everyone, 0, ITEMS)
        np.testing.assert_allclose(found, dense_logits(model, place), atol=1e-5)


@pytest.mark.parametrize("weighting", [True, False])
@pytest.mark.parametrize("block", [1, 3, 8])
def test_losses_without_noise_are_those_of_the_paper(weighting: bool, block: int) -> None:
    model = make(weighting=weighting, block=block, kl_weight=0.3).eval()
    found = {name: float(term.detach()) for name, term in model.losses(None, batch()).items()}
    w, there = weights(model), sorted({user for rows in TRAIN.values() for user, _ in rows})
    mean, expected = dense_mean(model)[there], {"kl": 0.0}
    for place, behavior in enumerate(BEHAVIORS):
        x = matrix(behavior)[there]
        encoder = w[f"variance.{place}.weight"], w[f"variance.{place}.bias"]
        log_variance = unit(x) @ encoder[0] + encoder[1]
        variance = np.exp(log_variance)
        divergence = 0.5 * (variance + mean**2 - log_variance - 1).sum(1)
        expected["kl"] += 0.3 * divergence.mean()
        logits = dense_logits(model, place)[there]
        loss = -(x * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
        scale = np.sqrt(variance).mean(1) ** 2
        if weighting:
            loss = 0.5 * loss / scale + np.log(scale)
        if x.any():
            expected[f"nll/{behavior}"] = loss[x.any(1)].mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_gradients_by_blocks_are_those_of_the_whole() -> None:
    model = make(block=3).double()
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(3, "z"), requires_grad=True)
    rows = model._union.of_users(torch.arange(5))
    rows = type(rows)(rows.indptr, rows.items, rows.values.double())
    upstream = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    decoder = model.decoder[1]
    inputs = [z, decoder.weight, decoder.bias]
    by_blocks = torch.autograd.grad(decoder(z, rows) @ upstream, inputs)
    log_softmax = torch.log_softmax(z @ decoder.weight.T + decoder.bias, dim=1)
    plain = -(torch.tensor(matrix(*BEHAVIORS)) * log_softmax).sum(1)
    for found, expected in zip(
        by_blocks, torch.autograd.grad(plain @ upstream, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_noise_comes_from_the_epoch_alone_and_beta_grows() -> None:
    def losses(epoch: int, seed: int) -> dict[str, torch.Tensor]:
        model = make(kl_weight=1.0, anneal_epochs=4, users=3)
        model.begin_epoch(epoch, generator(seed, "method"))
        return model.losses(None, batch())

    first = losses(1, 1)
    assert all(torch.equal(first[name], term) for name, term in losses(1, 1).items())
    assert not torch.equal(first["nll/page.view"], losses(1, 2)["nll/page.view"])
    grown = [float((losses(epoch, 1)["kl"] / first["kl"]).detach()) for epoch in (2, 4, 9)]
    assert grown == pytest.approx([2.0, 4.0, 4.0])
