"""If these fail, a propagation overwrites what another one is at."""

from __future__ import annotations

import torch

from mbrec.workspace import Workspace


def test_memory_is_lent_to_one_at_a_time_and_kept_for_the_next() -> None:
    workspace, like = Workspace(), [torch.zeros(2, 3), torch.zeros(4, 3)]
    with workspace.lent(like) as first, workspace.lent(like) as second:
        assert [part.shape for part in first] == [part.shape for part in like]
        assert not {part.data_ptr() for part in first} & {part.data_ptr() for part in second}
    with workspace.lent(like) as third:
        assert third is first  # it came back last
    with workspace.lent([part.double() for part in like]) as other:
        assert all(part.dtype == torch.float64 for part in other)


def test_an_owner_has_one_as_long_as_it_lives() -> None:
    class Owner:
        pass

    owner = Owner()
    assert Workspace.of(owner) is Workspace.of(owner)
    assert Workspace.of(owner) is not Workspace.of(Owner())
