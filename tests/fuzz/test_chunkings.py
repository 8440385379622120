"""If these fail, a figure depends on how many users or items are ranked at a time.

`chunkings.py` beside this does the same for a million chunkings.
"""

from __future__ import annotations

from chunkings import check
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(1, 10**6))
def test_lists_and_metrics_are_the_same_in_any_chunks(seed: int) -> None:
    assert check(100, seed, per_case=20) == []
