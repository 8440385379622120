"""Synthetic logs: exact formats, exact sizes, the same bytes, and something to learn in them."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.data_prep import synth
from mbrec.data_prep.synth import SynthOptions, write_log
from mbrec.data_prep.synth_formats import FORMATS
from mbrec.data_prep.synth_world import zipf_rank
from mbrec.errors import UsageError

SMALL = {"users": 60, "items": 80, "events": 3_000}
UB_COLUMNS = ["user", "item", "category", "behavior", "timestamp"]


@pytest.fixture(scope="module")
def user_behavior(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The log that the defaults give, as a reader of the real one would open it."""
    path = tmp_path_factory.mktemp("ub") / "log.csv"
    write_log(path, SynthOptions())
    return pd.read_csv(path, header=None, names=UB_COLUMNS)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("quirks", [False, True])
def test_same_options_give_the_same_bytes_and_another_seed_gives_others(
    tmp_path: Path, name: synth.FormatName, quirks: bool
) -> None:
    logs = []
    for place, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{place}.csv.gz"
        write_log(path, SynthOptions(name, seed=seed, quirks=quirks, **SMALL))
        logs.append(path.read_bytes())
    assert logs[0] == logs[1]
    assert gzip.decompress(logs[0]) != gzip.decompress(logs[2])


def test_user_behavior_is_written_as_published(user_behavior: pd.DataFrame) -> None:
    log = user_behavior
    assert len(log) == 200_000
    assert set(log.behavior) == {"pv", "fav", "cart", "buy"}
    local = pd.to_datetime(log.timestamp, unit="s") + pd.Timedelta(hours=8)
    assert local.min() >= pd.Timestamp("2017-11-25")
    assert local.max() < pd.Timestamp("2017-12-04")
    assert log.user.drop_duplicates().astype(str).is_monotonic_increasing
    assert log.groupby("user").timestamp.apply(lambda s: s.is_monotonic_increasing).all()
    assert (log.groupby("item").category.nunique() == 1).all()
    assert log.user.nunique() == 2_000
    assert log.item.nunique() <= 1_000


def test_jdata_2019_is_written_as_published(tmp_path: Path) -> None:
    path = tmp_path / "action.csv"
    write_log(path, SynthOptions("jd2019", **SMALL))
    log = read(path)
    assert list(log.columns) == ["user_id", "sku_id", "action_time", "module_id", "type"]
    assert len(log) == SMALL["events"]
    assert set(log.type) == {1, 2, 3, 4, 5}
    assert log.action_time.str.fullmatch(r"2018-0[234]-\d\d \d\d:\d\d:\d\d").all()
    assert log.action_time.max() < "2018-04-16"
    assert log.action_time[log.type == 5].min() >= "2018-04-08"
    changes = (log.user_id != log.user_id.shift()).sum()
    assert changes == log.user_id.nunique() == SMALL["users"]
    assert log.groupby("user_id").action_time.apply(lambda s: s.is_monotonic_decreasing).all()


def test_jdata_2016_is_written_as_published(tmp_path: Path) -> None:
    path = tmp_path / "JData_Action_201602.csv"
    write_log(path, SynthOptions("jd2016", **SMALL))
    log = read(path)
    assert ",".join(log.columns) == "user_id,sku_id,time,model_id,type,cate,brand"
    assert len(log) == SMALL["events"]
    assert set(log.type) == {1, 2, 3, 4, 5, 6}
    assert log.time.str.fullmatch(r"2016-02-\d\d \d\d:\d\d:\d\d").all()
    assert log.time.is_monotonic_increasing
    assert log.model_id.notna().equals(log.type == 6)
    assert (log.groupby("sku_id")[["cate", "brand"]].nunique() == 1).all(axis=None)
    assert log.user_id.min() > 200_000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_quirks_are_those_of_the_real_logs(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, SynthOptions("jd2016", quirks=True, **SMALL))
    log = pd.read_csv(path, dtype=str)
    assert len(log) == SMALL["events"]
    assert log.user_id.str.endswith(".0").all()
    assert log.duplicated().mean() > 0.05
    assert log.model_id[log.type == "6"].isna().any()
    write_log(path, SynthOptions(users=1_000, events=30_000, quirks=True), force=True)
    stamps = pd.read_csv(path, header=None, names=UB_COLUMNS).groupby("user").timestamp
    assert 0 < (stamps.min() < 1511539200).sum() < 100
    assert stamps.apply(lambda s: s.is_monotonic_increasing).all()


def test_later_behaviors_are_mostly_on_items_that_were_clicked_before(
    user_behavior: pd.DataFrame,
) -> None:
    log = user_behavior
    first = log.groupby(["user", "item", "behavior"]).timestamp.min().unstack()
    for behavior in ("fav", "cart", "buy"):
        rows = first[first[behavior].notna()]
        after_click = (rows.pv <= rows[behavior]).mean()
        assert 0.8 < after_click < 1.0, behavior


def test_every_behavior_has_a_useful_share(user_behavior: pd.DataFrame) -> None:
    share = user_behavior.behavior.value_counts(normalize=True)
    assert share["pv"] > 0.55
    assert (share > 0.08).all()
    repeated = user_behavior.duplicated(["user", "item", "behavior"])
    assert repeated.groupby(user_behavior.behavior).mean().min() > 0.1


def test_popularity_and_activity_are_skewed(user_behavior: pd.DataFrame) -> None:
    by_item = user_behavior.item.value_counts().to_numpy()
    assert by_item[:100].sum() / by_item.sum() > 0.3
    by_user = user_behavior.user.value_counts()
    assert by_user.quantile(0.95) > 2.5 * by_user.median()


def test_items_rise_and_fade(user_behavior: pd.DataFrame) -> None:
    half = user_behavior.timestamp > user_behavior.timestamp.median()
    late = half.groupby(user_behavior.item).mean()
    busy = user_behavior.item.value_counts() > 100
    late = late[busy[busy].index]
    assert (late < 0.3).mean() > 0.05
    assert (late > 0.7).mean() > 0.05


def test_a_core_of_five_purchases_leaves_most_users(user_behavior: pd.DataFrame) -> None:
    bought = user_behavior.query("behavior == 'buy'").drop_duplicates(["user", "item"])
    size = -1
    while size != len(bought):
        size = len(bought)
        bought = bought[bought.groupby("user").item.transform("size") >= 5]
        bought = bought[bought.groupby("item").user.transform("size") >= 5]
    assert bought.user.nunique() > 1_200
    assert bought.item.nunique() > 500


def test_who_learns_beats_the_most_popular_items_in_every_behavior(
    user_behavior: pd.DataFrame,
) -> None:
    log = user_behavior.sort_values("timestamp")
    for behavior in ("pv", "fav", "cart", "buy"):
        pairs = log[log.behavior == behavior].drop_duplicates(["user", "item"])
        train, test = _matrices(pairs)
        popular = np.broadcast_to(train.sum(axis=0), train.shape)
        assert _hits(_item_based(train), train, test) > 1.8 * _hits(popular, train, test), behavior


def test_behaviors_have_tastes_of_their_own(user_behavior: pd.DataFrame) -> None:
    rate = user_behavior.groupby(["item", "behavior"]).size().unstack().fillna(0)
    rate = rate[rate.pv > 100]
    assert abs(np.corrcoef(rate.fav / rate.pv, rate.buy / rate.pv)[0, 1]) < 0.5


def test_memory_does_not_grow_with_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth, "BLOCK_EVENTS", 20_000)
    peaks = []
    for events in (100_000, 400_000):
        tracemalloc.start()
        write_log(tmp_path / "log.csv", SynthOptions(events=events), force=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(FORMATS)),
    users=st.integers(1, 40),
    items=st.integers(1, 40),
    more=st.integers(0, 400),
    seed=st.integers(0, 2**40),
)
def test_any_size_is_met_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    name: synth.FormatName,
    users: int,
    items: int,
    more: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("sizes") / "log.csv"
    summary = write_log(path, SynthOptions(name, users, items, users + more, seed))
    log = pd.read_csv(path, header=None if name == "ub" else 0)
    assert len(log) == summary.rows == users + more
    assert log.iloc[:, 0].nunique() == users
    assert log.iloc[:, 1].nunique() == summary.items <= items


def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "BLOCK_EVENTS", 500)
    path = tmp_path / "log.csv"
    blocks: list[int] = []
    write_log(path, SynthOptions(**SMALL), progress=blocks.append)
    log = pd.read_csv(path, header=None, names=UB_COLUMNS)
    assert len(blocks) > 3
    assert sum(blocks) == len(log) == SMALL["events"]
    assert log.user.drop_duplicates().nunique() == (log.user != log.user.shift()).sum()


def test_one_user_may_outweigh_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "BLOCK_EVENTS", 100)
    summary = write_log(tmp_path / "log.csv", SynthOptions(users=2, items=5, events=1_000))
    assert summary.rows == 1_000


def test_an_existing_file_is_kept_unless_force_is_given(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_log(path, SynthOptions(**SMALL))
    assert path.read_text() == "mine"
    write_log(path, SynthOptions(**SMALL), force=True)
    assert path.read_text() != "mine"


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("mine")

    def fail(rows: int) -> None:
        raise KeyboardInterrupt

    for name in FORMATS:
        with pytest.raises(KeyboardInterrupt):
            write_log(path, SynthOptions(name, **SMALL), force=True, progress=fail)  # type: ignore[arg-type]
        assert path.read_text() == "mine"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "taobao"}, "There are ub, jd2019, jd2016"),
        ({"users": 0}, "number of users is 0"),
        ({"items": -1}, "number of items is -1"),
        ({"users": 10, "events": 9}, "one for every user"),
        ({"seed": -1}, "number of seed is -1"),
    ],
)
def test_impossible_options_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SynthOptions(**change)  # type: ignore[arg-type]


def test_zipf_ranks_follow_the_exponent() -> None:
    rank = zipf_rank(np.linspace(0, 1, 1_000_000, endpoint=False), np.asarray(50), 0.85)
    share = np.bincount(rank, minlength=50) / len(rank)
    assert share.sum() == pytest.approx(1)
    assert rank.min() == 0
    assert rank.max() == 49
    assert share[3] / share[31] == pytest.approx((32 / 4) ** 0.85, rel=0.1)


def _matrices(pairs: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    user, _ = pd.factorize(pairs.user)
    item, _ = pd.factorize(pairs.item)
    cut = int(0.85 * len(pairs))
    train, test = np.zeros((2, user.max() + 1, item.max() + 1))
    train[user[:cut], item[:cut]] = 1
    test[user[cut:], item[cut:]] = 1
    return train, test


def _item_based(train: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norm = np.sqrt(train.sum(axis=0)) + 1e-9
    similar = (train.T @ train) / norm / norm[:, None]
    np.fill_diagonal(similar, 0)
    return train @ similar


def _hits(
    scores: npt.NDArray[np.float64],
    train: npt.NDArray[np.float64],
    test: npt.NDArray[np.float64],
) -> float:
    top = np.argsort(-np.where(train > 0, -np.inf, scores), axis=1)[:, :10]
    hit = np.take_along_axis(test, top, axis=1).any(axis=1)
    return float(hit[test.any(axis=1)].mean())
