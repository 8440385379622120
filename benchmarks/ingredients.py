"""What each ingredient of a trained BiGEL+ adds, on the validation part, without training again.

    python benchmarks/ingredients.py data/jd runs/plus
    python benchmarks/ingredients.py data/jd runs/plus --only "- context" --only "- cascade"

The weights are those of the run; for every row some ingredients are switched off and what the
others count is learned anew. NDCG@5 per behavior among the candidates that a stack is learned from:
cross-fitted (each fifth of the users ranked by what the other four taught), and in brackets on the
rows that it was learned from.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mbrec import config
from mbrec.building import build_method
from mbrec.config import Settings
from mbrec.dataset import PreparedDataset
from mbrec.keeping import Keeper
from mbrec.models.bigel_plus import BigelPlus
from mbrec.run import CHECKPOINTS
from mbrec.stacking import Part

COUNTED = ("walk", "linear", "userknn", "history", "popularity")
VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "- walk": {"walk": False},
    "- linear": {"linear": False},
    "- userknn": {"userknn": False},
    "- history": {"history": False},
    "- popularity": {"popularity": False, "by_popularity": False},
    "- network": {"network": 0},
    "- weights by popularity": {"by_popularity": False},
    "- weights by activity": {"by_activity": False},
    "- context": {"context": False},
    "- cascade": {"cascade": False},
    "one cascade": {"members": 1},
    "both branches": dict.fromkeys(COUNTED, False),
    "one cascade alone": {"members": 1, "context": False, **dict.fromkeys(COUNTED, False)},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", action="append", choices=VARIANTS, help="rows; all by default")
    options = parser.parse_args()
    dataset = PreparedDataset(options.data, ("train", "valid"))
    settings = config.resolve(options.run / "config.toml")
    trained = weights(dataset, settings, options.run)
    similar: dict[str, Part] = {}  # walks and EASE, the same in every row
    print("| |", " | ".join(dataset.behaviors), "|")
    print("| --- |" + " ---: |" * len(dataset.behaviors))
    for name in options.only or VARIANTS:
        found = learned(dataset, settings, VARIANTS[name], trained, similar)
        cells = [f"{c['cross_fitted']:.4f} ({c['value']:.4f})" for c in found.values()]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


def weights(dataset: PreparedDataset, settings: Settings, run: Path) -> dict[str, torch.Tensor]:
    """The weights that training kept."""
    method = build_method(dataset, settings, torch.device("cpu"))
    assert isinstance(method, BigelPlus)
    Keeper(method, settings.train.average, run / CHECKPOINTS).load()
    return {name: weight.detach() for name, weight in method.named_parameters()}


def learned(
    dataset: PreparedDataset,
    settings: Settings,
    changes: Mapping[str, Any],
    trained: Mapping[str, torch.Tensor],
    similar: dict[str, Part],
) -> dict[str, Any]:
    """Behavior → what `calibrate` says of its stack, with some settings changed."""
    model = settings.model.model_copy(update=dict(changes))
    method = build_method(
        dataset, settings.model_copy(update={"model": model}), torch.device("cpu")
    )
    assert isinstance(method, BigelPlus)
    with torch.no_grad():
        for name, weight in method.named_parameters():
            weight.copy_(trained[name])
    similar.update({} if similar else method.similarities)
    method.similarities = {
        n: p for n, p in similar.items() if changes.get(n.partition("/")[0], True)
    }
    valid = {name: dataset.pairs(name, "valid") for name in dataset.behaviors}
    metric = settings.train.metric.partition("@")[0]
    held_out = {name: pairs for name, pairs in valid.items() if len(pairs)}
    return method.calibrate(held_out, metric, settings.train.metric_k)


if __name__ == "__main__":
    main()
