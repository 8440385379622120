"""If these fail, the gradients of a batch's rows are not those of its losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrec.models import terms
from mbrec.models.bigel.cgf import Gate
from mbrec.models.terms import base_l2, gather, looked_up_scores, pair_scores
from mbrec.sampling import Triples


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


def test_pair_scores_are_inner_products_with_their_gradients() -> None:
    user, items = random(4, 3), random(4, 2, 3, seed=1)
    torch.testing.assert_close(pair_scores(user, items), torch.einsum("bd,bmd->bm", user, items))
    assert torch.autograd.gradcheck(pair_scores, (user, items))


@pytest.mark.parametrize("block", [1, 18, 1 << 10])
def test_scores_of_rows_are_those_of_their_copies(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(terms._BLOCK, "cpu", block)
    user, item = random(4, 3), random(5, 3, seed=1)
    users, items = (
        torch.tensor([3, 0, 3, 3, 1]),
        torch.tensor([[4, 4], [0, 4], [1, 2]] + 2 * [[2, 2]]),
    )
    wanted = pair_scores(user[users], item[items])
    torch.testing.assert_close(looked_up_scores(user, item, users, items), wanted)
    assert torch.autograd.gradcheck(lambda u, i: looked_up_scores(u, i, users, items), (user, item))


def test_rows_that_are_looked_up_often_get_the_sum_of_the_gradients() -> None:
    table = random(5, 3)
    rows = [
        torch.tensor([[4, 0], [4, 4]]),
        torch.tensor([2, 4]),
        torch.tensor([], dtype=torch.long),
    ]
    for found, index in zip(gather(table, rows), rows, strict=True):
        assert torch.equal(found, table[index])
    assert torch.autograd.gradcheck(lambda t: gather(t, rows), table)


def test_a_lookup_that_no_loss_needs_adds_nothing() -> None:
    table = random(3, 2)
    used, _ = gather(table, [torch.tensor([1]), torch.tensor([0])])
    used.sum().backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_l2_has_its_gradient_whether_rows_are_few_or_many() -> None:
    user, item = random(40, 3), random(6, 3, seed=1)
    triples = Triples(
        torch.tensor([7, 7, 1]), torch.tensor([0, 5, 5]), torch.tensor([[1], [5], [2]])
    )
    wanted = 0.5 / 3 * (user[triples.user_idx].square().sum() + item[triples.items].square().sum())
    torch.testing.assert_close(base_l2(user, item, {"click": triples}), wanted)
    assert torch.autograd.gradcheck(lambda u, i: base_l2(u, i, {"click": triples}), (user, item))


def test_what_a_gate_lets_in_is_its_equation_with_its_gradients() -> None:
    own, signal = random(4, 3), random(4, 3, seed=1)
    for maps in (1, 2):
        gate = Gate(3, maps, torch.Generator().manual_seed(0)).double()
        torch.testing.assert_close(gate.let_in(own, signal), own + gate(own) * signal)
        weights = tuple(gate.parameters())

        def let_in(own: Tensor, signal: Tensor, *_: Tensor, gate: Gate = gate) -> Tensor:
            return gate.let_in(own, signal)

        assert torch.autograd.gradcheck(let_in, (own, signal, *weights))
