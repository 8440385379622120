"""If these fail, deep propagation keeps a copy of all embeddings per layer until backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mbrec.engines import DglEngine, Engine, TorchEngine
from mbrec.graph import Pairs, build_graph
from mbrec.propagation import Combination, Nodes, Relation, light_gcn

USERS, ITEMS, SIZE = 30, 20, 8


def engine(name: str) -> Engine:
    users, items = np.nonzero(np.random.default_rng(0).random((USERS, ITEMS)) < 0.2)
    relations = {"click": Pairs(users.astype(np.int32), items.astype(np.int32))}
    if name == "dgl":
        return DglEngine(build_graph(relations, USERS, ITEMS))
    return TorchEngine(relations, USERS, ITEMS)


@pytest.mark.parametrize("name", ["dgl", "torch"])
@pytest.mark.parametrize("combination", ["mean", "sum", "last"])
def test_propagation_saves_no_activations_for_backward(name: str, combination: Combination) -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    relation = Relation.of("click", engine(name))
    nodes = Nodes(*(torch.randn(n, SIZE, requires_grad=True) for n in (USERS, ITEMS)))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = light_gcn(relation, nodes, 3, combination)
    assert found.user.requires_grad
    assert not saved
