"""Health watch: what is wrong with a training, told while it runs, and what to try.

Each check is a function of recorded values. Thresholds are fixed here; they are set so that a
healthy training is silent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mbrec.errors import TrainingError

CLOSED, OPEN = 0.02, 0.98  # a gate value beyond these lets nothing in, or everything
COLLAPSED = 0.9  # the share of such values from which a gate does not choose any more

WINDOW = 8  # validations that are looked back on, in two halves
FALL = 0.05  # of a metric's mean from half to half, relative; smaller ones are left to patience

# A behavior that nine users in ten have never shown has lists that rest on the others' alone.
PAIRS_PER_USER = 0.1
# The standard error of a hit rate of 0.1 over n users is √(0.1 · 0.9 / n): with 100 users 0.03,
# i.e. 30 % of it. With fewer, differences between epochs or models are mostly chance.
HELD_OUT_USERS = 100

CHECK_EVERY = 50  # steps from one look for losses that are not finite to the next

Shares = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Behavior → gate → {"closed": share, "open": share}."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a behavior."""

    finding: str  # what kind, e.g. "gate cgf collapsed"
    behavior: str
    message: str  # with figures, and what to try


def gate_shares(gates: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """`Shares`: of the values of every gate, the share below 0.02 and the share above 0.98.

    Args:
        gates: What `TrainedMethod.gate_values` gives.
    """
    return {
        behavior: {
            name: {
                "closed": round(float((values < CLOSED).float().mean()), 4),
                "open": round(float((values > OPEN).float().mean()), 4),
            }
            for name, values in found.items()
        }
        for behavior, found in gates.items()
    }


def collapsed_gates(shares: Shares) -> list[Finding]:
    """Gates of which at least nine values in ten are stuck at 0 or 1."""
    findings = []
    for behavior, gates in shares.items():
        for name, share in gates.items():
            closed, opened = share["closed"], share["open"]
            if closed + opened < COLLAPSED:
                continue
            if closed >= COLLAPSED:
                what = f"{closed:.0%} of its values are below {CLOSED}, so it lets nothing in"
            elif opened >= COLLAPSED:
                what = f"{opened:.0%} of its values are above {OPEN}, so it lets everything in"
            else:
                what = f"{closed:.0%} of its values are below {CLOSED}, {opened:.0%} above {OPEN}"
            message = (
                f"The {name} gate of {behavior!r} has collapsed: {what}. Lower train.lr or raise "
                f"model.l2 (large embeddings saturate it), or compare with the gate left out."
            )
            findings.append(Finding(f"gate {name} collapsed", behavior, message))
    return findings


def falling_auxiliaries(history: Sequence[Mapping[str, float]], target: str) -> list[Finding]:
    """Auxiliaries that have fallen over the last eight validations while the target has risen.

    Fallen: each of the last four values is lower than each of the four before, and their mean is
    lower by at least 5 %. Risen: each of the last four is higher than each of the four before. For
    values in random order the two orders together have a chance of 1 / 70² each time.

    Args:
        history: Behavior → metric, of all validations so far.
        target: The target behavior.
    """
    half = WINDOW // 2
    early, late = history[-WINDOW:-half], history[-half:]
    if len(early) < half or any(target not in values for values in (*early, *late)):
        return []
    if min(v[target] for v in late) <= max(v[target] for v in early):
        return []
    gain = sum(v[target] for v in late) / max(sum(v[target] for v in early), 1e-12) - 1
    findings = []
    for behavior in late[-1]:
        before, after = ([v[behavior] for v in part] for part in (early, late))
        fall = 1 - sum(after) / max(sum(before), 1e-12)
        if behavior == target or max(after) >= min(before) or fall < FALL:
            continue
        message = (
            f"{behavior!r} fell by {fall:.0%} over the last {WINDOW} validations while the target "
            f"{target!r} rose by {gain:.0%}. Give it more weight in train.task_weights, or try "
            f"train.weighting=uncertainty."
        )
        findings.append(Finding("falls while the target rises", behavior, message))
    return findings


def sparse_behaviors(
    pairs: Mapping[str, int], held_out_users: Mapping[str, int], num_users: int
) -> list[Finding]:
    """Behaviors with too little to learn from, or too little to tell what was learned.

    Args:
        pairs: Behavior → training pairs.
        held_out_users: Behavior → users with validation rows, where there are any.
        num_users: U.
    """
    findings = []
    for behavior, count in pairs.items():
        if count < PAIRS_PER_USER * num_users:
            message = (
                f"{behavior!r} has {count} training pairs for {num_users} users, too few to rank "
                f"by: its lists rest on the other behaviors. Add older data, or leave it out."
            )
            findings.append(Finding("too sparse to learn", behavior, message))
    for behavior, count in held_out_users.items():
        if 0 < count < HELD_OUT_USERS:
            error = math.sqrt(0.1 * 0.9 / count)
            message = (
                f"{behavior!r} has {count} users with validation rows: a hit rate of 0.10 is known "
                f"to ± {error:.2f} only. Do not choose by it, or hold out more."
            )
            findings.append(Finding("too sparse to validate", behavior, message))
    return findings


def first_not_finite(
    steps: Iterable[tuple[int, Mapping[str, float]]],
) -> tuple[int, dict[str, float]] | None:
    """The first step with loss terms that are not finite, and these terms; None if all are.

    Args:
        steps: Number and loss terms of consecutive steps.
    """
    for step, terms in steps:
        wrong = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if wrong:
            return step, wrong
    return None


class FiniteWatch:
    """Notices losses that are not finite, and where it began.

    The terms of a step stay on the device; they are looked at together, every 50 steps, so that a
    GPU is not waited for in between.

    Args:
        epoch: The epoch's number, for the message.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._steps: list[tuple[int, list[str]]] = []
        self._values: list[Tensor] = []

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Note the terms of a step.

        Raises:
            TrainingError: One of the last steps' is not finite.
        """
        self._steps.append((step, list(terms)))
        self._values.extend(term.detach() for term in terms.values())
        if len(self._steps) == CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Look at the steps since the last look.

        Raises:
            TrainingError: A term is not finite.
        """
        values = iter(torch.stack(self._values).tolist() if self._values else ())
        steps = [(step, {name: next(values) for name in names}) for step, names in self._steps]
        self._steps, self._values = [], []
        found = first_not_finite(steps)
        if found:
            step, terms = found
            named = ", ".join(f"{name} = {value}" for name, value in terms.items())
            raise TrainingError(
                f"The loss is not finite in epoch {self._epoch}, step {step}: {named}.",
                "Lower train.lr, or raise model.temperature where cpa is named; "
                "the last good checkpoint is kept.",
            )


class HealthWatch:
    """Looks at every validated epoch, and warns once of each finding until it is gone.

    Args:
        target: The target behavior.
        standing: Findings that hold for the whole training.
    """

    def __init__(self, target: str, standing: Sequence[Finding] = ()) -> None:
        self._target = target
        self._standing = list(standing)
        self._history: list[Mapping[str, float]] = []
        self._known: set[tuple[str, str]] = set()

    def start(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        """Warn of what stands, unless the `records` of the epochs so far show that it was said."""
        for record in records:
            self._history += _valid(record)
            self._known = {(f["finding"], f["behavior"]) for f in record.get("health", ())}
        self._tell(self._standing, forget=False)

    def look(self, record: Mapping[str, Any]) -> list[dict[str, str]]:
        """The findings after an epoch, as they stand in its record; new ones are warned of."""
        if "valid" not in record:
            return []
        self._history += _valid(record)
        findings = [
            *self._standing,
            *collapsed_gates(record.get("gates", {})),
            *falling_auxiliaries(self._history, self._target),
        ]
        self._tell(findings)
        return [asdict(finding) for finding in findings]

    def _tell(self, findings: Iterable[Finding], *, forget: bool = True) -> None:
        told = {(finding.finding, finding.behavior): finding for finding in findings}
        for key, finding in told.items():
            if key not in self._known:
                log.warning("%s", finding.message)
        self._known = set(told) | (set() if forget else self._known)


def _valid(record: Mapping[str, Any]) -> list[dict[str, float]]:
    """The record's validation, behavior → metric, if it has one."""
    values = dict(record.get("valid") or {})
    for key in ("metric", "macro"):
        values.pop(key, None)
    return [values] if values else []
