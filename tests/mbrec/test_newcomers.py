"""New users get the lists that the run would have given them, and nobody is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError
from mbrec.folding import FoldIn
from mbrec.graph import Pairs, merge
from mbrec.history import latest_first, scorable
from mbrec.network import Network
from mbrec.newcomers import export_new_users, find_newcomers
from mbrec.run import Run
from mbrec.scoring import (
    Factors,
    ItemNeighbors,
    ItemToItem,
    Scorer,
    Sparse,
    Sum,
    UserNeighbors,
    Weighted,
)
from mbrec.similar_users import similar_users
from mbrec.spread import unit_spread
from mbrec.training import train_run

WEIGHTS = {"click": 1.0, "favorite": 0.5, "purchase": 3.0}


def events(rows: list[tuple[object, object, str]]) -> pa.Table:
    users, items, behaviors = zip(*rows, strict=True)
    texts = [list(map(str, users)), list(map(str, items)), list(behaviors)]
    return pa.table(texts, names=["user_id", "item_id", "behavior"])


def history(dataset: PreparedDataset) -> Sparse:
    """Σ_b w_b A_b of the known users."""
    total = torch.zeros(dataset.num_users, dataset.num_items)
    for name, pairs in dataset.train_relations().items():
        users, items = pairs.tensors()
        total[users, items] += WEIGHTS[name]
    return scorable(sparse.csr_matrix(total.numpy()))


def fold_known_users(dataset: PreparedDataset) -> FoldIn:
    """The known users once more, as if they were new."""
    relations = dataset.train_relations()
    users = dataset.num_users
    return FoldIn(relations, relations, users, users, dataset.num_items)


def active(dataset: PreparedDataset) -> torch.Tensor:
    """A number that follows from how much each user has done."""
    total = torch.full((dataset.num_users,), 0.5)
    for weight, pairs in zip((2.0, -1.0, 0.3), dataset.train_relations().values(), strict=False):
        users, _ = pairs.tensors()
        total += weight * torch.bincount(users, minlength=dataset.num_users).log1p()
    return total


def item_side(dataset: PreparedDataset) -> dict[str, Scorer]:
    generator = torch.Generator().manual_seed(3)
    similarity = torch.rand(30, 30, generator=generator)
    few = torch.where(similarity > 0.7, similarity, 0.0)
    neighbors = scorable(sparse.csr_matrix(few.numpy()))
    tail = Factors(torch.ones(dataset.num_users, 1), torch.rand(30, 1, generator=generator))
    past = history(dataset)
    return {
        "dense": ItemToItem(past, similarity),
        "sparse": ItemNeighbors(past, neighbors),
        "history": past,
        "scaled": unit_spread(ItemNeighbors(past, neighbors)),
        "weighted": Weighted(
            unit_spread(ItemNeighbors(past, neighbors)), active(dataset), tail.item_emb[:, 0]
        ),
        "popularity by activity": Factors(
            torch.stack([torch.ones(dataset.num_users), active(dataset)], 1),
            torch.rand(30, 2, generator=generator),
        ),
        "network": Network(
            Sum((past, unit_spread(ItemNeighbors(past, neighbors))), (0.5, 2.0)),
            *(torch.zeros(2), torch.ones(2), torch.rand(2, 5, generator=generator)),
            *(torch.rand(rows, 5, generator=generator) for rows in (1, 2)),
            *(torch.rand(5, generator=generator), torch.rand(5, generator=generator)),
            tail.item_emb,
            torch.stack([active(dataset), torch.ones(dataset.num_users)], 1),
        ),
        "with popularity": Sum((ItemNeighbors(past, neighbors), tail), (1.0, 0.25)),
    }


def test_how_lately_a_new_user_did_something_counts_as_for_a_known_one(
    tiny_dataset: PreparedDataset,
) -> None:
    relations = tiny_dataset.train_relations()
    asked, behavior = tiny_dataset.behaviors[0], tiny_dataset.behaviors[-1]
    pairs = relations[asked]
    times = np.random.default_rng(5).permutation(len(pairs)).astype(np.int64)
    scorer = latest_first(pairs, times, relations[behavior], 24, 30)
    assert int(scorer.indptr.diff().max()) > 1
    fold, everybody = fold_known_users(tiny_dataset), torch.arange(24)
    folded = replace(fold, times={asked: times}).scorer(Sum((scorer,), (2.0,)), "a run")
    expected = 2 * scorer.scores(everybody, 0, 30)
    torch.testing.assert_close(folded.scores(everybody, 0, 30), expected)
    with pytest.raises(ArtefactError, match="when users did what") as caught:
        fold.scorer(scorer, "a run")
    assert "timestamp" in caught.value.remedy


def test_the_latest_item_counts_as_such_where_no_user_has_two(
    tiny_dataset: PreparedDataset,
) -> None:
    """Rare behaviors leave one item per user at most, and it is no plain history for that."""
    relations = dict(tiny_dataset.train_relations())
    asked, behavior = tiny_dataset.behaviors[0], tiny_dataset.behaviors[-1]
    everything = relations[asked]
    done = set(zip(*(a.tolist() for a in everything.tensors()), strict=True))
    first = dict(sorted(done, reverse=True))
    left = sorted((user, item) for user, item in done if item != first[user] or user % 3)
    users, items = (np.array(column, np.int32) for column in zip(*left, strict=True))
    relations[behavior] = Pairs(users, items)  # all but one item of every third user
    times = np.arange(len(everything))
    scorer = latest_first(everything, times, relations[behavior], 24, 30)
    assert int(scorer.indptr.diff().max()) == 1
    fold = FoldIn(relations, relations, 24, 24, 30, {asked: times})
    folded = fold.scorer(scorer, "a run")
    everybody = torch.arange(24)
    torch.testing.assert_close(folded.scores(everybody, 0, 30), scorer.scores(everybody, 0, 30))


@pytest.mark.parametrize(
    "kind",
    [
        "dense",
        "sparse",
        "history",
        "scaled",
        "weighted",
        "popularity by activity",
        "with popularity",
    ],
)
def test_item_side_scores_of_new_users_are_those_of_a_known_user_with_their_edges(
    tiny_dataset: PreparedDataset, kind: str
) -> None:
    scorer = item_side(tiny_dataset)[kind]
    everybody = torch.arange(24)
    folded = fold_known_users(tiny_dataset).scorer(scorer, "a run")
    expected, found = (part.scores(everybody, 0, 30) for part in (scorer, folded))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_history_that_is_no_sum_of_behaviors_is_refused(tiny_dataset: PreparedDataset) -> None:
    past = history(tiny_dataset)
    odd = Sparse(past.indptr, past.items, past.values + torch.arange(len(past.values)), past.width)
    with pytest.raises(ArtefactError, match="the run, 'click' cannot be folded in"):
        fold_known_users(tiny_dataset).scorer(odd, "the run, 'click'")


@pytest.mark.parametrize("scaled", [False, True])
def test_the_neighbors_of_a_new_user_are_those_of_a_known_user_with_her_edges(
    tiny_dataset: PreparedDataset, scaled: bool
) -> None:
    relations = tiny_dataset.train_relations()
    groups: list[dict[str, Pairs]] = []
    for first, stop in ((0, 16), (16, 24)):
        found = {}
        for name, pairs in relations.items():
            mine = (pairs.user_idx >= first) & (pairs.user_idx < stop)
            found[name] = Pairs(pairs.user_idx[mine] - first, pairs.item_idx[mine])
        groups.append(found)
    known, new = (
        np.sum(
            [Sparse.from_pairs(p, n, 30).scores(torch.arange(n), 0, 30) for p in group.values()], 0
        )
        for group, n in zip(groups, (16, 8), strict=True)
    )
    similar = scorable(similar_users(sparse.csr_matrix(known), 5, 0.25))
    past = scorable(sparse.csr_matrix(known))
    neighbors: Scorer = UserNeighbors(similar, past)
    fold = FoldIn(*groups, 16, 8, 30)
    folded = fold.scorer(unit_spread(neighbors) if scaled else neighbors, "a run")

    weights = [side / np.sqrt(np.maximum((known > 0).sum(0), 1)) for side in (new, known)]
    lengths = np.outer(*(np.linalg.norm(rows, axis=1) for rows in weights))
    alike = weights[0] @ weights[1].T / (lengths + 0.25)
    for row in alike:
        row[np.argsort(-row, kind="stable")[5:]] = 0
    expected = alike @ known
    if scaled:
        expected /= expected.std(1, keepdims=True)
    np.testing.assert_allclose(
        folded.scores(torch.arange(8), 0, 30), expected, rtol=1e-4, atol=1e-4
    )

    odd = replace(similar, values=similar.values + torch.arange(len(similar.values)) % 3)
    with pytest.raises(ArtefactError, match="a run cannot be folded in"):
        fold.scorer(UserNeighbors(odd, past), "a run")


def test_factors_of_users_that_do_not_follow_from_activity_are_refused(
    tiny_dataset: PreparedDataset,
) -> None:
    odd = Weighted(history(tiny_dataset), torch.arange(24.0) % 5, torch.ones(30))
    with pytest.raises(ArtefactError, match="a run cannot be folded in"):
        fold_known_users(tiny_dataset).scorer(odd, "a run")


def test_embeddings_that_are_propagated_items_are_found_again(
    tiny_dataset: PreparedDataset,
) -> None:
    generator = torch.Generator().manual_seed(5)
    items = torch.randn(30, 2, generator=generator)
    users, places = merge(tiny_dataset.train_relations(), 30).tensors()
    user_roots = torch.bincount(users, minlength=24).clamp(min=1).rsqrt()
    item_roots = torch.bincount(places, minlength=30).clamp(min=1).rsqrt()
    propagated = torch.zeros(24, 2).index_add_(0, users, (items * item_roots[:, None])[places])
    turned = propagated * user_roots[:, None] @ torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    bias = torch.full((24, 1), 7.0)
    factors = Factors(torch.cat([turned, bias], 1), torch.cat([items, items.sum(1)[:, None]], 1))
    folded = fold_known_users(tiny_dataset).scorer(factors, "a run")
    assert isinstance(folded, Factors)
    torch.testing.assert_close(folded.user_emb, factors.user_emb, rtol=0.02, atol=0.02)
    torch.testing.assert_close(folded.user_emb[:, 2:], bias, rtol=0, atol=0)


def test_a_new_user_is_shown_what_others_of_her_taste_like(tiny_run: Run, tmp_path: Path) -> None:
    log = events([("zoe", 1000 + item, "click") for item in (1, 4, 7)] + [("amy", 1002, "click")])
    written = export_new_users(tiny_run.path, tmp_path / "new.parquet", log, k=5)
    frame = pq.read_table(tmp_path / "new.parquet").to_pandas()
    assert (written.users, written.rows, written.known_users) == (2, 30, 0)
    for user, residue in (("zoe", 1), ("amy", 2)):
        for behavior in tiny_run.behaviors:
            mine = frame[(frame.user_id == user) & (frame.behavior == behavior)]
            assert {item % 1000 % 3 for item in mine.item_id} == {residue}


@pytest.mark.parametrize("method", ["itemknn", "userknn"])
def test_a_run_of_some_behaviors_folds_these_in(
    tiny_dataset: PreparedDataset, tmp_path: Path, method: str
) -> None:
    values = {"method": method, "behaviors": ["click", "purchase"], "device": "cpu"}
    run = train_run(tiny_dataset.path, tmp_path / "run", from_dict(values))
    log = events([("zoe", 1001, "click"), ("zoe", 1004, "favorite"), ("zoe", 1007, "purchase")])
    export_new_users(run.path, tmp_path / "new.parquet", log, k=3)
    table = pq.read_table(tmp_path / "new.parquet")
    assert set(table["behavior"].to_pylist()) == {"click", "purchase"}


@pytest.mark.parametrize(("seen", "hidden"), [("same", {1}), ("any", {1, 4}), ("none", set())])
def test_what_stands_in_the_log_is_left_out_as_asked(
    tiny_run: Run, tmp_path: Path, seen: str, hidden: set[int]
) -> None:
    log = events([("zoe", 1001, "click"), ("zoe", 1004, "purchase")])
    out = tmp_path / "new.parquet"
    export_new_users(
        tiny_run.path,
        out,
        log,
        k=30,
        behaviors=["click"],
        exclude_seen=seen,  # type: ignore[arg-type]
    )
    shown = {item - 1000 for item in pq.read_table(out)["item_id"].to_pylist()}
    assert shown == set(range(30)) - hidden


def test_nobody_and_nothing_is_left_out_unsaid(tiny_run: Run) -> None:
    log = events(
        [("u3", 1000, "click"), ("new", 1000, "click"), ("new", 77, "click"), ("lost", 77, "click")]
    )
    found = find_newcomers(tiny_run, log)
    assert found.user_ids.to_pylist() == ["new"]
    assert (found.known_users, found.unknown_items) == (1, 1)
    assert (found.lost_events, found.lost_users) == (2, 1)
    np.testing.assert_array_equal(found.relations["click"].item_idx, [0])
    assert [len(pairs) for pairs in found.relations.values()] == [1, 0, 0]
    with pytest.raises(DataError, match="1 users are known already, 1 events are of unknown"):
        find_newcomers(tiny_run, events([("u3", 1000, "click"), ("lost", 77, "click")]))


def test_new_ids_are_numbers_where_the_run_has_numbers(tiny_run: Run) -> None:
    tiny_run.user_ids = pa.array(range(24))
    assert find_newcomers(tiny_run, events([(99, 1000, "click")])).user_ids.type == pa.int64()
    texts = find_newcomers(tiny_run, events([("099", 1000, "click"), (98, 1000, "click")]))
    assert texts.user_ids.to_pylist() == ["099", "98"]


def test_a_method_that_keeps_lists_is_refused_before_anything_is_written(
    make_run: Callable[..., Run], tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    lists = Sparse.from_pairs(Pairs(np.arange(24), np.arange(24)), 24, 30)
    run = make_run(tiny_dataset, dict.fromkeys(tiny_dataset.behaviors, lists))
    with pytest.raises(ArtefactError, match=r"\(planted\), 'click' cannot be folded in"):
        export_new_users(run.path, tmp_path / "new.csv", events([("zoe", 1001, "click")]))
    assert not (tmp_path / "new.csv").exists()
