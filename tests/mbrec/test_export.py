"""Export: the right lists under the shop's own ids, whole files only, nothing dropped silently."""

from __future__ import annotations

import csv
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mbrec import export
from mbrec.columns import SPLITS
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, TrainingError, UsageError
from mbrec.export import ExcludeSeen, export_run
from mbrec.guard import seal
from mbrec.ranking import tile_height
from mbrec.run import Run
from mbrec.scoring import Factors
from mbrec.tables import table_writer

COLUMNS = ["user_id", "behavior", "rank", "item_id", "score"]


def lists(path: Path, behavior: str) -> dict[Any, list[Any]]:
    frame = pq.read_table(path).to_pandas()
    frame = frame[frame.behavior == behavior].sort_values(["user_id", "rank"])
    return {user: group.item_id.tolist() for user, group in frame.groupby("user_id")}


def done_before(dataset: PreparedDataset, behaviors: tuple[str, ...]) -> dict[str, set[int]]:
    """User id → ids of the items she has in any split of some behaviors."""
    found: dict[str, set[int]] = {f"u{user}": set() for user in range(dataset.num_users)}
    for behavior in behaviors:
        for split in SPLITS:
            pairs = dataset.pairs(behavior, split)
            for user, item in zip(pairs.user_idx, pairs.item_idx, strict=True):
                found[f"u{user}"].add(1000 + int(item))
    return found


def test_every_user_and_behavior_gets_a_ranked_list_with_raw_ids(
    tiny_run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "lists.parquet"
    written = export_run(tiny_run.path, out, k=5)
    frame = pq.read_table(out).to_pandas()
    assert list(frame.columns) == COLUMNS
    assert (written.users, written.rows, written.short_lists) == (24, 24 * 3 * 5, 0)
    assert len(frame) == written.rows
    assert not frame.duplicated(["user_id", "behavior", "item_id"]).any()
    for _, group in frame.groupby(["user_id", "behavior"]):
        assert group["rank"].tolist() == [1, 2, 3, 4, 5]
        assert group["score"].is_monotonic_decreasing
    factors = tiny_run.factors("click")
    row = frame.iloc[7]
    user, item = int(row.user_id[1:]), int(row.item_id) - 1000
    assert row.score == pytest.approx(float(factors.user_emb[user] @ factors.item_emb[item]))


@pytest.mark.parametrize("seen", ["same", "any", "none"])
def test_what_a_user_has_done_is_left_out_as_asked(
    tiny_run: Run, tiny_dataset: PreparedDataset, tmp_path: Path, seen: ExcludeSeen
) -> None:
    out = tmp_path / "lists.parquet"
    written = export_run(tiny_run.path, out, k=30, exclude_seen=seen)
    for behavior in tiny_dataset.behaviors:
        hidden = {"same": (behavior,), "any": tiny_dataset.behaviors, "none": ()}[seen]
        done = done_before(tiny_dataset, hidden)
        # With K as large as the catalog, a list is everything but what was done.
        for user, items in lists(out, behavior).items():
            assert set(items) == set(range(1000, 1030)) - done[user]
    assert written.short_lists == (0 if seen == "none" else 24 * 3)


def test_without_exclusion_the_dataset_is_not_needed(tiny_run: Run, tmp_path: Path) -> None:
    info = json.loads((tiny_run.path / "run.json").read_text())
    info["dataset"]["path"] = str(tmp_path / "gone")
    (tiny_run.path / "run.json").write_text(json.dumps(seal(info)))
    assert export_run(tiny_run.path, tmp_path / "lists.csv", exclude_seen="none").rows
    with pytest.raises(ArtefactError, match="--data"):
        export_run(tiny_run.path, tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize("name", ["lists.csv", "lists.csv.gz", "lists.jsonl", "lists.jsonl.gz"])
def test_all_formats_hold_the_same_rows(tiny_run: Run, tmp_path: Path, name: str) -> None:
    export_run(tiny_run.path, tmp_path / "lists.parquet", k=4)
    export_run(tiny_run.path, tmp_path / name, k=4)
    data = (tmp_path / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    lines = text.splitlines()
    if "csv" in name:
        assert lines[0] == ",".join(COLUMNS)
        rows: list[Any] = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in lines]
    expected = pq.read_table(tmp_path / "lists.parquet").to_pandas()
    frame = pd.DataFrame(rows)
    assert list(frame.columns) == COLUMNS
    assert frame.user_id.tolist() == expected.user_id.tolist()
    assert frame.item_id.astype(int).tolist() == expected.item_id.tolist()
    assert frame["rank"].astype(int).tolist() == expected["rank"].tolist()
    assert np.array_equal(frame.score.astype("float32"), expected.score)


def test_json_lines_give_every_text_and_number_back(tmp_path: Path) -> None:
    texts = ['a "quote"', "back\\slash", "line\nbreak", "é ≻", ""]
    scores = [1.5e-12, -3e-13, 0.1, 1e20, 16777216.0]
    table = pa.table(
        {
            "id": pa.array(texts),
            "rank": pa.array([1, 2, 3, 4, None], pa.int32()),
            "score": pa.array(scores, pa.float32()),
        }
    )
    path = tmp_path / "some.jsonl"
    with table_writer(path)(path, table.schema) as write:
        write(table.slice(0, 3))
        write(table.slice(3, 0))
        write(table.slice(3))
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    assert [row["id"] for row in rows] == texts
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, None]
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), table["score"])


def test_users_are_exported_in_the_order_asked_and_unknown_ones_named(
    tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "lists.parquet"
    asked = ["u7", "nobody", "u2", "u7", *(f"ghost{n}" for n in range(9))]
    with caplog.at_level(logging.WARNING, "mbrec"):
        written = export_run(tiny_run.path, out, k=2, behaviors=["purchase"], users=asked)
    assert pq.read_table(out)["user_id"].to_pylist() == ["u7", "u7", "u2", "u2"]
    assert "10 of the 12 users" in caplog.text
    assert "nobody, ghost0, ghost1, ghost2, ghost3, …" in caplog.text
    unknown = written.summary()["unknown_users"]
    assert unknown["count"] == 10
    assert unknown["first"] == ["nobody", "ghost0", "ghost1", "ghost2", "ghost3"]


def test_when_no_user_is_known_nothing_is_written(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 1 users asked for .*nobody"):
        export_run(tiny_run.path, tmp_path / "lists.csv", users=["nobody"])
    assert not (tmp_path / "lists.csv").exists()


def test_writing_in_many_pieces_gives_the_same_rows(
    make_dataset: Callable[..., PreparedDataset],
    make_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = make_dataset([(0, 0, "buy", "train")], users=700, items=40, behaviors=("buy",))
    factors = Factors(torch.rand(700, 3), torch.rand(40, 3))
    run = make_run(dataset, {"buy": factors})
    export_run(run.path, tmp_path / "one.parquet")
    monkeypatch.setattr(export, "_STEP_ROWS", 1)
    seen: list[tuple[str, int, int]] = []
    export_run(run.path, tmp_path / "many.parquet", progress=lambda *step: seen.append(step))
    assert seen == [("buy", 256, 700), ("buy", 512, 700), ("buy", 700, 700)]
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "many.parquet"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("k", [1, 20, 50, 3000])
def test_pieces_are_whole_tiles_so_that_scores_do_not_depend_on_them(device: str, k: int) -> None:
    users, place = torch.arange(1_100_000), torch.device(device)
    starts, pieces = zip(*export._steps(users, k, place), strict=True)
    assert torch.equal(torch.cat(pieces), users)
    assert len(starts) > 1
    assert not any(start % tile_height(place) for start in starts)


def test_an_existing_file_is_kept_unless_forced(tiny_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "lists.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        export_run(tiny_run.path, out)
    assert out.read_text() == "mine"
    export_run(tiny_run.path, out, force=True)
    assert out.read_text().startswith("user_id,")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export_run(tiny_run.path, tmp_path / "folder.csv", force=True)


@pytest.mark.parametrize("name", ["lists", "lists.xlsx", "lists.parquet.gz", "lists.gz", "csv"])
def test_an_unknown_suffix_names_the_formats(tiny_run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.csv or \.jsonl"):
        export_run(tiny_run.path, tmp_path / name)


def test_an_unknown_behavior_lists_those_there_are(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'buy'.*click, favorite, purchase"):
        export_run(tiny_run.path, tmp_path / "lists.csv", behaviors=["click", "buy"])


def test_a_failure_midway_leaves_nothing_behind(
    tiny_dataset: PreparedDataset, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    good = Factors(torch.ones(24, 1), torch.ones(30, 1))
    bad = Factors(torch.full((24, 1), float("nan")), torch.ones(30, 1))
    run = make_run(tiny_dataset, {"click": good, "favorite": good, "purchase": bad})
    folder = tmp_path / "out"
    with pytest.raises(TrainingError, match="NaN"):
        export_run(run.path, folder / "lists.jsonl")
    assert list(folder.iterdir()) == []
