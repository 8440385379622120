"""Metrics against trec_eval, the reference program of information retrieval, as a package.

Where a definition of trec_eval is another one, the test says which, and compares with what the two
have in common.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chunkings import Dense

from mbrec import metrics
from mbrec.graph import Pairs
from mbrec.ranking import top_k

pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval-terrier is not installed")

K = 20
KS = (5, 10, 20)
SAME = {"hr": "success", "ndcg": "ndcg_cut", "recall": "recall", "precision": "P"}


def name(item: int) -> str:
    """trec_eval puts equal scores in descending order of names, we in ascending order of index."""
    return f"{10**6 - item:07d}"


def published(
    scores: np.ndarray, wanted: list[set[int]], measures: set[str]
) -> dict[str, np.ndarray]:
    """Measure → its value of every user, (U,), by trec_eval, from scores of all items."""
    run = {str(u): {name(i): float(s) for i, s in enumerate(row)} for u, row in enumerate(scores)}
    truth = {str(user): {name(item): 1 for item in items} for user, items in enumerate(wanted)}
    found = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(run)
    names = found["0"]
    return {m: np.array([found[str(u)][m] for u in range(len(scores))]) for m in names}


@pytest.mark.parametrize("levels", [1, 3, 10, 10**6], ids="{} levels of score".format)
@pytest.mark.parametrize("items", [20, 57, 300])
def test_metrics_are_those_of_trec_eval_ties_included(levels: int, items: int) -> None:
    rng = np.random.default_rng(levels + items)
    users = 60
    # Whole numbers below 2^24: float32, in which both hold scores, makes no two of them equal.
    scores = rng.integers(0, levels, (users, items)).astype(np.float64)
    wanted = [
        set(rng.permutation(items)[: rng.integers(1, min(items, 30) + 1)].tolist())
        for _ in range(users)
    ]
    flat = [(user, item) for user, some in enumerate(wanted) for item in sorted(some)]
    pairs = Pairs(*(np.array(column, np.int32) for column in zip(*flat, strict=True)))
    ranked = top_k(Dense(torch.from_numpy(scores).float()), torch.arange(users), K).items
    ours = metrics.per_user(ranked, pairs, KS)
    cuts = ",".join(map(str, KS))
    measures = {f"{theirs}.{cuts}" for theirs in SAME.values()} | {f"map_cut.{cuts}", "recip_rank"}
    theirs = published(scores, wanted, measures)
    for k in KS:
        for metric, other in SAME.items():
            np.testing.assert_allclose(ours[f"{metric}@{k}"], theirs[f"{other}_{k}"], atol=1e-12)
        # trec_eval divides by the number of relevant items, we by what K places can hold of them.
        sizes = np.array([len(some) for some in wanted])
        scaled = ours[f"map@{k}"] * np.minimum(k, sizes) / sizes
        np.testing.assert_allclose(scaled, theirs[f"map_cut_{k}"], atol=1e-12)
        # trec_eval looks for the first hit in the whole list, we in the first K places.
        whole = theirs["recip_rank"]
        cut = np.where(whole >= 1 / (k + 0.5), whole, 0)
        np.testing.assert_allclose(ours[f"mrr@{k}"], cut, atol=1e-12)
