"""Paired tests: a difference that is chance must not be sold as progress, nor the other way."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mbrec.errors import DataError, UsageError
from mbrec.significance import bootstrap, holm, paired


def test_means_differences_and_winners_are_counted_over_users() -> None:
    a, b = np.array([1.0, 0.5, 0.0, 0.25]), np.array([0.0, 0.5, 0.5, 0.0])
    found = paired(a, b)
    assert (found.n, found.mean_a, found.mean_b) == (4, 7 / 16, 1 / 4)
    assert found.difference == 3 / 16
    assert found.relative == 3 / 4
    assert (found.a_better, found.b_better, found.equal) == (2, 1, 1)
    # |d| = 1, 1/2, 1/4 have ranks 3, 2, 1; signs +, -, +.
    assert found.rank_biserial == (3 - 2 + 1) / 6
    assert found.low <= found.difference <= found.high
    assert found.as_dict()["equal"] == 1


def test_swapping_the_runs_turns_the_signs_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    one, other = paired(a, b), paired(b, a)
    assert one.difference == -other.difference
    assert one.rank_biserial == -other.rank_biserial
    assert (one.a_better, one.b_better) == (other.b_better, other.a_better)
    assert one.p_wilcoxon == pytest.approx(other.p_wilcoxon)
    assert one.p_t == pytest.approx(other.p_t)


def test_t_and_wilcoxon_are_those_of_the_textbook() -> None:
    # Differences 1, 2, 3, 4, 5: mean 3, variance 5/2, t = 3 / sqrt(1/2); and all signs positive,
    # of which the 2^5 equally likely ones have two such extremes.
    found = paired(np.array([2.0, 4.0, 6.0, 8.0, 10.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found.p_t == pytest.approx(2 * stats.t.sf(3 * np.sqrt(2), 4))
    assert found.p_wilcoxon == pytest.approx(2 / 2**5)


def test_wilcoxon_leaves_out_users_for_whom_both_are_equal() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    padded = paired(np.append(a, np.ones(70)), np.append(b, np.ones(70)))
    assert padded.p_wilcoxon == paired(a, b).p_wilcoxon
    assert padded.equal == 70


def test_ties_that_differ_in_their_last_bit_are_ties() -> None:
    found = paired(np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.4, 0.1]))
    assert found.rank_biserial == 0
    assert found.difference == 0


def test_runs_that_are_equal_for_everyone_show_no_evidence() -> None:
    values = np.array([0.0, 0.5, 1.0])
    found = paired(values, values)
    assert (found.low, found.difference, found.high) == (0, 0, 0)
    assert (found.p_wilcoxon, found.p_t) == (1, 1)
    assert found.equal == 3


def test_one_user_is_no_evidence_whatever_the_difference() -> None:
    found = paired(np.array([1.0]), np.array([0.0]))
    assert (found.n, found.difference, found.p_wilcoxon, found.p_t) == (1, 1, 1, 1)
    assert found.relative is None


def test_a_difference_without_spread_has_an_infinite_t() -> None:
    assert paired(np.full(20, 0.3), np.full(20, 0.1)).p_t == 0


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1.0, 2.0], [1.0], "cannot be paired"),
        ([], [], "at least one user"),
        ([[1.0]], [[1.0]], "cannot be paired"),
        ([np.nan], [1.0], "not finite"),
    ],
)
def test_values_that_cannot_be_paired_are_refused(
    a: list[float], b: list[float], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        paired(np.array(a), np.array(b))


def test_the_bootstrap_is_that_of_resampled_users() -> None:
    values = np.array([0.0, 0.0, 1.0, -0.5])
    means = np.sort([np.mean(drawn) for drawn in product(values, repeat=4)])  # all 4^4, equally
    low, high = bootstrap(values, resamples=50_000)
    # The exact distribution has steps of 1/8; at most one step off.
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.126)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.126)


def test_the_interval_is_near_the_normal_one_for_many_users() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 2000)
    low, high = bootstrap(values, resamples=2000)
    error = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - error, abs=0.005)
    assert high == pytest.approx(values.mean() + error, abs=0.005)


def test_the_same_seed_gives_the_same_interval_however_it_is_chunked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(1).integers(-3, 4, 100).astype(float)
    whole = bootstrap(values, seed=5, resamples=300)
    assert whole == bootstrap(values, seed=5, resamples=300)
    assert whole != bootstrap(values, seed=6, resamples=300)
    monkeypatch.setattr("mbrec.significance._DRAWS", 20)
    assert whole == bootstrap(values, seed=5, resamples=300)
    with pytest.raises(UsageError, match="0 resamples"):
        bootstrap(values, resamples=0)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    with pytest.raises(DataError, match="p values"):
        holm([0.1, float("nan")])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected: set[int] = set()
    for step, index in enumerate(order):
        if p_values[index] * (len(p_values) - step) > 0.05:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(corrected) if p <= 0.05} == rejected
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
