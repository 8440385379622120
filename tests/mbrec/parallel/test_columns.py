"""If these fail, ranks put columns or lists together wrongly, or take on what they cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from mbrec.config import from_dict
from mbrec.errors import UsageError
from mbrec.models.base import Initializer, embedding_table
from mbrec.parallel import columns as splitting
from mbrec.parallel import tensor_file
from mbrec.parallel.columns import Columns
from mbrec.parallel.dividing import check_dividable
from mbrec.parallel.lookup import Lookup
from mbrec.parallel.ranking import WholeFactors, top_k_together
from mbrec.parallel.team import Shape, Team
from mbrec.ranking import Exclusion, top_k
from mbrec.scoring import Factors


class ThreadTeam(Team):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(board))
        self._board, self._barrier = board, barrier

    def gather(self, local: Tensor) -> Tensor:
        self._board[self.rank] = local
        self._barrier.wait(60)
        found = torch.stack(self._board)
        self._barrier.wait(60)
        return found

    def gather_first(self, local: Tensor) -> Tensor | None:
        found = self.gather(local)
        return found if self.first else None

    def sum(self, local: Tensor) -> Tensor:
        return self.gather(local.detach()).sum(0)

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        self._board[self.rank] = parts
        self._barrier.wait(60)
        found = [parts[self.rank] for parts in self._board]
        assert [part.shape for part in found] == list(shapes)
        self._barrier.wait(60)
        return found


def by_ranks(ranks: int, work: Callable[[Team], Any]) -> list[Any]:
    """What `work` gives in every rank."""
    board: list[Any] = [None] * ranks
    barrier = threading.Barrier(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda r: work(ThreadTeam(r, board, barrier)), range(ranks)))


@pytest.mark.parametrize("initializer", ["normal", "xavier"])
@pytest.mark.parametrize("count", [3, 64, 150])
def test_ranks_begin_with_their_columns_of_what_one_process_draws(
    initializer: Initializer, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "_CHUNK", 32)

    def table(team: Team) -> Tensor:
        random = torch.Generator().manual_seed(5)
        return embedding_table(count, 7, initializer, random, Columns(team, 7)).data

    (whole,) = by_ranks(1, table)
    assert torch.equal(torch.cat(by_ranks(3, table), dim=1), whole)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(4, 9), st.integers(1, 6))
def test_rows_are_whole_and_the_gradient_is_that_of_one_process(
    ranks: int, size: int, count: int
) -> None:
    random = torch.Generator().manual_seed(ranks * 100 + size)
    table, index = torch.randn(8, size, generator=random), torch.arange(count)
    weights = torch.randn(size, size, generator=random)

    def step(team: Team) -> tuple[Tensor, Tensor]:
        columns = Columns(team, size)
        own, other = (part[:, columns.own].clone().requires_grad_() for part in (table, table + 1))
        shares = columns.shares(index)
        lookup = Lookup(columns)
        asked = ((own, shares), (own, [index] * team.ranks), (other, shares))
        first, every, second = [rows() for rows in [lookup.ask(rows) for rows in asked]]
        mixed = (first @ weights * second).square().sum() + (first @ every.T).tanh().sum()
        inner, mixed = columns.total([(own * own).sum(1), mixed])
        total = mixed + inner.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None and other.grad is not None
        return total.detach(), torch.stack([own.grad, other.grad])

    ((alone, gradients),) = by_ranks(1, step)
    found = by_ranks(ranks, step)
    for value, _ in found:
        torch.testing.assert_close(value, alone)
    torch.testing.assert_close(torch.cat([part for _, part in found], dim=2), gradients)


def test_work_on_every_row_is_that_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "_CHUNK", 4)
    first, second = torch.randn(10, 5), torch.randn(10, 5)

    def work(one: Tensor, nothing: None, other: Tensor) -> Tensor:
        return torch.softmax(one, dim=1) * other.sum(1, keepdim=True)

    def own(team: Team) -> Tensor:
        columns = Columns(team, 5)
        parts = (first[:, columns.own], None, second[:, columns.own])
        return columns.each_row(work, *parts)

    expected = work(first, None, second)
    torch.testing.assert_close(torch.cat(by_ranks(2, own), dim=1), expected)


def test_lists_of_several_ranks_are_those_of_one_to_the_last_bit() -> None:
    random = torch.Generator().manual_seed(2)
    user_emb, item_emb = (torch.randn(n, 6, generator=random) for n in (500, 300))
    users = torch.randperm(500, generator=random)[:450]
    seen = Exclusion(torch.arange(501) * 2, torch.arange(1000, dtype=torch.int32) % 300)

    def lists(team: Team) -> tuple[Tensor, Tensor]:
        columns = Columns(team, 6)
        own = Factors(user_emb[:, columns.own], item_emb[:, columns.own])
        scorer = WholeFactors({"click": own}, columns)["click"]
        return top_k_together(team, scorer, users, 9, seen)

    expected = top_k(Factors(user_emb, item_emb), users, 9, seen)
    for ranks in (1, 2, 3, 5):
        for items, scores in by_ranks(ranks, lists):
            assert torch.equal(items, expected.items)
            assert torch.equal(scores, expected.scores)


def test_a_file_holds_whole_tensors_and_gives_own_columns(tmp_path: Path) -> None:
    table, step = torch.randn(9, 5), torch.tensor(3, dtype=torch.int64)

    def both(team: Team) -> Tensor:
        columns = Columns(team, 5)
        given, divided = {"t": table[:, columns.own], "n": step}, {"t": columns}
        path = tmp_path / f"{team.ranks}"
        tensor_file.write(path if team.first else None, given, divided, {"a": "b"}, "digest")
        team.wait()
        return tensor_file.read(path, divided)["t"]

    for ranks in (1, 2, 3):
        assert torch.equal(torch.cat(by_ranks(ranks, both), dim=1), table)
        found = load_file(tmp_path / f"{ranks}")
        assert torch.equal(found["t"], table)
        assert torch.equal(found["n"], step)
    assert len({(tmp_path / f"{ranks}").read_bytes() for ranks in (1, 2, 3)}) == 1


@pytest.mark.parametrize(
    ("method", "model", "reason"),
    [
        ("ghcf", {}, "ghcf cannot be trained by 2 processes.*bigel, lightgcn, mf-bpr"),
        ("crgcn", {}, "norms of all nodes"),
        ("mostpop", {}, "cannot be trained by 2"),
        ("bigel", {"size": 1}, "less than the 2 processes"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(
    method: str, model: dict[str, Any], reason: str
) -> None:
    config = from_dict({"method": method, "model": model})
    check_dividable(config, Team())
    with pytest.raises(UsageError, match=reason):
        check_dividable(config, Team(0, 2))


def test_crgcn_without_norms_is_divided() -> None:
    check_dividable(from_dict({"method": "crgcn", "model": {"normalize": False}}), Team(0, 2))
