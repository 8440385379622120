"""A method from its settings and a dataset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
import torch

from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.device import make_engine
from mbrec.models.base import Context, Method, Times, TrainedMethod, check_names
from mbrec.models.registry import find
from mbrec.parallel.team import ALONE, Team
from mbrec.randomness import generator


def build_method(
    dataset: PreparedDataset, settings: Settings, device: torch.device, team: Team = ALONE
) -> Method:
    """The method of `settings`, untrained, over the training part of `dataset`."""
    entry = find(settings.method)
    for name, value in settings.model:
        if isinstance(value, Mapping):
            check_names(f"model.{name}", value, dataset.behaviors)
    context = Context(
        behaviors=dataset.behaviors,
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        train=dataset.train_relations(),
        engine=make_engine(settings.engine, dataset, device) if entry.needs_engine else None,
        generator=generator(settings.seed, "init"),
        device=device,
        times=_times(dataset),
        team=team,
    )
    method = entry.build(settings.model, context)
    return method.to(device) if isinstance(method, TrainedMethod) else method


def _times(dataset: PreparedDataset) -> dict[str, Times]:
    """`Context.times`: without the behaviors of which no training row has a time."""
    found = {behavior: dataset.timestamps(behavior, "train") for behavior in dataset.behaviors}
    return {
        behavior: pc.fill_null(times, np.iinfo(np.int64).min).to_numpy()
        for behavior, times in found.items()
        if times.null_count < len(times)
    }
