"""Lists by a stack with its network, against the stack alone.

    python benchmarks/stack_ranking.py runs/plus --behavior click --users 1024

RUN is a trained BiGEL+ whose list of that behavior has a network. "Every part on its own" asks the
parts one by one and makes nothing of what they say: less than this no list can cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from turns import goal, in_turns, machine

from mbrec.network import Network
from mbrec.ranking import top_k
from mbrec.run import Run
from mbrec.scoring import Scorer, Weighted

TURNS = 5


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--behavior", required=True)
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--k", type=int, default=20)
    options = parser.parse_args()
    scorer = Run(options.run).scorer(options.behavior)
    if not isinstance(scorer, Network):
        parser.error(f"the list of {options.behavior} in {options.run} has no network")
    users = torch.arange(min(options.users, scorer.num_users))

    def lists(of: Scorer) -> Callable[[], object]:
        return lambda: top_k(of, users, options.k)

    bare = [part.inner if isinstance(part, Weighted) else part for part in scorer.base.parts]
    print(machine())
    print(f"{len(users):,} users × {scorer.num_items:,} items, {len(bare)} parts")
    times = in_turns(
        {
            "with the network": lists(scorer),
            "the stack alone": lists(scorer.base),
            "every part on its own": lambda: [top_k(part, users, options.k) for part in bare],
        },
        TURNS,
    )
    times.show("the stack alone")
    goal("network / stack", times.ratio("with the network", "the stack alone"), 2, at_most=True)


if __name__ == "__main__":
    main()
