"""If these fail, ranks read rows that are not theirs, or of another step."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mbrec.parallel import mailboxes
from mbrec.parallel.mailboxes import Mailboxes
from mbrec.parallel.team import Team

from .conftest import Teams

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no files in memory"
)

Three = list[Mailboxes]


@pytest.fixture
def three() -> Iterator[Three]:
    """The boxes of three ranks, all in this process."""
    found = [Mailboxes(rank, 3) for rank in range(3)]
    addresses = [boxes.address for boxes in found]
    assert all(boxes.open(addresses) for boxes in found)
    yield found
    for boxes in found:
        boxes.close()


def exchange(three: Three, parts: list[list[Tensor]]) -> list[list[Tensor]]:
    """What rank r finds from rank s, [r][s]; `parts` is what r has for s."""
    for boxes, own in zip(three, parts, strict=True):
        boxes.put(own)
    return [
        [
            parts[s][r] if r == s else boxes.look(s, parts[s][r].shape, parts[s][r].dtype)
            for s in range(3)
        ]
        for r, boxes in enumerate(three)
    ]


def test_all_find_what_the_others_have_for_them_as_sizes_and_types_change(three: Three) -> None:
    random = torch.Generator().manual_seed(0)
    for step in range(12):
        dtype = (torch.float32, torch.int64, torch.uint8)[step % 3]
        parts = [
            [
                torch.randint(200, ((3 * r + s + 7 * step) % 5 * 9, s + 1), generator=random)
                for s in range(3)
            ]
            for r in range(3)
        ]
        parts = [[part.to(dtype) for part in own] for own in parts]
        found = exchange(three, parts)
        for r in range(3):
            for s in range(3):
                assert torch.equal(found[r][s], parts[s][r])


def test_what_came_stays_until_the_next_exchange_but_one(three: Three) -> None:
    def filled(value: float) -> list[list[Tensor]]:
        return [[torch.full((4,), value) for _ in range(3)] for _ in range(3)]

    first = exchange(three, filled(1.0))
    second = exchange(three, [[torch.full((4000,), 2.0)] * 3 for _ in range(3)])
    assert first[0][1].tolist() == [1.0] * 4
    exchange(three, filled(3.0))
    assert second[0][1].eq(2.0).all()


def test_what_is_filled_in_place_is_not_copied(three: Three) -> None:
    rooms = [[boxes.room(s, (2, 3), torch.float32) for s in range(3)] for boxes in three]
    for r, own in enumerate(rooms):
        for s, room in enumerate(own):
            room.fill_(10 * r + s)
    found = exchange(three, rooms)
    assert found[2][1].eq(12).all()
    rooms[1][2][0, 0] = -1  # the same memory
    assert found[2][1][0, 0] == -1


def test_boxes_of_another_machine_or_process_are_not_opened() -> None:
    own, other = Mailboxes(0, 2), Mailboxes(1, 2)
    try:
        for place in range(len(other.address)):
            wrong = other.address.clone()
            wrong[place] += 12345
            # Of the files, rank 0 opens those for rank 0 alone.
            assert own.open([own.address, wrong]) == (place >= 5), place
        assert own.open([own.address, other.address])
    finally:
        own.close()
        other.close()


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    own, other = Mailboxes(0, 2), Mailboxes(1, 2)
    assert own.open([own.address, other.address])
    own.close()
    other.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_team_that_has_no_mailboxes_talks_by_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(name)

    monkeypatch.setattr(mailboxes.os, "memfd_create", refuse)
    team = Team()
    assert not team.open_mailboxes()
    part = torch.ones(2)
    assert team.exchange([part], [(2,)]) == [part]


@pytest.mark.parametrize("without", [-1, 1])
@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_exchange_the_same_with_and_without(
    team_of: Teams, ranks: int, without: int
) -> None:
    done = team_of(ranks, "exchanging.py", str(without))
    assert [(p.returncode, p.stderr) for p in done] == [(0, "")] * ranks
