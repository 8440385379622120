"""If these fail, the numbers of every graph method are wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mbrec import backend
from mbrec.columns import GLOBAL
from mbrec.engines import DglEngine, Engine, TorchEngine
from mbrec.errors import DataError
from mbrec.graph import Pairs, build_graph
from mbrec.propagation import Combination, Nodes, Relation, light_gcn

USERS, ITEMS, SIZE = 12, 9, 5


def random_relations(seed: int) -> dict[str, Pairs]:
    """Random relations; one is empty, and the last user and item are isolated in all of them."""
    rng = np.random.default_rng(seed)
    relations = {}
    for name, density in (("click", 0.4), ("favorite", 0.0), ("purchase", 0.15)):
        matrix = rng.random((USERS, ITEMS)) < density
        matrix[-1], matrix[:, -1] = False, False
        users, items = np.nonzero(matrix)
        relations[name] = Pairs(users.astype(np.int32), items.astype(np.int32))
    return relations


def dense(relations: dict[str, Pairs], name: str) -> np.ndarray:
    matrix = np.zeros((USERS, ITEMS))
    for pairs in relations.values() if name == GLOBAL else [relations[name]]:
        matrix[pairs.user_idx, pairs.item_idx] = 1
    return matrix


def engines(relations: dict[str, Pairs]) -> list[Engine]:
    return [
        DglEngine(build_graph(relations, USERS, ITEMS)),
        TorchEngine(relations, USERS, ITEMS),
    ]


def random_nodes(seed: int) -> Nodes:
    generator = torch.Generator().manual_seed(seed)
    user = torch.randn(USERS, SIZE, generator=generator)
    item = torch.randn(ITEMS, SIZE, generator=generator)
    return Nodes(user.requires_grad_(), item.requires_grad_())


def dense_light_gcn(
    matrix: np.ndarray, user: np.ndarray, item: np.ndarray, layers: int, combination: str
) -> tuple[np.ndarray, np.ndarray]:
    """LightGCN by its definition: edge weights 1/(√|N_u| √|N_i|), all layers kept."""
    user_degree, item_degree = matrix.sum(1, keepdims=True), matrix.sum(0, keepdims=True)
    weights = matrix / np.sqrt(np.maximum(user_degree, 1)) / np.sqrt(np.maximum(item_degree, 1))
    kept = [(user, item)]
    for _ in range(layers):
        user, item = weights @ item, weights.T @ user
        kept.append((user, item))
    if combination == "last":
        return kept[-1]
    total = sum(u for u, _ in kept), sum(i for _, i in kept)
    share = len(kept) if combination == "mean" else 1
    return total[0] / share, total[1] / share


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("relation", ["click", "favorite", "purchase", GLOBAL])
@pytest.mark.parametrize("combination", ["mean", "sum", "last"])
def test_light_gcn_is_its_definition_on_both_engines(
    seed: int, relation: str, combination: str
) -> None:
    relations, nodes = random_relations(seed), random_nodes(seed)
    expected = dense_light_gcn(
        dense(relations, relation),
        *(table.detach().double().numpy() for table in nodes),
        3,
        combination,
    )
    for engine in engines(relations):
        result = light_gcn(Relation.of(relation, engine), nodes, 3, combination)
        for got, want in zip(result, expected, strict=True):
            np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("relation", ["click", "favorite", GLOBAL])
def test_engines_agree_on_gradients(seed: int, relation: str) -> None:
    relations = random_relations(seed)
    weight_user, weight_item = (w.detach() for w in random_nodes(seed + 100))
    gradients = []
    for engine in engines(relations):
        nodes = random_nodes(seed)
        result = light_gcn(Relation.of(relation, engine), nodes, 2)
        loss = (result.user * weight_user).sum() + (result.item.square() * weight_item).sum()
        loss.backward()
        gradients.append([nodes.user.grad, nodes.item.grad])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_gradient_of_the_torch_engine_is_right_by_finite_differences() -> None:
    engine = TorchEngine(random_relations(0), USERS, ITEMS)
    doubled = {name: tensor.double() for name, tensor in engine._forward.items()}
    engine._forward = doubled
    engine._transposed = {name: t.double() for name, t in engine._transposed.items()}
    nodes = [table.detach().double().requires_grad_() for table in random_nodes(0)]

    def propagate(user: torch.Tensor, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(engine.aggregate("click", Nodes(user, item)))

    assert torch.autograd.gradcheck(propagate, nodes)


def test_one_layer_by_hand() -> None:
    """Users 0, 1 have item 0; user 1 also has item 1. Degrees 1, 2 and 2, 1."""
    relations = {"click": Pairs(np.array([0, 1, 1], np.int32), np.array([0, 0, 1], np.int32))}
    nodes = Nodes(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    for engine in (DglEngine(build_graph(relations, 2, 2)), TorchEngine(relations, 2, 2)):
        result = light_gcn(Relation.of("click", engine), nodes, 1, "last")
        user = [3 / math.sqrt(2), 3 / math.sqrt(4) + 5 / math.sqrt(2)]
        item = [1 / math.sqrt(2) + 2 / math.sqrt(4), 2 / math.sqrt(2)]
        torch.testing.assert_close(result.user, torch.tensor(user).unsqueeze(1))
        torch.testing.assert_close(result.item, torch.tensor(item).unsqueeze(1))


@pytest.mark.parametrize("size", [1, 5, 16, 64])
@pytest.mark.parametrize("relation", ["click", "favorite"])
def test_sums_over_neighbors_are_added_to_what_is_there(size: int, relation: str) -> None:
    relations = random_relations(0)
    matrix = torch.from_numpy(dense(relations, relation)).float()
    user, item = torch.randn(USERS, size), torch.randn(ITEMS, size)
    for engine in engines(relations):
        sums = Nodes(torch.ones(USERS, size), 2 * torch.ones(ITEMS, size))
        engine.add_neighbors(relation, "user", item, sums.user)
        engine.add_neighbors(relation, "item", user, sums.item)
        torch.testing.assert_close(sums.user, 1 + matrix @ item, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sums.item, 2 + matrix.T @ user, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("combination", ["mean", "sum", "last"])
def test_the_residual_is_the_embedding_once_more(combination: Combination) -> None:
    nodes = random_nodes(0)
    for engine in engines(random_relations(0)):
        relation = Relation.of("click", engine)
        plain = light_gcn(relation, nodes, 2, combination)
        whole = light_gcn(relation, nodes, 2, combination, residual=True)
        for without, own, got in zip(plain, nodes, whole, strict=True):
            torch.testing.assert_close(got, without + own, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_was_propagated_stays_when_more_is_propagated(layers: int) -> None:
    """Propagations work in the same memory, one after the other."""
    for engine in engines(random_relations(0)):
        relation = Relation.of("click", engine)
        first = light_gcn(relation, random_nodes(0), layers)
        copies = [part.clone() for part in first]
        light_gcn(relation, random_nodes(1), layers)
        light_gcn(Relation.of(GLOBAL, engine), random_nodes(2), layers, "last")
        for part, copy in zip(first, copies, strict=True):
            assert torch.equal(part, copy)


def test_no_layers_change_nothing() -> None:
    nodes = random_nodes(0)
    for engine in engines(random_relations(0)):
        assert light_gcn(Relation.of("click", engine), nodes, 0) == nodes


def test_a_mistyped_relation_is_an_error_and_not_zeros() -> None:
    for engine in engines(random_relations(0)):
        with pytest.raises(DataError, match="'clck'"):
            Relation.of("clck", engine)
        with pytest.raises(DataError, match="'clck'"):
            engine.aggregate("clck", random_nodes(0))


def test_edges_are_held_in_one_format() -> None:
    """Training at its largest is bound by memory, and the other two formats serve nothing."""
    engine = DglEngine(build_graph(random_relations(0), USERS, ITEMS))
    nodes = random_nodes(0)
    light_gcn(Relation.of("click", engine), nodes, 2).user.sum().backward()
    sum(part.sum() for part in engine.aggregate("click", nodes)).backward()
    assert engine._graph.formats()["created"] == ["csc"]


def test_propagation_keeps_nothing_on_the_graph() -> None:
    graph = build_graph(random_relations(0), USERS, ITEMS)
    engine = DglEngine(graph)
    engine.aggregate("click", random_nodes(0))
    assert not graph.nodes["user"].data
    assert not graph.nodes["item"].data


def test_another_kernel_than_the_expected_one_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend._kernel_adds(), "the fast path is off with the DGL that is installed here"

    def overwrites(graph: Any, source: Any, sums: Any) -> None:
        sums.copy_(backend.dgl().ops.copy_u_sum(graph, source))

    def is_missing(graph: Any, source: Any, sums: Any) -> None:
        raise AttributeError("_CAPI_DGLKernelSpMM")

    graph = backend.dgl().heterograph({("a", "to", "b"): ([0, 1, 1], [0, 0, 1])})
    source = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    try:
        for kernel in (overwrites, is_missing):
            monkeypatch.setattr(backend, "_kernel", kernel)
            backend._kernel_adds.cache_clear()
            sums = torch.full((2, 2), 10.0)
            backend.add_sums(graph, source, sums)
            assert sums.tolist() == [[14.0, 17.0], [13.0, 15.0]]
    finally:
        monkeypatch.undo()
        backend._kernel_adds.cache_clear()
