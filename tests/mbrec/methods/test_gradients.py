"""If these fail, training follows a wrong gradient, or breaks on the first large score.

Every loss of every method, with the engines and custom autograd functions beneath it, is compared
with finite differences in float64. A new method is covered as soon as it is in `BUILT_IN`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from mbrec.building import build_method
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.engines import DglEngine, TorchEngine
from mbrec.graph import Pairs, build_graph
from mbrec.losses import bpr, info_nce
from mbrec.models import BUILT_IN
from mbrec.models.base import TrainedMethod
from mbrec.models.bvae import _LogSumExp
from mbrec.models.mbrcc import unbalance
from mbrec.models.registry import find
from mbrec.propagation import Nodes, Relation, light_gcn
from mbrec.randomness import generator
from mbrec.sampling import Batch, BatchSampler

EPS = 1e-6
OTHER: dict[str, dict[str, Any]] = {"bvae": {"anneal_epochs": 1}}
"""Settings without which a loss would be 0."""


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is float64, also what asks for float32."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def built(name: str, dataset: PreparedDataset, engine: str = "torch") -> TrainedMethod | None:
    """A small method, or None where there is nothing to learn by steps."""
    size = {"size": 8} if "size" in find(name).config.model_fields else {}
    values = {"method": name, "engine": engine, "model": {**size, **OTHER.get(name, {})}}
    method = build_method(dataset, from_dict(values), torch.device("cpu"))
    return method if isinstance(method, TrainedMethod) else None


def one_batch(dataset: PreparedDataset) -> Batch:
    relations = dataset.train_relations()
    sampler = BatchSampler(
        relations,
        dataset.num_users,
        dataset.num_items,
        batch_size=10**6,
        negatives=2,
        device=torch.device("cpu"),
    )
    return next(iter(sampler.epoch(generator(1, "sampling", 1))))


def terms_of(method: TrainedMethod, batch: Batch) -> dict[str, Tensor]:
    """The loss terms, with the same draws every time."""
    method.train()
    method.begin_epoch(1, generator(3, "method", 1))
    return method.losses(method.propagate(), batch)


@pytest.mark.parametrize("engine", ["torch", "dgl"])
@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.usefixtures("double")
def test_every_loss_of_every_method_has_the_gradient_of_finite_differences(
    name: str, engine: str, tiny_dataset: PreparedDataset
) -> None:
    if engine == "dgl" and not find(name).needs_engine:
        pytest.skip("passes no messages")
    method, batch = built(name, tiny_dataset, engine), one_batch(tiny_dataset)
    if method is None:
        pytest.skip("does not learn by steps")
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in weights} == {torch.float64}
    random = torch.Generator().manual_seed(5)
    terms = terms_of(method, batch)
    found = {
        which: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        for which, loss in terms.items()
    }
    way = [torch.randn(weight.shape, generator=random) for weight in weights]
    ends = []
    with torch.no_grad():
        for step in (EPS, -2 * EPS):
            for weight, along in zip(weights, way, strict=True):
                weight.add_(along, alpha=step)
            ends.append({which: float(loss) for which, loss in terms_of(method, batch).items()})
    for which, gradients in found.items():
        both = [(g, v) for g, v in zip(gradients, way, strict=True) if g is not None]
        slope = sum(float((gradient * along).sum()) for gradient, along in both)
        expected = (ends[0][which] - ends[1][which]) / (2 * EPS)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), which


def relations() -> dict[str, Pairs]:
    """5 users × 4 items, with an isolated user and an isolated item."""
    rng = np.random.default_rng(2)
    found = {}
    for name in ("click", "buy"):
        mask = rng.random((5, 4)) < 0.5
        mask[4] = mask[:, 3] = False
        users, items = np.nonzero(mask)
        found[name] = Pairs(users.astype(np.int32), items.astype(np.int32))
    return found


@pytest.mark.parametrize("combination", ["mean", "sum", "last"])
@pytest.mark.parametrize("kind", [TorchEngine, DglEngine])
@pytest.mark.usefixtures("double")
def test_propagation_has_the_gradient_of_finite_differences(
    kind: type, combination: Literal["mean", "sum", "last"]
) -> None:
    engine = (
        kind(relations(), 5, 4) if kind is TorchEngine else kind(build_graph(relations(), 5, 4))
    )
    relation = Relation.of("click", engine)
    random = torch.Generator().manual_seed(0)
    nodes = [torch.randn(count, 3, generator=random, requires_grad=True) for count in (5, 4)]

    def propagate(user: Tensor, item: Tensor) -> tuple[Tensor, ...]:
        return tuple(light_gcn(relation, Nodes(user, item), 2, combination))

    assert torch.autograd.gradcheck(propagate, nodes)
    assert torch.autograd.gradcheck(lambda u, i: tuple(engine.aggregate("buy", Nodes(u, i))), nodes)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_blockwise_log_sum_exp_has_the_gradient_of_finite_differences(block: int) -> None:
    random = torch.Generator().manual_seed(0)
    z, weight, bias = (
        torch.randn(*shape, generator=random, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3), (7, 3), (7,))
    )
    assert torch.autograd.gradcheck(lambda *a: _LogSumExp.apply(*a, block), (z, weight, bias))
    whole = torch.logsumexp(z @ weight.T + bias, 1)
    torch.testing.assert_close(_LogSumExp.apply(z, weight, bias, block), whole)


def finite(loss: Tensor, *inputs: Tensor) -> bool:
    """Whether the loss and all its gradients are."""
    found = [loss, *torch.autograd.grad(loss.sum(), inputs)]
    return all(bool(tensor.isfinite().all()) for tensor in found)


def huge(*shape: int, seed: int = 0) -> Tensor:
    """±1e4 in random places."""
    random = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, shape, generator=random) * 2.0 - 1
    return (1e4 * signs).requires_grad_()


def test_logits_of_ten_thousand_give_finite_losses_and_gradients() -> None:
    positive, negative = huge(6), huge(6, 5, seed=1)
    assert finite(bpr(positive, negative), positive, negative)
    first, second = huge(5, 3), huge(5, 3, seed=1)
    for cosine in (True, False):
        assert finite(info_nce(first, second, 0.1, cosine=cosine), first, second)
    z, weight, bias = torch.eye(4).requires_grad_(), huge(9, 4), huge(9, seed=2)
    for block in (2, 100):
        assert finite(_LogSumExp.apply(z, weight, bias, block), z, weight, bias)
    logits = huge(6, 4)
    logits.data[:, 0] = -1e4  # a cluster of nobody
    assert finite(unbalance(torch.softmax(logits, dim=1)), logits)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_methods_survive_scores_of_ten_thousand(name: str, tiny_dataset: PreparedDataset) -> None:
    method, batch = built(name, tiny_dataset), one_batch(tiny_dataset)
    if method is None:
        pytest.skip("does not learn by steps")
    tables = [
        weight
        for place, weight in method.named_parameters()
        if place.startswith(("user_emb", "item_emb", "decoder")) or "assignment" in place
    ]
    largest = 0.0
    for _ in range(24):  # where scores are cosines, they stay small
        with torch.no_grad():
            for table in tables:
                table.mul_(2)
        largest = max(float(found.abs().max()) for found in all_scores(method))
        if largest >= 1e4:
            break
    for term, loss in terms_of(method, batch).items():
        weights = [weight for weight in method.parameters() if weight.requires_grad]
        assert loss.isfinite(), (term, largest)
        for gradient in torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all(), (term, largest)


def all_scores(method: TrainedMethod) -> list[Tensor]:
    """Of all users and items, per behavior."""
    everyone, found = torch.arange(24), method.eval().scorers().values()
    return [scorer.scores(everyone, 0, 30) for scorer in found]
