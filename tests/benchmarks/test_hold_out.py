"""If these fail, a part that was carved from training rows leaks, or loses rows."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "hold_out.py"))


def written(folder: Path, name: str) -> set[tuple[str, str]]:
    table = pd.read_csv(folder / name, sep=" ", header=None, dtype=str)
    return set(table.itertuples(index=False, name=None))


@pytest.mark.parametrize("given", [True, False])
def test_every_pair_is_in_one_part_and_every_user_keeps_two(tmp_path: Path, given: bool) -> None:
    random = np.random.default_rng(4)
    pairs = np.unique(np.stack([random.integers(9, size=60), random.integers(30, size=60)]), axis=1)
    source = tmp_path / "source"
    source.mkdir()
    train = {(f"0{u}", str(i)) for u, i in pairs.T}
    lines = "".join(f"{u} {i}\n" for u, i in sorted(train))
    (source / "buy.train.txt").write_text(lines)
    if given:
        (source / "buy.valid.txt").write_text("00 77\n01 78\n")
    SCRIPT["main"]([str(source), str(tmp_path / "out"), "--behaviors", "buy"])
    parts = {p: written(tmp_path / "out", f"buy.{p}.txt") for p in ("train", "valid", "test")}
    everything = train | ({("00", "77"), ("01", "78")} if given else set())
    assert set.union(*parts.values()) == everything
    assert sum(map(len, parts.values())) == len(everything)
    if given:
        assert parts["test"] == {("00", "77"), ("01", "78")}
    for part in ("valid",) if given else ("valid", "test"):
        users = [user for user, _ in parts[part]]
        assert len(set(users)) == len(users) > 5
        assert all(sum(u == user for u, _ in parts["train"]) >= 2 for user in users)
