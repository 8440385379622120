"""If these fail, the numbers of every graph method are wrong."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from mbrec import adjacency
from mbrec.adjacency import Bags, Scaled, SparseCsr, of_pairs
from mbrec.columns import GLOBAL
from mbrec.engines import DglEngine, Engine, TorchEngine
from mbrec.errors import DataError
from mbrec.graph import Pairs, build_graph, reverse_edge_type
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalized_sums_are_those_of_the_dense_matrix(
    size: int, relation: str, dtype: torch.dtype
) -> None:
    relations = random_relations(0)
    matrix = torch.from_numpy(dense(relations, relation)).to(dtype)
    roots = [degree.clamp(min=1).sqrt() for degree in (matrix.sum(1), matrix.sum(0))]
    expected = 0.5 * matrix / roots[0].unsqueeze(1) / roots[1]
    user, item = torch.randn(USERS, size, dtype=dtype), torch.randn(size, ITEMS, dtype=dtype).T
    for engine in engines(relations):
        ways = engine.normalized(relation, 0.5)
        torch.testing.assert_close(ways.user.sums(item), expected @ item, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ways.item.sums(user), expected.T @ user, atol=1e-5, rtol=1e-5)
        assert engine.normalized(relation, 0.5) is ways


@pytest.mark.parametrize("relation", ["click", "favorite"])
def test_a_large_result_is_made_block_by_block_where_there_is_room(
    relation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, own = torch.randn(ITEMS, SIZE), torch.randn(USERS, SIZE)
    for engine in engines(random_relations(0)):
        bags = engine.normalized(relation).user
        plain, added = bags.sums(item), bags.sums(item, own, 0.5)
        torch.testing.assert_close(added, plain + 0.5 * own)
        monkeypatch.setattr(adjacency, "_LARGE", 0)
        for block in (1, 4 * SIZE * 5, 1 << 20):  # bytes: rows one by one, five by five, all
            monkeypatch.setattr(adjacency, "_BLOCK", block)
            room = torch.full((USERS, SIZE), math.nan)
            assert bags.sums(item, own, 0.5, room) is room
            assert torch.equal(room, added)
            assert torch.equal(bags.sums(item), plain)
        monkeypatch.undo()


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("combination", ["mean", "sum", "last"])
def test_large_tables_are_propagated_to_the_same_bits(
    layers: int, combination: Combination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers lie in memory that is used again: if one is needed there still, this fails."""
    for engine in engines(random_relations(0)):
        for residual in (False, True):
            found = []
            for large in (1 << 30, 0):
                monkeypatch.setattr(adjacency, "_LARGE", large)
                relation, first = Relation.of("click", engine), random_nodes(1)
                kept = light_gcn(relation, first, layers, combination, residual=residual)
                light_gcn(relation, random_nodes(2), layers, combination)
                found.append([part.detach() for part in kept])
            for plain, blocks in zip(*found, strict=True):
                assert torch.equal(plain, blocks)


@pytest.mark.parametrize("relation", ["click", "favorite"])
def test_what_other_devices_use_gives_the_same(relation: str) -> None:
    """No GPU is needed for it: CSR matrices, and DGL's sums between two scalings."""
    relations = random_relations(0)
    pairs, engine = relations[relation], DglEngine(build_graph(relations, USERS, ITEMS))
    bags = of_pairs(pairs.user_idx, pairs.item_idx, (USERS, ITEMS))
    assert isinstance(bags, Bags)
    matrix = SparseCsr(bags.offsets, bags.neighbors, ITEMS)
    pull = partial(engine.pull, reverse_edge_type(relation))
    rows, columns, item = torch.rand(USERS), torch.rand(ITEMS), torch.randn(ITEMS, SIZE)
    want = bags.scaled(rows, columns).sums(item)
    for other in (matrix.scaled(rows, columns), Scaled(pull, rows, columns)):
        torch.testing.assert_close(other.sums(item), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(matrix.sums(item), bags.sums(item), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(matrix.sums(item.double()), bags.sums(item.double()))


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
