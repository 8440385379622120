"""If these fail, the weights that are validated are not the average that was promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mbrec.averaging import WeightAverage
from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.run import EMBEDDINGS
from mbrec.training import train_run


def test_the_average_of_three_steps_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = WeightAverage(module, decay=0.2)
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, -3.0), start=1):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update()
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == -3.0
    average.keep()
    assert module.weight.item() == pytest.approx(expected)


def settings(epochs: int, average: float) -> dict[str, object]:
    train = {"epochs": epochs, "lr": 0.02, "average": average, "batch_size": 64, "patience": 99}
    return {"method": "mf-bpr", "device": "cpu", "model": {"size": 4}, "train": train}


def test_an_average_survives_a_restart_bit_for_bit(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_run(tiny_dataset.path, whole, from_dict(settings(6, 0.9)))
    train_run(tiny_dataset.path, parts, from_dict(settings(3, 0.9)))
    train_run(tiny_dataset.path, parts, from_dict(settings(6, 0.9)), resume=True)
    first, second = load_file(whole / EMBEDDINGS), load_file(parts / EMBEDDINGS)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_keeps_the_average_and_not_the_last_weights(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    train_run(tiny_dataset.path, tmp_path / "plain", from_dict(settings(2, 0.0)))
    train_run(tiny_dataset.path, tmp_path / "average", from_dict(settings(2, 0.9)))
    plain, averaged = (load_file(tmp_path / n / EMBEDDINGS) for n in ("plain", "average"))
    assert not torch.equal(plain["user/click"], averaged["user/click"])
