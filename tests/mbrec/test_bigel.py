"""If these fail, BiGEL is not the paper's BiGEL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mbrec.engines import DglEngine
from mbrec.errors import UsageError
from mbrec.graph import Pairs, build_graph
from mbrec.models.base import Context
from mbrec.models.bigel import Bigel, BigelConfig
from mbrec.models.terms import distinct
from mbrec.randomness import generator
from mbrec.sampling import Triples

BEHAVIORS = ("page.view", "favorite", "purchase")  # a dot in a name is a trap of torch modules
USERS, ITEMS = 5, 4
TRAIN = {
    "page.view": [(0, 0), (0, 1), (1, 1), (2, 0), (2, 2), (3, 1)],
    "favorite": [],  # an empty relation
    "purchase": [(0, 1), (2, 2), (1, 3)],  # (1, 3) was never viewed; user 4 is isolated
}


def context(behaviors: tuple[str, ...] = BEHAVIORS) -> Context:
    train = {}
    for behavior in behaviors:
        users, items = zip(*sorted(TRAIN[behavior]), strict=True) if TRAIN[behavior] else ((), ())
        train[behavior] = Pairs(np.array(users, np.int32), np.array(items, np.int32))
    engine = DglEngine(build_graph(train, USERS, ITEMS))
    random = generator(1, "init")
    return Context(behaviors, USERS, ITEMS, train, engine, random, torch.device("cpu"))


def batch(behaviors: tuple[str, ...] = BEHAVIORS) -> dict[str, Triples]:
    result = {}
    for behavior in behaviors:
        if TRAIN[behavior]:
            users, items = map(torch.tensor, zip(*TRAIN[behavior], strict=True))
            result[behavior] = Triples(
                users, items, torch.stack([(items + 2) % 4, (items + 3) % 4], 1)
            )
    return result


def make(behaviors: tuple[str, ...] = BEHAVIORS, **settings: Any) -> Bigel:
    model = Bigel(BigelConfig(size=3, **settings), context(behaviors))
    with torch.no_grad():  # larger weights, so that a missing term cannot hide
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(2, "test")) * 0.7)
    return model


class Dense:
    """The paper's equations on dense matrices in NumPy, from a model's weights."""

    def __init__(self, model: Bigel) -> None:
        self.model, self.config = model, model.config
        self.weights = {k: v.detach().double().numpy() for k, v in model.state_dict().items()}
        self.matrices = {b: np.zeros((USERS, ITEMS)) for b in model.behaviors}
        for behavior, matrix in self.matrices.items():
            for pair in TRAIN[behavior]:
                matrix[pair] = 1

    def gcn(self, matrix: np.ndarray, nodes: np.ndarray, layers: int) -> np.ndarray:
        """Equations 2-3 on users and items together, mean over the layers."""
        adjacency = np.block(
            [[np.zeros((USERS, USERS)), matrix], [matrix.T, np.zeros((ITEMS, ITEMS))]]
        )
        root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
        normalized = root[:, None] * adjacency * root
        powers = [np.linalg.matrix_power(normalized, layer) @ nodes for layer in range(layers + 1)]
        return sum(powers) / (layers + 1)

    def gate(self, name: str, rows: np.ndarray) -> np.ndarray:
        maps = sum(1 for key in self.weights if key.startswith(f"{name}.maps.")) // 2
        for index in range(maps):
            if index == maps - 1:
                rows = np.where(rows > 0, rows, 0.01 * rows)
            rows = self.linear(f"{name}.maps.{index}", rows)
        return 1 / (1 + np.exp(-rows))

    def linear(self, name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def embeddings(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """e^(b_k) and what scores each behavior, users above items; and e_global."""
        base = np.concatenate([self.weights["user_emb"], self.weights["item_emb"]])
        own, current = {}, base
        for number, behavior in enumerate(self.model.behaviors, start=1):
            learned = self.gcn(self.matrices[behavior], current, number)
            if self.config.normalize:
                learned = learned / np.linalg.norm(learned, axis=1, keepdims=True)
            current = own[behavior] = learned + current
        merged = np.minimum(sum(self.matrices.values()), 1)
        whole = self.gcn(merged, base, self.config.global_layers)
        final = dict(own)
        for number, behavior in enumerate(self.model.behaviors[:-1]):
            sides = []
            for side, rows in (("user", slice(USERS)), ("item", slice(USERS, None))):
                key = str(number) if self.config.gates_shared else f"{number}-{side}"
                e = own[behavior][rows]
                if self.config.cgf:
                    e = e + self.gate(f"cgf.{key}.gate", e) * own[self.model.target][rows]
                if self.config.gce:
                    gate = self.gate(f"gce.{key}.gate", e)
                    e = e + gate * self.linear(f"gce.{key}.project", whole[rows])
                sides.append(e)
            final[behavior] = np.concatenate(sides)
        return own, final, whole

    def losses(self, triples: Mapping[str, Triples]) -> dict[str, float]:
        own, final, whole = self.embeddings()
        base = np.concatenate([self.weights["user_emb"], self.weights["item_emb"]])
        beta, weights = self.config.l2, self.config.cpa_weight
        beta = beta if isinstance(beta, dict) else dict.fromkeys(triples, beta)
        weights = weights if isinstance(weights, dict) else {self.model.target: weights}
        terms = {"l2": 0.0, "cpa": 0.0}
        for behavior, t in triples.items():
            e, margins = final[behavior], []
            for u, i, negatives in zip(
                t.user_idx.tolist(), t.positive.tolist(), t.negative.tolist(), strict=True
            ):
                margins += [e[u] @ e[USERS + i] - e[u] @ e[USERS + j] for j in negatives]
                for row in (u, USERS + i, *(USERS + j for j in negatives)):
                    share = beta.get(behavior, 0.0) / len(t.user_idx)
                    terms["l2"] += share * (base[row] ** 2).sum() / 2
            terms[f"bpr/{behavior}"] = -np.log(1 / (1 + np.exp(-np.array(margins)))).mean()
        for behavior, weight in weights.items():
            t = triples[behavior]
            terms["cpa"] += weight * sum(
                self.contrast(own[behavior][nodes], whole[nodes])
                for nodes in (
                    sorted(set(t.user_idx.tolist())),
                    sorted({USERS + i for i in t.positive.tolist()}),
                )
            )
        return terms

    def contrast(self, target: np.ndarray, whole: np.ndarray) -> float:
        if self.config.similarity == "cosine":
            target = target / np.linalg.norm(target, axis=1, keepdims=True)
            whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)
        s = np.exp(target @ whole.T / self.config.temperature)
        return float(-np.log(np.diag(s) / s.sum(1)).mean())


SWITCHES: list[dict[str, Any]] = [
    {},
    {"cgf": False},
    {"gce": False},
    {"cgf": False, "gce": False},
    {"gate_maps": 2},
    {"gates_shared": False},
    {"gce_gate": "cgf"},
    {"gce_gate": "cgf", "cgf": False},
    {"normalize": True},
    {"global_layers": 3, "temperature": 0.7, "similarity": "dot", "cpa_weight": 0.5, "l2": 0.1},
    {"cpa_weight": {"page.view": 0.3, "purchase": 0.7}},
    {"cpa_weight": {"page.view": 0.3}},
    {"l2": {"page.view": 0.2, "purchase": 0.5}},
    {"l2": {"purchase": 0.5}},
]


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_embeddings_and_losses_are_the_papers_equations(settings: dict[str, Any]) -> None:
    model = make(**settings)
    reference = Dense(model)
    _, final, _ = reference.embeddings()
    for behavior, factors in model.scorers().items():
        got = torch.cat([factors.user_emb, factors.item_emb]).numpy()
        np.testing.assert_allclose(got, final[behavior], rtol=1e-4, atol=1e-5)
    terms = model.losses(model.propagate(), batch())
    expected = reference.losses(batch())
    assert set(terms) == set(expected)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_a_batch_of_few_rows_scores_as_the_whole_table(settings: dict[str, Any]) -> None:
    """Gates run for the batch's rows, or for all nodes where the rows are more: no difference."""
    model = make(**settings)
    few = {
        behavior: Triples(t.user_idx[:1], t.positive[:1], t.negative[:1, :1])
        for behavior, t in batch().items()
    }
    expected = Dense(model).losses(few)
    for name, term in model.losses(model.propagate(), few).items():
        assert term.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("part", ["cgf", "gce"])
def test_a_part_that_is_off_has_no_weights(part: str) -> None:
    names = [name for name, _ in make(**{part: False}).named_parameters()]
    assert not [name for name in names if name.startswith(part)]
    assert [name for name in [n for n, _ in make().named_parameters()] if name.startswith(part)]


def test_cpa_off_has_no_term() -> None:
    model = make(cpa=False)
    assert "cpa" not in model.losses(model.propagate(), batch())


def test_a_table_that_names_the_target_alone_is_the_papers_weight() -> None:
    number, table = make(cpa_weight=0.3), make(cpa_weight={"purchase": 0.3})
    terms = [m.losses(m.propagate(), batch())["cpa"] for m in (number, table)]
    assert torch.equal(*terms)


def test_a_table_leaves_out_what_is_not_in_the_batch() -> None:
    model = make(cpa_weight={"page.view": 0.3, "favorite": 0.2})
    terms = model.losses(model.propagate(), batch(("purchase",)))
    assert set(terms) == {"bpr/purchase", "l2"}


def test_a_weight_of_an_unknown_behavior_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.cpa_weight names 'purchas'.*'purchase'\?"):
        make(cpa_weight={"purchas": 0.3})


def test_every_weight_learns() -> None:
    model = make(gate_maps=2, gates_shared=False)
    triples = batch()
    # `favorite` has no training pair of its own: give it one, so that its gates are used.
    triples["favorite"] = triples["purchase"]
    sum(model.losses(model.propagate(), triples).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_one_step_of_adam_against_finite_differences() -> None:
    """Adam's first step is -lr · g / (|g| + ε); g by central differences of the NumPy model."""
    model = make()
    reference, step = Dense(model), 1e-6

    def total() -> float:
        return sum(reference.losses(batch()).values())

    wanted = {}
    for name, index in (
        ("user_emb", (0, 1)),
        ("item_emb", (1, 2)),
        ("gce.0.project.weight", (2, 0)),
    ):
        weights = reference.weights[name] = reference.weights[name].copy()
        values = []
        for shift in (step, -2 * step):
            weights[index] += shift
            values.append(total())
        weights[index] += step
        gradient = (values[0] - values[1]) / (2 * step)
        wanted[name, index] = weights[index] - 0.01 * gradient / (abs(gradient) + 1e-8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sum(model.losses(model.propagate(), batch()).values()).backward()
    optimizer.step()
    for (name, index), value in wanted.items():
        assert model.state_dict()[name][index].item() == pytest.approx(value, rel=1e-4), name


def test_with_one_behavior_it_is_light_gcn_with_a_residual() -> None:
    model = make(("purchase",), cpa=False)
    factors = model.scorers()["purchase"]
    reference = Dense(model)
    base = np.concatenate([reference.weights["user_emb"], reference.weights["item_emb"]])
    expected = reference.gcn(reference.matrices["purchase"], base, 1) + base
    got = torch.cat([factors.user_emb, factors.item_emb]).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert set(model.losses(model.propagate(), batch(("purchase",)))) == {"bpr/purchase", "l2"}


def test_every_node_of_a_batch_is_found_again_where_it_stood() -> None:
    index = torch.tensor([[7, 2, 7], [0, 2, 9]])
    nodes, place = distinct(index, 10)
    assert nodes.tolist() == [0, 2, 7, 9]
    assert torch.equal(nodes[place].view_as(index), index)
    nodes, place = distinct(index[:0], 10)
    assert nodes.numel() == place.numel() == 0
