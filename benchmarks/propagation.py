"""Propagation over one relation, both directions, forward and backward.

    python benchmarks/propagation.py

Against the bare DGL product, DGL's with weights on the edges, and what else torch offers: sparse
CSR, sparse COO, gather + index_add.
"mbrec" is one layer of LightGCN, with its normalization; "mbrec, sums" leaves it out, as the
bare product does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from logs import random_pairs
from torch import Tensor
from turns import goal, in_turns, machine

from mbrec.backend import dgl
from mbrec.engines import DglEngine, TorchEngine
from mbrec.graph import Pairs, build_graph, edge_type, reverse_edge_type
from mbrec.propagation import Nodes, Relation, light_gcn

Propagate = Callable[[Nodes], Nodes]


def contenders(pairs: Pairs, users: int, items: int) -> dict[str, Propagate]:
    """Name → sums over neighbors in both directions."""
    graph = build_graph({"click": pairs}, users, items)
    engine = DglEngine(graph)
    relation = Relation.of("click", engine)
    other = Relation.of("click", TorchEngine({"click": pairs}, users, items))
    to_item, to_user = graph[edge_type("click")], graph[reverse_edge_type("click")]
    copy_sum, weighted_sum = dgl().ops.copy_u_sum, dgl().ops.u_mul_e_sum
    weights = torch.rand(len(pairs), 1)
    user_idx, item_idx = pairs.tensors()
    coo, coo_t = sparse(pairs, users, items)
    csr, csr_t = coo.to_sparse_csr(), coo_t.to_sparse_csr()

    def gathered(nodes: Nodes) -> Nodes:
        user, item = torch.zeros_like(nodes.user), torch.zeros_like(nodes.item)
        return Nodes(
            user.index_add(0, user_idx, nodes.item[item_idx]),
            item.index_add(0, item_idx, nodes.user[user_idx]),
        )

    return {
        "mbrec": lambda nodes: light_gcn(relation, nodes, 1, "last"),
        "mbrec, sums": lambda nodes: engine.aggregate("click", nodes),
        "mbrec, torch engine": lambda nodes: light_gcn(other, nodes, 1, "last"),
        "bare DGL copy_u_sum": lambda nodes: Nodes(
            copy_sum(to_user, nodes.item), copy_sum(to_item, nodes.user)
        ),
        "DGL u_mul_e_sum": lambda nodes: Nodes(
            weighted_sum(to_user, nodes.item, weights), weighted_sum(to_item, nodes.user, weights)
        ),
        "torch CSR": lambda nodes: Nodes(csr @ nodes.item, csr_t @ nodes.user),
        "torch COO": lambda nodes: Nodes(
            torch.sparse.mm(coo, nodes.item), torch.sparse.mm(coo_t, nodes.user)
        ),
        "gather + index_add": gathered,
    }


def sparse(pairs: Pairs, users: int, items: int) -> tuple[Tensor, Tensor]:
    """The adjacency matrix (U, I) and its transpose, both coalesced COO."""
    index = torch.stack(pairs.tensors())
    matrix = torch.sparse_coo_tensor(
        index, torch.ones(len(pairs)), (users, items), check_invariants=False
    )
    matrix = matrix.coalesce()
    return matrix, matrix.t().coalesce()


def there_and_back(propagate: Propagate, nodes: Nodes, gradients: Nodes) -> None:
    """Forward and backward."""
    leaves = Nodes(*(part.detach().requires_grad_() for part in nodes))
    torch.autograd.backward(tuple(propagate(leaves)), tuple(gradients))


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

    pairs = random_pairs(args.edges, args.users, args.items)
    random = torch.Generator().manual_seed(0)
    nodes, gradients = (
        Nodes(*(torch.randn(n, args.dim, generator=random) for n in (args.users, args.items)))
        for _ in range(2)
    )
    works = contenders(pairs, args.users, args.items)
    times = in_turns(
        {
            name: lambda work=work: there_and_back(work, nodes, gradients)
            for name, work in works.items()
        },
        args.turns,
    )
    print(machine())
    print(f"{args.users:,} users × {args.items:,} items, {args.edges:,} edges, d = {args.dim}")
    times.show("mbrec")
    goal("mbrec / bare product", times.ratio("mbrec", "bare DGL copy_u_sum"), 1.15, at_most=True)
    goal(
        "mbrec, sums / bare product",
        times.ratio("mbrec, sums", "bare DGL copy_u_sum"),
        1.15,
        at_most=True,
    )
    goal("torch COO / mbrec", times.ratio("torch COO", "mbrec"), 6)
    goal("gather + index_add / mbrec", times.ratio("gather + index_add", "mbrec"), 20)


if __name__ == "__main__":
    main()
