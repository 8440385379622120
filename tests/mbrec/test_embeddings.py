"""Embeddings: whoever loads them elsewhere gets the scores that the run would give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mbrec import embeddings
from mbrec.dataset import PreparedDataset
from mbrec.embeddings import as_factors, export_embeddings
from mbrec.errors import ArtefactError, DeviceError, UsageError
from mbrec.ranking import top_k
from mbrec.run import Run
from mbrec.scoring import Factors, ItemToItem, Scorer, Sparse, Sum, Weighted


def random_factors(size: int, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(24, size, generator=generator), torch.randn(30, size, generator=generator)
    )


def history_scores() -> ItemToItem:
    history = Sparse.of(torch.arange(25), torch.arange(24), torch.ones(24), 30)
    return ItemToItem(history, torch.eye(30))


@pytest.fixture
def run(make_run: Callable[..., Run], tiny_dataset: PreparedDataset) -> Run:
    """A run with plain factors, a sum of them, and a sum of sums."""
    inner = random_factors(2, 2)
    by_user, by_item = (torch.linspace(-1, 2, n) for n in (inner.num_users, inner.num_items))
    scaled = Weighted(inner, by_user, by_item)
    pair = Sum((random_factors(4, 1), scaled), (0.5, -2.0))
    nested = Sum((pair, random_factors(3, 3)), (3.0, 1.0))
    scorers = {"click": random_factors(5), "favorite": pair, "purchase": nested}
    return make_run(tiny_dataset, scorers)


def load(folder: Path, behavior: str) -> tuple[np.ndarray, np.ndarray]:
    files = json.loads((folder / "embeddings.json").read_text())["behaviors"][behavior]
    return np.load(folder / files["users"]), np.load(folder / files["items"])


@pytest.mark.parametrize("behavior", ["click", "favorite", "purchase"])
def test_the_inner_product_is_the_score(run: Run, tmp_path: Path, behavior: str) -> None:
    export_embeddings(run.path, tmp_path / "vectors")
    users, items = load(tmp_path / "vectors", behavior)
    expected = run.scorer(behavior).scores(torch.arange(24), 0, 30).numpy()
    np.testing.assert_allclose(users @ items.T, expected, rtol=1e-5, atol=1e-5)


def test_vectors_of_plain_factors_are_those_of_the_run_to_the_last_bit(
    run: Run, tmp_path: Path
) -> None:
    export_embeddings(run.path, tmp_path / "vectors")
    users, items = load(tmp_path / "vectors", "click")
    factors = run.factors("click")
    assert users.dtype == items.dtype == np.float32
    np.testing.assert_array_equal(users, factors.user_emb)
    np.testing.assert_array_equal(items, factors.item_emb)


def test_the_ids_stand_in_the_order_of_the_vectors(run: Run, tmp_path: Path) -> None:
    export_embeddings(run.path, tmp_path / "vectors")
    users = pq.read_table(tmp_path / "vectors" / "users.parquet")["user_id"]
    items = pq.read_table(tmp_path / "vectors" / "items.parquet")["item_id"]
    assert users.to_pylist() == [f"u{user}" for user in range(24)]
    assert items.to_pylist() == [1000 + item for item in range(30)]


def test_the_folder_says_what_it_is(run: Run, tmp_path: Path) -> None:
    written = export_embeddings(run.path, tmp_path / "vectors", behaviors=["purchase", "click"])
    about = json.loads((tmp_path / "vectors" / "embeddings.json").read_text())
    assert (about["model"], about["metric"]) == ("planted", "inner product")
    assert list(about["behaviors"]) == ["click", "purchase"] == list(written.sizes)
    assert about["behaviors"]["purchase"]["size"] == 11 == written.sizes["purchase"]
    assert (about["users"]["count"], about["items"]["count"]) == (24, 30)
    there = {entry.name for entry in (tmp_path / "vectors").iterdir()}
    assert there == {*about["files"], "embeddings.json"}


@pytest.mark.parametrize("mixed", [False, True])
def test_a_method_without_embeddings_is_refused_by_name(
    make_run: Callable[..., Run], tiny_dataset: PreparedDataset, tmp_path: Path, mixed: bool
) -> None:
    own: Scorer = history_scores()
    scorer = Sum((own, random_factors(2)), (1.0, 1.0)) if mixed else own
    assert as_factors(scorer) is None
    run = make_run(tiny_dataset, dict.fromkeys(tiny_dataset.behaviors, scorer))
    with pytest.raises(ArtefactError, match="'planted' scores 'click' by the users' histories"):
        export_embeddings(run.path, tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_names_that_cannot_be_files_are_spelled_out_in_the_json(
    make_dataset: Callable[..., PreparedDataset], make_run: Callable[..., Run], tmp_path: Path
) -> None:
    names = ("../add", "a/b")
    dataset = make_dataset([(0, 0, n, "train") for n in names], users=24, items=30, behaviors=names)
    run = make_run(dataset, dict.fromkeys(names, random_factors(2)))
    export_embeddings(run.path, tmp_path / "out" / "vectors")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["vectors"]
    users, _ = load(tmp_path / "out" / "vectors", "../add")
    np.testing.assert_array_equal(users, run.factors("../add").user_emb)


def test_only_a_folder_of_embeddings_is_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    export_embeddings(run.path, out)
    with pytest.raises(UsageError, match="--force"):
        export_embeddings(run.path, out)
    export_embeddings(run.path, out, behaviors=["click"], force=True)
    assert not (out / "purchase.items.npy").exists()
    with pytest.raises(UsageError, match="holds other things"):
        export_embeddings(run.path, run.path, force=True)


def test_a_faiss_index_finds_the_lists_of_the_run(run: Run, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu (the extra `ann`) is not installed")
    export_embeddings(run.path, tmp_path / "vectors", faiss=True)
    for behavior in run.behaviors:
        users, items = load(tmp_path / "vectors", behavior)
        files = json.loads((tmp_path / "vectors" / "embeddings.json").read_text())
        name = files["behaviors"][behavior]["faiss"]
        index = faiss.read_index(str(tmp_path / "vectors" / name))
        assert (index.ntotal, index.d) == items.shape
        scores, found = index.search(users, 10)
        best = top_k(run.scorer(behavior), torch.arange(24), 10)
        np.testing.assert_array_equal(found, best.items)
        np.testing.assert_allclose(scores, best.scores, rtol=1e-5, atol=1e-5)


def test_a_missing_faiss_is_said_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(embeddings, "import_module", missing)
    with pytest.raises(DeviceError, match=r"mbrec\[ann\]"):
        export_embeddings(run.path, tmp_path / "vectors", faiss=True)
    assert not (tmp_path / "vectors").exists()
