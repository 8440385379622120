"""A run says on one page what it is, and keeps what its owner wrote there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.evaluation import evaluate_run
from mbrec.model_card import CARD, YOURS, _plain, write_card
from mbrec.run import Run
from mbrec.training import train_run


@pytest.fixture
def run(tiny_dataset: PreparedDataset, tmp_path: Path) -> Path:
    train_run(tiny_dataset.path, tmp_path / "run", from_dict({"method": "itemknn"}))
    return tmp_path / "run"


def test_training_writes_a_card_and_evaluation_adds_the_test_figures(
    run: Path, tiny_dataset: PreparedDataset
) -> None:
    before = (run / CARD).read_text()
    assert before.startswith("# run: itemknn for click, favorite and purchase\n")
    assert tiny_dataset.content_hash in before
    assert "| test rows |" not in before and "Validation rows chose" in before
    evaluate_run(run, device="cpu")
    after = (run / CARD).read_text()
    assert "| test rows | users | NDCG@5 |" in after and "| favorite | 0 | - |" in after
    assert len(after.splitlines()) < 66, "more than a page"


def test_what_the_owner_filled_in_is_kept(run: Path, tiny_dataset: PreparedDataset) -> None:
    text = (run / CARD).read_text()
    mine = text.replace("License of the model: _to be filled in_", "License of the model: MIT")
    (run / CARD).write_text(mine.replace("itemknn", "something else"))
    write_card(run, tiny_dataset.manifest)
    assert (run / CARD).read_text() == mine
    assert text.count(YOURS) == 1


def test_a_card_whose_mark_was_removed_is_not_doubled(
    run: Path, tiny_dataset: PreparedDataset
) -> None:
    text = (run / CARD).read_text()
    (run / CARD).write_text("mine alone")
    write_card(run, tiny_dataset.manifest)
    assert (run / CARD).read_text() == text


def test_a_run_without_journal_or_figures_has_a_card_too(tiny_run: Run) -> None:
    write_card(tiny_run.path, {})
    text = (tiny_run.path / CARD).read_text()
    assert "None were measured" in text and "planted" in text


def test_names_cannot_break_out_of_the_table() -> None:
    assert _plain("a|b\n<img src=x>") == "a\\|b img src=x"
