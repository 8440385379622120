"""Spaces and points as Optuna takes them: choices are JSON texts, since it knows no lists."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbrec.tune.space import Choices, Domain, Point, Range, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution(domain: Domain) -> BaseDistribution:
    """What Optuna draws a setting from."""
    from optuna import distributions

    if isinstance(domain, Choices):
        return distributions.CategoricalDistribution([_code(domain, v) for v in domain.values])
    if domain.whole:
        low, high, step = int(domain.low), int(domain.high), int(domain.step or 1)
        return distributions.IntDistribution(low, high, log=domain.log, step=step)
    return distributions.FloatDistribution(
        domain.low, domain.high, log=domain.log, step=domain.step
    )


def _code(domain: Domain, value: Any) -> Any:
    """A value as Optuna takes it: choices, which may be lists, as JSON."""
    if isinstance(domain, Range):
        return value
    return json.dumps(next(v for v in domain.values if domain.same(v, value)))


def coded(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna takes it."""
    return {key: _code(space.domains[key], value) for key, value in point.items()}


def decoded(space: Space, params: Mapping[str, Any]) -> Point:
    """A point in the order of the space."""
    return {
        key: json.loads(params[key]) if isinstance(domain, Choices) else params[key]
        for key, domain in space.domains.items()
        if key in params
    }


def grid(space: Space) -> Iterator[Point]:
    """All points of a space without ranges."""
    values = [d.values for d in space.domains.values() if isinstance(d, Choices)]
    for combination in itertools.product(*values):
        yield dict(zip(space.domains, combination, strict=True))
