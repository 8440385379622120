"""The heterograph: relations both ways, the merged one without doubles, nodes without edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns import GLOBAL
from mbrec.graph import (
    Pairs,
    build_graph,
    by_users,
    edge_type,
    load_graph,
    merge,
    reverse_edge_type,
    save_graph,
)

USERS, ITEMS = 6, 5


def pairs(*edges: tuple[int, int]) -> Pairs:
    users, items = zip(*edges, strict=True) if edges else ((), ())
    return Pairs(np.array(users, dtype=np.int32), np.array(items, dtype=np.int32))


def as_set(relation: Pairs) -> set[tuple[int, int]]:
    return set(zip(relation.user_idx.tolist(), relation.item_idx.tolist(), strict=True))


def edges_of(graph: object, etype: tuple[str, str, str]) -> set[tuple[int, int]]:
    source, target = graph.edges(etype=etype)  # type: ignore[attr-defined]
    return set(zip(source.tolist(), target.tolist(), strict=True))


RELATIONS = {
    "click": pairs((0, 0), (0, 1), (1, 1), (4, 3)),
    "favorite": pairs(),
    "purchase": pairs((0, 1), (2, 2)),
}


def test_every_relation_and_the_merged_one_are_there_in_both_directions() -> None:
    graph = build_graph(RELATIONS, USERS, ITEMS)
    assert set(graph.canonical_etypes) == {
        ("user", "click", "item"),
        ("item", "click-by", "user"),
        ("user", "favorite", "item"),
        ("item", "favorite-by", "user"),
        ("user", "purchase", "item"),
        ("item", "purchase-by", "user"),
        ("user", "global", "item"),
        ("item", "global-by", "user"),
    }
    for relation, expected in RELATIONS.items():
        forward = edges_of(graph, edge_type(relation))
        backward = edges_of(graph, reverse_edge_type(relation))
        assert forward == as_set(expected)
        assert backward == {(item, user) for user, item in forward}


def test_the_merged_relation_holds_each_pair_once() -> None:
    graph = build_graph(RELATIONS, USERS, ITEMS)
    expected = {(0, 0), (0, 1), (1, 1), (2, 2), (4, 3)}
    assert edges_of(graph, edge_type(GLOBAL)) == expected
    assert graph.num_edges(edge_type(GLOBAL)) == graph.num_edges(reverse_edge_type(GLOBAL)) == 5


def test_nodes_without_an_edge_are_nodes_all_the_same() -> None:
    graph = build_graph(RELATIONS, USERS, ITEMS)
    assert graph.num_nodes("user") == USERS
    assert graph.num_nodes("item") == ITEMS
    assert graph.in_degrees(etype=edge_type("click")).tolist() == [1, 2, 0, 1, 0]
    assert graph.in_degrees(etype=edge_type("favorite")).tolist() == [0] * ITEMS


def test_a_graph_without_any_edge_can_be_made() -> None:
    graph = build_graph({"purchase": pairs()}, USERS, ITEMS)
    assert graph.num_edges() == 0
    assert graph.num_nodes() == USERS + ITEMS


def test_the_structure_takes_32_bits_per_index() -> None:
    assert str(build_graph(RELATIONS, USERS, ITEMS).idtype) == "torch.int32"


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    graph = build_graph(RELATIONS, USERS, ITEMS)
    save_graph(graph, tmp_path / "graph.bin")
    read = load_graph(tmp_path / "graph.bin", RELATIONS, USERS, ITEMS)
    assert read is not None
    assert set(read.canonical_etypes) == set(graph.canonical_etypes)
    assert read.num_nodes("user") == USERS
    for etype in graph.canonical_etypes:
        assert edges_of(read, etype) == edges_of(graph, etype)


def test_another_graph_is_not_taken_for_it(tmp_path: Path) -> None:
    save_graph(build_graph(RELATIONS, USERS, ITEMS), tmp_path / "graph.bin")
    others = {**RELATIONS, next(iter(RELATIONS)): pairs((0, 0))}
    assert load_graph(tmp_path / "graph.bin", others, USERS, ITEMS) is None
    assert load_graph(tmp_path / "graph.bin", RELATIONS, USERS + 1, ITEMS) is None


def test_read_only_arrays_of_a_dataset_are_taken() -> None:
    relation = pairs((0, 1), (3, 2))
    relation.user_idx.flags.writeable = False
    relation.item_idx.flags.writeable = False
    assert build_graph({"click": relation}, USERS, ITEMS).num_edges(edge_type("click")) == 2


edges = st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=20)


@settings(max_examples=40, deadline=None)
@given(st.lists(edges, max_size=4))
def test_merging_is_the_union_in_order(sets: list[set[tuple[int, int]]]) -> None:
    merged = merge({str(n): pairs(*edges) for n, edges in enumerate(sets)}, ITEMS)
    found = list(zip(merged.user_idx.tolist(), merged.item_idx.tolist(), strict=True))
    assert found == sorted(set().union(*sets))
    assert merged.user_idx.dtype == merged.item_idx.dtype == np.int32


@settings(max_examples=40, deadline=None)
@given(st.lists(edges, min_size=1, max_size=4), st.integers(1, 5))
def test_relations_are_cut_between_users_and_nothing_is_lost(
    sets: list[set[tuple[int, int]]], rows: int
) -> None:
    relations = [pairs(*sorted(edges)) for edges in sets]
    groups = list(by_users(relations, rows))
    for place, whole in enumerate(relations):
        assert np.array_equal(np.concatenate([g[place].user_idx for g in groups]), whole.user_idx)
        assert np.array_equal(np.concatenate([g[place].item_idx for g in groups]), whole.item_idx)
    users = [{int(u) for part in group for u in part.user_idx} for group in groups]
    assert sum(map(len, users)) == len(set().union(*users))


def test_merging_does_not_overflow_on_a_big_shop() -> None:
    most = 2**31 - 1
    relation = Pairs(np.array([most], np.int32), np.array([most - 1], np.int32))
    assert as_set(merge({"click": relation, "purchase": relation}, most)) == {(most, most - 1)}


@pytest.mark.parametrize("relation", ["click", GLOBAL])
def test_the_two_directions_have_names_of_their_own(relation: str) -> None:
    assert edge_type(relation) == ("user", relation, "item")
    assert reverse_edge_type(relation) == ("item", f"{relation}-by", "user")
