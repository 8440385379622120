"""If this fails, a night of training ends in weights that are no numbers, and nobody knows why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.errors import TrainingError
from mbrec.models.bigel import Bigel
from mbrec.run import EMBEDDINGS
from mbrec.sampling import Batch
from mbrec.training import train_run

PLANTED = 4  # step of the training, of 2 in an epoch


def settings(epochs: int) -> Any:
    train = {"epochs": epochs, "batch_size": 160, "patience": 9}
    return from_dict({"device": "cpu", "model": {"size": 8}, "train": train})


def test_a_nan_names_step_behavior_and_term_and_the_last_checkpoint_goes_on(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    whole = train_run(tiny_dataset.path, tmp_path / "whole", settings(3))
    plain, steps = Bigel.losses, 0

    def planted(self: Bigel, state: Any, batch: Batch) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        terms = plain(self, state, batch)
        if steps == PLANTED:
            terms["bpr/purchase"] = terms["bpr/purchase"] * float("nan")
        return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bigel, "losses", planted)
        words = r"not finite in epoch 2, step \d+: bpr/purchase = nan\.$"
        with pytest.raises(TrainingError) as caught:
            train_run(tiny_dataset.path, tmp_path / "run", settings(3))
    assert re.search(words, caught.value.message)
    saved = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(bool(value.isfinite().all()) for value in saved.values())
    again = train_run(tiny_dataset.path, tmp_path / "run", settings(3), resume=True)
    first, second = (load_file(run.path / EMBEDDINGS) for run in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
