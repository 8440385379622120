"""A rank that exchanges tensors with the others, and checks what it finds.

    python exchanging.py RANK

RANK is one that can have no mailboxes, so that nobody uses them; -1 for none.
"""

from __future__ import annotations

import os
import sys

import torch

from mbrec.parallel.joining import joined


def refuse(name: str) -> int:
    """No files in memory."""
    raise OSError(name)


def main() -> None:
    """Exchange parts of changing sizes, of which every rank knows what they hold."""
    without = int(sys.argv[1])
    if int(os.environ["RANK"]) == without:
        os.memfd_create = refuse  # type: ignore[assignment]
    with joined("cpu") as team:
        assert (team._boxes is None) == (without >= 0)
        own, ranks = team.rank, range(team.ranks)
        for step in range(30):
            # From rank a to b: rows that both of them know.
            rows = [[(step * 37 + 11 * a + 5 * b) % 90 for b in ranks] for a in ranks]
            shapes = [(rows[own][peer], 3) for peer in ranks]
            parts = team.room(shapes, torch.zeros(0))
            for peer, part in enumerate(parts):
                part.fill_(100 * step + 10 * own + peer)
            if step % 2:  # memory of the caller's
                parts = [part.clone() for part in parts]
            before = team.sent
            found = team.exchange(parts, [(rows[peer][own], 3) for peer in ranks])
            assert team.sent - before == 12 * sum(n for p, (n, _) in enumerate(shapes) if p != own)
            for peer, part in enumerate(found):
                assert part.shape == (rows[peer][own], 3)
                assert part.eq(100 * step + 10 * peer + own).all(), (step, peer)


if __name__ == "__main__":
    main()
