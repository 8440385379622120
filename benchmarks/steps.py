"""Training steps of one method outside a run, timed part by part, and the floor under them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mbrec.backend import dgl
from mbrec.config import Settings
from mbrec.engines import DglEngine, TorchEngine
from mbrec.graph import Pairs, build_graph, edge_type, reverse_edge_type
from mbrec.memory import keep_freed_memory
from mbrec.models.base import Context, TrainedMethod
from mbrec.models.registry import find
from mbrec.parallel.team import ALONE, Team
from mbrec.randomness import generator
from mbrec.sampling import Batch, BatchSampler

PARTS = ("sampling", "propagation", "losses", "backward", "optimizer")
_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default: _aten.mm.default,
    _aten.mm.out: _aten.mm.default,
    _aten.addmm.default: _aten.addmm.default,
    _aten.addmm_.default: _aten.addmm.default,
    _aten.bmm.default: _aten.bmm.default,
    _aten.baddbmm.default: _aten.baddbmm.default,
}
"""Products that a step may take → how they are taken once more, into memory of their own."""


class Steps:
    """Calls of it are training steps over the batches of an endless course.

    Args:
        relations: Behavior → distinct training pairs, in cascade order.
        num_users: U.
        num_items: I.
        settings: Method, engine, seed and [train].
        device: Where.
        team: The processes that train together, each with its own steps.
    """

    def __init__(
        self,
        relations: Mapping[str, Pairs],
        num_users: int,
        num_items: int,
        settings: Settings,
        device: torch.device | str = "cpu",
        team: Team = ALONE,
    ) -> None:
        keep_freed_memory()  # as the trainer does
        self.relations, self.num_users, self.num_items = relations, num_users, num_items
        self.device, config = torch.device(device), settings.train
        if settings.engine == "dgl":
            engine: Any = DglEngine(build_graph(relations, num_users, num_items), device)
        else:
            engine = TorchEngine(relations, num_users, num_items, device)
        context = Context(
            behaviors=tuple(relations),
            num_users=num_users,
            num_items=num_items,
            train=relations,
            engine=engine,
            generator=generator(settings.seed, "init"),
            device=self.device,
            team=team,
        )
        method = find(settings.method).build(settings.model, context)
        assert isinstance(method, TrainedMethod)
        self.method = method.to(device)
        self.optimizer = torch.optim.Adam(self.method.parameters(), lr=config.lr, fused=True)
        self.sampler = BatchSampler(
            relations,
            num_users,
            num_items,
            batch_size=config.batch_size,
            negatives=config.negatives,
            device=self.device,
        )
        self._batches = self._endless(settings.seed)
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.in_parts = True  # wait for the device after each part, to time it
        self.clock = time.perf_counter  # of the parts

    def __call__(self) -> Tensor:
        """One step; returns its loss, for which nobody has to wait."""
        batch = self._timed("sampling", lambda: next(self._batches))
        state = self._timed("propagation", self.method.propagate)
        total = self._timed("losses", partial(self._loss, state, batch))
        del state  # as the trainer does not hold it while it goes back
        self.optimizer.zero_grad(set_to_none=True)
        self._timed("backward", lambda: self._backward(total))
        self._timed("optimizer", self.optimizer.step)
        loss: Tensor = total.detach()
        return loss

    def _loss(self, state: Any, batch: Batch) -> Tensor:
        return torch.stack(list(self.method.losses(state, batch).values())).sum()

    def _backward(self, total: Tensor) -> None:
        total.backward()  # type: ignore[no-untyped-call]
        self.method.join_gradients()

    def _timed(self, part: str, work: Callable[[], Any]) -> Any:
        if not self.in_parts:
            return work()
        start = self.clock()
        result = work()
        self.wait()
        self.parts[part].append(self.clock() - start)
        return result

    def wait(self) -> None:
        """Until the device has done what it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _endless(self, seed: int) -> Iterator[Batch]:
        epoch = 0
        while True:
            epoch += 1
            yield from self.sampler.epoch(generator(seed, "sampling", epoch, self.device))


class DenseProducts(TorchDispatchMode):
    """Remembers the operands of all dense matrix products, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS and all(arg.layout == torch.strided for arg in args):
            self.calls.append((_PRODUCTS[func], [arg.detach() for arg in args]))
        return func(*args, **(kwargs or {}))

    def again(self) -> None:
        """Multiply once more, and nothing else."""
        for func, operands in self.calls:
            func(*operands)


def dense_floor(steps: Steps) -> DenseProducts:
    """The dense matrix products of one step, with its operands."""
    products = DenseProducts()
    with products:
        steps()
    return products


def sparse_floor(steps: Steps, layers: Mapping[str, int], size: int) -> Callable[[], None]:
    """The bare DGL products of one step: per layer both directions, forward and backward.

    Args:
        steps: Whose graph.
        layers: Relation → layers that it is propagated over.
        size: d.
    """
    copy_sum = dgl().ops.copy_u_sum
    graph = build_graph(steps.relations, steps.num_users, steps.num_items)
    user, item = (torch.randn(n, size) for n in (steps.num_users, steps.num_items))
    graphs = [
        (graph[edge_type(name)], graph[reverse_edge_type(name)], 2 * count)
        for name, count in layers.items()
    ]

    def products() -> None:
        for to_item, to_user, times in graphs:
            for _ in range(times):
                copy_sum(to_user, item)
                copy_sum(to_item, user)

    return products
