"""Where to compute, and with which engine."""

from __future__ import annotations

import torch

from mbrec.dataset import PreparedDataset
from mbrec.engines import DglEngine, Engine, TorchEngine
from mbrec.errors import DeviceError


def pick_device(name: str) -> torch.device:
    """The device called "auto", "cpu" or "cuda".

    Raises:
        DeviceError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise DeviceError(
            f"CUDA was asked for, but torch {torch.__version__} ({built}) sees no CUDA device.",
            "Use --device cpu, or see `mbrec doctor`.",
        )
    if name == "auto":
        name = "cuda" if available else "cpu"
    return torch.device(name)


def make_engine(name: str, dataset: PreparedDataset, device: torch.device) -> Engine:
    """The engine called "dgl" or "torch", over a dataset's training graph.

    Raises:
        DeviceError: DGL cannot be imported, or its build cannot use `device`.
    """
    if name == "torch":
        relations = dataset.train_relations()
        return TorchEngine(relations, dataset.num_users, dataset.num_items, device)
    graph = dataset.graph()
    try:
        return DglEngine(graph, device)
    except Exception as error:  # DGL raises its own DGLError, and RuntimeError, for this
        if device.type == "cpu":
            raise
        reason = str(error).strip().splitlines()[-1]
        raise DeviceError(
            f"This build of DGL cannot use {device} ({reason}).",
            "Use --engine torch, which needs no CUDA build of DGL, or --device cpu.",
        ) from error
