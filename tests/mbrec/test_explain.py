"""An explanation adds up to the score, and says what the model does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mbrec import stacking
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, UsageError
from mbrec.explain import Explanation, explain_run
from mbrec.explain.decomposition import TOGETHER
from mbrec.explain.explanation import EXACT, FITTED
from mbrec.run import CHECKPOINTS, Run
from mbrec.training import train_run

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(
    tiny_dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Train a method for two epochs; the same call gives the same run."""
    made: dict[str, Path] = {}

    def run(method: str, **model: Any) -> Path:
        key = f"{method} {model}"
        if key not in made:
            steps = {"epochs": 2, "batch_size": 64, "lr": 0.02}
            values = {"method": method, "engine": "torch", "model": model, "train": steps}
            out = tmp_path_factory.mktemp("runs") / "run"
            train_run(tiny_dataset.path, out, from_dict(values))
            made[key] = out
        return made[key]

    return run


def gap(explanation: Explanation) -> float:
    """How far the shares are from adding up to the score."""
    return abs(sum(shares.total for shares in explanation.shares) - explanation.score)


@pytest.mark.parametrize(
    ("method", "model", "how"),
    [
        ("lightgcn", {"size": 8}, EXACT),
        ("lightgcn", {"size": 8, "graph": "behavior", "combination": "last"}, EXACT),
        ("crgcn", {"size": 8}, EXACT),
        ("bigel", {"size": 8}, EXACT),
        ("bigel", {"size": 8, "gates_shared": False, "combination": "sum", "cpa": False}, EXACT),
        ("bigel", {"size": 8, "cgf": False, "gce_gate": "cgf", "normalize": True}, EXACT),
        ("bigel-plus", {"size": 8, "context_size": 4, "members": 2}, EXACT),
        ("bigel-plus", {"size": 8, "context_size": 4, "blend": False}, EXACT),
        ("bigel-plus", {"size": 8, "cascade": False, "context_size": 4}, EXACT),
        ("itemknn", {"weights": {"click": 0.5}}, EXACT),
        ("userknn", {}, EXACT),
        ("ease", {"history": "behavior"}, EXACT),
        ("ease", {"target": "behavior", "neighbors": 5}, EXACT),
        ("ownhistory", {}, EXACT),
        ("mostpop", {}, EXACT),
        ("mf-bpr", {"size": 8}, FITTED),
    ],
)
def test_the_shares_add_up_to_the_score(train: Train, method: str, model: dict, how: str) -> None:
    path = train(method, **model)
    for behavior in ("click", "favorite", "purchase"):
        for user, item in (("u0", 1000), ("u5", 1007), ("u23", 1029)):
            explanation = explain_run(path, user, item, behavior=behavior)
            assert gap(explanation) < 1e-5 * max(1.0, abs(explanation.score)), (behavior, user)
            assert explanation.how == how


def test_what_a_network_makes_of_all_parts_is_one_share(
    tiny_dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = stacking._corrected
    monkeypatch.setattr(stacking, "FEWEST", 1)
    # It is to be taken, whether it makes the lists of this little dataset better or not.
    monkeypatch.setattr(
        stacking,
        "_corrected",
        lambda found, pool, *rest: true(
            replace(found, crossed=-pool.held_out.float()), pool, *rest
        ),
    )
    model = {"size": 4, "context_size": 4, "network": 8}
    values = {"method": "bigel-plus", "model": model, "train": {"epochs": 1, "batch_size": 64}}
    run = train_run(tiny_dataset.path, tmp_path / "run", from_dict(values))
    for behavior, stack in run.info["calibration"].items():
        # What was measured on all items is what the networks had promised on the candidates.
        measured = run.info["valid"]["behaviors"][behavior]["ndcg@5"]
        assert stack["cross_fitted"] == pytest.approx(measured, abs=1e-6)
        explanation = explain_run(run.path, "u5", 1007, behavior=behavior)
        assert gap(explanation) < 1e-5 * max(1.0, abs(explanation.score))
        assert [shares.part for shares in explanation.shares].count(TOGETHER) == 1


def test_a_neighbor_of_lightgcn_has_its_term_of_the_sum(
    train: Train, tiny_dataset: PreparedDataset
) -> None:
    path = train("lightgcn", size=8, layers=1, graph="behavior")
    found = explain_run(path, "u4", 1003, behavior="purchase")
    tensors = load_file(path / CHECKPOINTS / "best.safetensors")
    base = tensors["average-model/5"]  # of item_emb.2: what ranks are averages, by their number
    scored = load_file(path / "embeddings.safetensors")["item/purchase"][3]
    pairs = tiny_dataset.pairs("purchase", "train")
    mine = pairs.item_idx[pairs.user_idx == 4]
    expected = {
        1000 + j: 0.5
        * float(base[j] @ scored)
        / np.sqrt(len(mine) * int((pairs.item_idx == j).sum()))
        for j in mine.tolist()
    }
    told = {row["id"]: row["value"] for row in found.neighbors()}
    assert told == pytest.approx(expected, abs=1e-6)
    assert [row["layer"] for row in found.layers()] == [1]
    assert {row["part"] for row in found.parts()} == {"own embedding", "neighbors"}


def test_the_items_side_names_users_and_has_the_same_sum(train: Train) -> None:
    path = train("bigel", size=8)
    found = explain_run(path, "u3", 1006, behavior="favorite", side="item")
    assert gap(found) < 1e-5
    assert {row["kind"] for row in found.neighbors()} == {"user"}
    assert found.score == explain_run(path, "u3", 1006, behavior="favorite").score


def test_a_history_is_told_by_behavior_as_it_is_weighted(train: Train) -> None:
    path = train("itemknn", weights={"click": 0.5})
    found = explain_run(path, "u1", 1004).neighbors()
    both = next(row["behaviors"] for row in found if {"click", "purchase"} <= set(row["behaviors"]))
    assert both["purchase"] == pytest.approx(2 * both["click"])


def test_the_rank_is_that_of_the_list_and_seen_items_have_none(
    train: Train, tiny_dataset: PreparedDataset
) -> None:
    path = train("ease", history="behavior")
    pairs = tiny_dataset.pairs("purchase", "train")
    seen = int(pairs.item_idx[pairs.user_idx == 2][0])
    assert explain_run(path, "u2", 1000 + seen).rank is None
    ranks = [explain_run(path, "u2", 1000 + i).rank for i in range(6)]
    known = [rank for rank in ranks if rank is not None]
    scores = Run(path).scorer("purchase").scores(torch.tensor([2]), 0, 30)[0]
    order = sorted((i for i in range(6) if ranks[i]), key=lambda i: (-float(scores[i]), i))
    assert [ranks[i] for i in order] == sorted(known)


def test_weights_that_are_not_those_of_the_embeddings_are_not_trusted(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = train("lightgcn", size=4)
    best = path / CHECKPOINTS / "best.safetensors"
    before = best.read_bytes()
    other = train("lightgcn", size=4, l2=0.5)
    shutil.copy(other / CHECKPOINTS / "best.safetensors", best)
    found = explain_run(path, "u0", 1000)
    best.write_bytes(before)
    assert found.how == FITTED and gap(found) < 1e-5
    assert "other embeddings than its checkpoint" in caplog.text


def test_unknown_ids_and_missing_data_are_said_with_a_remedy(train: Train, tmp_path: Path) -> None:
    path = train("ownhistory")
    with pytest.raises(DataError, match=r"no user 'u99'.*e\.g\. 'u0'"):
        explain_run(path, "u99", 1000)
    with pytest.raises(DataError, match="no item 5"):
        explain_run(path, "u1", 5)
    with pytest.raises(UsageError, match="no behavior 'buy'"):
        explain_run(path, "u1", 1000, behavior="buy")
    with pytest.raises(ArtefactError, match="--data"):
        explain_run(path, "u1", 1000, data=tmp_path / "gone")
