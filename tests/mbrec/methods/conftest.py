"""A graph made by hand, with an empty relation, for tests of methods against dense NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mbrec.columns import GLOBAL
from mbrec.engines import DglEngine
from mbrec.graph import Pairs, build_graph
from mbrec.models.base import Context, MethodConfig, TrainedMethod
from mbrec.randomness import generator
from mbrec.sampling import Triples

Array = npt.NDArray[np.float64]


class HandMade:
    """Five users, four items, three behaviors; nobody has a favorite, user 4 has nothing at all.

    `build` gives a method on it whose weights are large, so that a missing term cannot hide.
    """

    behaviors = ("page.view", "favorite", "purchase")  # a dot in a name is a trap of torch modules
    users, items = 5, 4
    train: ClassVar[dict[str, list[tuple[int, int]]]] = {
        "page.view": [(0, 0), (0, 1), (1, 1), (2, 0), (2, 2), (3, 1)],
        "favorite": [],
        "purchase": [(0, 1), (1, 3), (2, 2)],  # (1, 3) was never viewed
    }

    def context(self) -> Context:
        """What a method is built from."""
        pairs = {}
        for behavior, rows in self.train.items():
            users, items = zip(*rows, strict=True) if rows else ((), ())
            pairs[behavior] = Pairs(np.array(users, np.int32), np.array(items, np.int32))
        engine = DglEngine(build_graph(pairs, self.users, self.items))
        random, device = generator(1, "init"), torch.device("cpu")
        return Context(self.behaviors, self.users, self.items, pairs, engine, random, device)

    def build(
        self, method: Callable[[Any, Context], TrainedMethod], config: MethodConfig
    ) -> TrainedMethod:
        """The method, with other weights."""
        model = method(config, self.context())
        random = generator(2, "test")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.7)
        return model

    def batch(self) -> dict[str, Triples]:
        """All training pairs, with two items as negatives that the user has not in the behavior."""
        result = {}
        for behavior, rows in self.train.items():
            if rows:
                users, items = map(torch.tensor, zip(*rows, strict=True))
                free = [
                    [item for item in range(self.items) if (user, item) not in rows][:2]
                    for user, _ in rows
                ]
                result[behavior] = Triples(users, items, torch.tensor(free))
        return result

    def weights(self, model: TrainedMethod) -> dict[str, Array]:
        """All weights of a method, by name."""
        return {name: value.double().numpy() for name, value in model.state_dict().items()}

    def matrix(self, relation: str) -> Array:
        """The interactions of a behavior, or of all, (U, I)."""
        result = np.zeros((self.users, self.items))
        for rows in self.train.values() if relation == GLOBAL else [self.train[relation]]:
            for pair in rows:
                result[pair] = 1
        return result

    def layers(self, relation: str, user: Array, item: Array, count: int) -> list[Array]:
        """Layers 0 … count of LightGCN, users above items, (U + I, d) each."""
        matrix = self.matrix(relation)
        adjacency = np.block(
            [[np.zeros((self.users, self.users)), matrix], [matrix.T, np.zeros((self.items,) * 2)]]
        )
        root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
        normalized = root[:, None] * adjacency * root
        base = np.concatenate([user, item])
        return [np.linalg.matrix_power(normalized, layer) @ base for layer in range(count + 1)]

    def bpr(self, behavior: str, user: Array, item: Array) -> float:
        """The mean of -ln σ(ŷ_ui - ŷ_uj) over the batch, one pair after the other."""
        triples, terms = self.batch()[behavior], []
        for u, i, negatives in zip(*self._lists(triples), strict=True):
            terms += [np.log1p(np.exp(user[u] @ item[j] - user[u] @ item[i])) for j in negatives]
        return float(np.mean(terms))

    def l2(self, user: Array, item: Array) -> float:
        """½ ‖e⁰‖² of the rows of the batch, averaged over the pairs of each behavior."""
        total = 0.0
        for triples in self.batch().values():
            for u, i, negatives in zip(*self._lists(triples), strict=True):
                rows = [user[u], item[i], *(item[j] for j in negatives)]
                total += sum(float(row @ row) for row in rows) / 2 / len(triples.user_idx)
        return total

    def check_scores(self, model: TrainedMethod, expected: dict[str, Array]) -> None:
        """Scores of all users and items, (U, I) per behavior."""
        scorers = model.eval().scorers()
        assert tuple(scorers) == self.behaviors
        for behavior, scorer in scorers.items():
            found = scorer.scores(torch.arange(self.users), 0, self.items).double().numpy()
            np.testing.assert_allclose(found, expected[behavior], rtol=1e-5, atol=1e-5)

    def check_losses(self, model: TrainedMethod, expected: dict[str, float]) -> None:
        """Loss terms of the batch, by name; without noise."""
        terms = model.eval().losses(model.propagate(), self.batch())
        assert set(terms) == set(expected)
        for name, term in terms.items():
            assert term.item() == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name

    @staticmethod
    def _lists(triples: Triples) -> tuple[list[int], list[int], list[list[int]]]:
        return triples.user_idx.tolist(), triples.positive.tolist(), triples.negative.tolist()


@pytest.fixture(scope="session")
def hand_made() -> HandMade:
    """See `HandMade`."""
    return HandMade()
