"""The settings that a search tries: the defaults, then points of a grid, within the budget."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Point = dict[str, Any]  # dotted setting → value
Resolve = Callable[[Point], Mapping[str, Any]]


def candidates(
    grid: Mapping[str, Sequence[Any]], trials: int, stream: str, resolve: Resolve
) -> list[Point]:
    """What to try, in this order.

    The first is always the empty point, the defaults. If all points fit into the budget, all
    follow, in the order of the grid; else so many as fit, drawn without repetition. A larger
    budget begins with the same points, so it only adds trials.

    Args:
        grid: Setting → values.
        trials: The budget, the defaults among them.
        stream: Names the random draw.
        resolve: Every setting that a point leads to: points that lead to the same count once.

    Raises:
        UsageError: `resolve` does, for a point that does not fit the method.
    """
    total = math.prod(len(values) for values in grid.values())
    if total <= trials:
        whole = _distinct(_product(grid), resolve)
        if len(whole) <= trials:
            return whole
    return _distinct(_drawn(grid, total, random.Random(stream)), resolve, trials)


def _distinct(points: Iterable[Point], resolve: Resolve, most: int | None = None) -> list[Point]:
    found: dict[str, Point] = {}
    for point in itertools.chain([{}], points):
        found.setdefault(json.dumps(resolve(point), sort_keys=True), point)
        if len(found) == most:
            break
    return list(found.values())


def _product(grid: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    if grid:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def _drawn(grid: Mapping[str, Sequence[Any]], total: int, rng: random.Random) -> Iterator[Point]:
    """All points in a random order, one after the other; a large grid is never written out."""
    moved: dict[int, int] = {}  # the places of a shuffled range(total) that are not their own
    for last in range(total - 1, -1, -1):
        place = rng.randrange(last + 1)
        number = moved.get(place, place)
        moved[place] = moved.pop(last, last)
        point: Point = {}
        for key, values in grid.items():
            number, which = divmod(number, len(values))
            point[key] = values[which]
        yield point
