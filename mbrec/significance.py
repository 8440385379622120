"""Is one run better than another, or can that be chance? Paired tests on the same users.

Runs are measured on the same users, and users differ from each other far more than runs do. All
tests here therefore look at the difference a_u - b_u within each user u.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mbrec.errors import DataError, UsageError
from mbrec.metrics import FloatArray

ALPHA = 0.05
LEVEL = 0.95  # of the bootstrap interval
RESAMPLES = 10_000
_DRAWS = 1 << 21  # numbers drawn at a time: 16 MiB
# Equal differences may differ in their last bits (.3 - .1 and .2); tests by rank must see them tie.
_DECIMALS = 12


@dataclass(frozen=True)
class Paired:
    """The comparison of two runs on n users. Differences are A - B: positive where A is better."""

    n: int
    mean_a: float
    mean_b: float
    difference: float
    """Mean of a - b."""
    low: float
    """Lower end of the 95 % bootstrap interval of `difference`."""
    high: float
    """Upper end of it."""
    p_wilcoxon: float
    """Wilcoxon signed-rank test: is a - b as often and as far above 0 as below? Two-sided."""
    p_t: float
    """Paired t test: is the mean of a - b 0? Two-sided."""
    a_better: int
    """Users with a > b."""
    b_better: int
    """Users with a < b."""
    rank_biserial: float
    """(W+ - W-) / (W+ + W-) of the signed ranks: 1 if A wins for all who differ, -1 if B does."""

    @property
    def equal(self) -> int:
        """Users with a = b."""
        return self.n - self.a_better - self.b_better

    @property
    def relative(self) -> float | None:
        """`difference` as a share of B's mean; none if that is 0."""
        return self.difference / self.mean_b if self.mean_b else None

    def as_dict(self) -> dict[str, float | int | None]:
        """Everything, for JSON and tables."""
        return {**asdict(self), "equal": self.equal, "relative": self.relative}


def paired(a: FloatArray, b: FloatArray, *, seed: int = 0, resamples: int = RESAMPLES) -> Paired:
    """Compare two runs by one metric, user by user.

    * Interval: percentile bootstrap of the mean difference over users.
    * Wilcoxon signed-rank test: users for whom both are equal are left out (Wilcoxon, 1945).
    * Paired t test, on all users.

    A test that cannot be made gives p = 1, "no evidence": Wilcoxon without a user who differs, t
    with one user or with differences that are all 0.

    Args:
        a: The metric of A, (N,), one value per user.
        b: The metric of B, (N,), for the same users in the same order.
        seed: Of the bootstrap.
        resamples: R, of the bootstrap.

    Raises:
        DataError: Another number of values in `a` than in `b`, none, or values that are not finite.
        UsageError: Fewer than 1 resample.

    Cost: O(R m + N log N) time for m distinct differences, and bounded memory beside O(N).
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise DataError(
            f"Values of shapes {a.shape} and {b.shape} cannot be paired.",
            "Give one value per user for the same users, and at least one user.",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("Some values are not finite.", "Evaluate both runs again.")
    differences = np.round(a - b, _DECIMALS)
    low, high = bootstrap(differences, seed=seed, resamples=resamples)
    p_wilcoxon, rank_biserial = _signed_rank(differences)
    return Paired(
        n=len(a),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_wilcoxon=p_wilcoxon,
        p_t=_t(differences),
        a_better=int((differences > 0).sum()),
        b_better=int((differences < 0).sum()),
        rank_biserial=rank_biserial,
    )


def bootstrap(
    values: FloatArray, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of values (N,).

    To draw N values with replacement and average them is to draw how often each *distinct* value
    comes, from a multinomial distribution, and to weight by that. Per-user metrics have few
    distinct values, most of them 0, so this takes far fewer draws, of the same distribution.

    Raises:
        UsageError: Fewer than 1 resample.
    """
    if resamples < 1:
        raise UsageError(f"{resamples} resamples are none.", "Give 1 or more.")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return float(distinct[0]), float(distinct[0])
    rng = np.random.default_rng(seed)
    size, share = len(values), counts / len(values)
    means = np.empty(resamples)
    step = max(1, _DRAWS // len(distinct))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = rng.multinomial(size, share, size=stop - start) @ distinct / size
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for being several (Holm, 1979), in the order they came.

    The i-th smallest of m (i = 0 …) becomes max_{j ≤ i} min(1, (m - j) p_(j)). Below alpha then
    means: the chance that *any* of the true null hypotheses is rejected is at most alpha.

    Raises:
        DataError: A value outside 0 … 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"{list(p_values)} are not all p values from 0 to 1.")
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in corrected]


def _signed_rank(differences: FloatArray) -> tuple[float, float]:
    """P value of Wilcoxon's test, and the rank-biserial correlation."""
    from scipy import stats

    some = differences[differences != 0]
    if not len(some):
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(some))
    effect = float((ranks * np.sign(some)).sum() / ranks.sum())
    with warnings.catch_warnings():
        # Some releases warn of few users; how many there are stands beside every figure here.
        warnings.simplefilter("ignore", UserWarning)
        p = float(stats.wilcoxon(some).pvalue)
    return min(p, 1.0), effect


def _t(differences: FloatArray) -> float:
    """P value of the paired t test."""
    from scipy import stats

    count, mean = len(differences), differences.mean()
    if count < 2 or not differences.any():
        return 1.0
    if (differences == differences[0]).all():
        return 0.0  # no spread: t is infinite, where rounding would give any large number
    t = mean / (differences.std(ddof=1) / np.sqrt(count))
    return float(2 * stats.t.sf(abs(t), count - 1))
