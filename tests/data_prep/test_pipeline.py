"""If these fail, rows vanish without being counted, or one log gives two datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbrec.data_prep.funnel import Funnel, FunnelStep
from mbrec.data_prep.options import PrepOptions, parse_bytes, parse_share, settle
from mbrec.data_prep.sources.csv import Mapping, load_mapping
from mbrec.data_prep.split import Ratios
from mbrec.errors import DataError, MbrecError, UsageError

Prep = Callable[..., Any]

# Each example prepares into new folders of the one `prep`, so that sharing it is safe.
few = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

sound = st.builds(
    "{},{},1,{},{}".format,
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from(["pv", "fav", "cart", "buy"]),
    st.integers(1511539100, 1511539200),
)
odd = st.sampled_from(["", "1,2,3", "1,2,3,pv,x", "1,2,3,see,1511539100", "a,2,3,pv,1511539100"])
logs = st.lists(st.one_of(sound, sound, sound, sound, odd), min_size=12, max_size=60)


@few
@given(
    rows=logs,
    minimum=st.integers(0, 2),
    core_on=st.sampled_from(["target", "any"]),
    split=st.sampled_from(["temporal", "leave-one-out"]),
    end=st.sampled_from([None, "2017-11-24T23:59:30"]),
)
def test_every_row_read_is_rejected_dropped_repeated_or_kept(
    prep: Prep, rows: list[str], minimum: int, core_on: str, split: str, end: str | None
) -> None:
    text = "\n".join(rows) + "\n"
    try:
        made = prep(
            "ub",
            {"a.csv": text},
            max_rejects=1.0,
            behaviors=("click", "purchase"),
            min_user=minimum,
            min_item=minimum,
            core_on=core_on,
            split=split,
            end=end,
        )
    except DataError:
        return  # nothing was left, which other tests look at
    counts = made.manifest["counts"]
    assert counts["rows_read"] == len(rows)
    gone = counts["rejected"] + counts["duplicates"] + sum(counts["dropped"].values())
    assert counts["rows_read"] == gone + counts["kept"]
    assert counts["kept"] == counts["interactions"] == len(made.rows)
    assert counts["rejected"] == len(made.rejects)
    left = counts["rows_read"]
    for step in made.manifest["funnel"]:
        left -= step["dropped"]
        assert step["rows"] == left
        if step["behaviors"]:
            assert sum(step["behaviors"].values()) == left
        if step["name"] != "read":
            assert sum(step["detail"].values()) == step["dropped"]
    last = made.manifest["funnel"][-1]
    assert (last["users"], last["items"]) == (counts["users"], counts["items"])
    assert len({row[:3] for row in made.rows}) == len(made.rows)  # no pair in two splits


@few
@given(rows=logs, data=st.data(), split=st.sampled_from(["temporal", "leave-one-out"]))
def test_a_shuffled_log_gives_the_same_dataset(
    prep: Prep, rows: list[str], data: st.DataObject, split: str
) -> None:
    options: dict[str, Any] = {"max_rejects": 1.0, "split": split, "behaviors": ("click", "cart")}
    other = data.draw(st.permutations(rows))
    half = len(other) // 2
    try:
        first = prep("ub", {"a.csv": "\n".join(rows) + "\n"}, **options)
    except MbrecError as error:
        with pytest.raises(type(error)):
            prep("ub", {"a.csv": "\n".join(other) + "\n"}, **options)
        return
    pieces = {"b.csv": "\n".join(other[:half]) + "\n", "a.csv": "\n".join(other[half:]) + "\n"}
    second = prep("ub", pieces, **options)
    assert second.dataset.content_hash == first.dataset.content_hash
    assert second.rows == first.rows


@few
@given(
    rows=logs,
    minimum=st.integers(0, 2),
    core_on=st.sampled_from(["target", "any"]),
    split=st.sampled_from(["temporal", "leave-one-out"]),
)
def test_what_was_kept_prepared_again_is_the_same_dataset(
    prep: Prep, rows: list[str], minimum: int, core_on: str, split: str
) -> None:
    options: dict[str, Any] = {
        "behaviors": ("click", "purchase"),
        "min_user": minimum,
        "min_item": minimum,
        "core_on": core_on,
        "split": split,
    }
    try:
        first = prep("ub", {"a.csv": "\n".join(rows) + "\n"}, max_rejects=1.0, **options)
    except DataError:
        return  # nothing was left, which other tests look at
    if not all(sum(1 for row in first.rows if row[2] == name) for name in options["behaviors"]):
        return
    lines = [f"{user},{item},{name},{time}" for user, item, name, time, _ in reversed(first.rows)]
    text = "\n".join(["user_id,item_id,behavior,timestamp", *lines]) + "\n"
    second = prep("csv", {"a.csv": text}, **options)
    assert second.rows == first.rows
    assert second.dataset.content_hash == first.dataset.content_hash
    assert second.dropped == {}


pairs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=12)


@few
@given(train=pairs, valid=pairs, test=pairs, order=st.randoms(use_true_random=False))
def test_given_parts_never_share_a_pair_and_lose_none(
    prep: Prep, train: list[Any], valid: list[Any], test: list[Any], order: Any
) -> None:
    parts = {"train": train, "valid": valid, "test": test}
    made = []
    for _ in range(2):
        files = {
            f"buy.{name}.txt": "".join(f"{user}\t{item}\n" for user, item in rows)
            for name, rows in parts.items()
        }
        made.append(prep("given", files, behaviors=("buy",)))
        for rows in parts.values():
            order.shuffle(rows)
    first, second = made
    assert second.dataset.content_hash == first.dataset.content_hash
    counts = first.manifest["counts"]
    assert counts["rows_read"] == sum(map(len, (train, valid, test)))
    assert counts["rows_read"] == counts["duplicates"] + counts["kept"]
    kept = [row[:2] for row in first.rows]
    assert len(kept) == len(set(kept))
    assert set(kept) == {*train, *valid, *test}
    assert {row[:2] for row in first.rows if row[4] == "train"} == set(train)


identifiers = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6
)


@few
@given(ids=st.lists(st.tuples(identifiers, identifiers), min_size=3, max_size=15))
def test_any_id_comes_back_as_it_was(prep: Prep, ids: list[tuple[str, str]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [f"{quoted(u)},{quoted(i)},{n}" for n, (u, i) in enumerate(ids)]
    text = "user_id,item_id,timestamp\n" + "\n".join(lines) + "\n"
    made = prep("csv", {"a.csv": text}, behaviors=("like",), ratios=Ratios.parse("1:0:0"))
    assert {(str(row[0]), str(row[1])) for row in made.rows} == set(ids)
    for position, found in ((0, made.dataset.user_ids), (1, made.dataset.item_ids)):
        values = {pair[position] for pair in ids}
        whole = all(v.lstrip("-").isascii() and _canonical(v) for v in values)
        assert (str(found.type) == "int64") == whole
        assert sorted(found.to_pylist(), key=_order) == found.to_pylist()


def _canonical(text: str) -> bool:
    try:
        return str(int(text)) == text and abs(int(text)) < 2**63
    except ValueError:
        return False


def _order(value: int | str) -> Any:
    return value.encode() if isinstance(value, str) else value


def test_the_same_call_gives_the_same_dataset_and_says_how(prep: Prep) -> None:
    files = {"a.csv": "".join(f"{n % 4},{n % 7},1,buy,{n}\n" for n in range(60))}
    first = prep("ub", files, behaviors=("purchase",))
    second = prep("ub", files, behaviors=("purchase",))
    assert first.dataset.content_hash == second.dataset.content_hash
    manifest = first.manifest
    assert manifest["source"] == "ub"
    assert manifest["options"]["behaviors"] == ["purchase"]
    assert manifest["options"]["split"] == "temporal"
    assert {"mbrec", "duckdb", "ibis-framework", "pyarrow", "dgl", "python"} <= set(
        manifest["versions"]
    )
    [entry] = manifest["inputs"]
    assert (entry["rows"], entry["bytes"], len(entry["sha256"])) == (60, len(files["a.csv"]), 64)
    assert first.steps == ["read", "rejected", "other behaviors", "duplicates"]


def test_a_tight_memory_limit_does_not_change_the_dataset(prep: Prep) -> None:
    rows = (f"{n * 7919 % 9973},{n * 104729 % 7919},1,buy,{n}" for n in range(200_000))
    files = {"a.csv": "\n".join(rows) + "\n"}
    roomy = prep("ub", files, behaviors=("purchase",))
    tight = prep("ub", files, behaviors=("purchase",), memory_limit=parse_bytes("64MB"))
    assert tight.dataset.content_hash == roomy.dataset.content_hash


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"start": "2020-01-01"}, "outside the time window"),
        ({"min_user": 9}, "k-core round 1"),
    ],
)
def test_the_step_that_emptied_the_data_is_named(
    prep: Prep, options: dict[str, Any], step: str, tmp_path: Path
) -> None:
    text = "1,1,1,buy,1511544000\n2,1,1,buy,1511544001\n"
    with pytest.raises(DataError, match=f"step '{step}' dropped all of the 2 rows"):
        prep("ub", {"a.csv": text}, behaviors=("purchase",), **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["log0"]


def test_too_many_malformed_rows_are_refused_with_the_first(prep: Prep, tmp_path: Path) -> None:
    text = "1,1,1,buy,1\n" * 97 + "1,1,1,buy\n" + "1,1,1,buy,1\n" + "1,1,1,sell,1\n"
    with pytest.raises(DataError) as caught:
        prep("ub", {"a.csv": text})
    message = str(caught.value)
    assert "2 of 100 rows are malformed (2.00%, 1.00% are allowed)" in message
    assert "1 × unknown behavior, 1 × wrong number of fields" in message
    assert f"{tmp_path / 'log0' / 'a.csv'}:98, wrong number of fields: '1,1,1,buy'" in message
    text += "1,2,1,buy,2\n1,3,1,buy,3\n"
    assert len(prep("ub", {"a.csv": text}, max_rejects=0.02).rejects) == 2


def test_a_funnel_that_does_not_add_up_is_a_defect() -> None:
    funnel = Funnel(lambda step: None)
    funnel.add(FunnelStep("read", dropped=0, rows=10))
    with pytest.raises(RuntimeError, match="do not add up"):
        funnel.add(FunnelStep("rejected", dropped=2, rows=7))


def test_presets_give_way_to_what_is_said() -> None:
    options = PrepOptions("ub", ("x",), Path("out"), preset="ub-paper", min_item=3)
    settled = settle(options)
    assert (settled.min_user, settled.min_item, settled.core_on) == (5, 3, "target")
    assert (settled.start, settled.end) == ("2017-11-25", "2017-12-03")
    jd = settle(replace(options, source="jd", preset="jd-paper", min_item=None))
    assert (jd.behaviors, jd.min_user, jd.min_item) == (("click", "favorite", "purchase"), 5, 0)


def test_the_ub_preset_keeps_the_nine_days_and_the_purchase_core(prep: Prep) -> None:
    days = {"before": 1511539199, "first": 1511539200, "last": 1512316799, "after": 1512316800}
    rows = [
        f"{user},{item},1,buy,{days['first'] + 3600 * (user + item)}"
        for user in range(10)
        for item in range(5)
    ]
    rows += [f"1,1,1,pv,{time}" for time in days.values()]
    rows += [f"1,9,1,pv,{days['first']}"]  # never bought
    made = prep("ub", {"a.csv": "\n".join(rows) + "\n"}, preset="ub-paper")
    assert made.dropped == {"outside the time window": 2, "duplicates": 1, "k-core round 1": 1}
    assert (1, 1, "click", days["first"], "train") in made.rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "cvs"}, "Did you mean csv"),
        ({"split": "random"}, "split 'random' is unknown"),
        ({"preset": "jd-paper"}, "is for --source jd"),
        ({"min_user": -1}, "negative"),
        ({"split": "given"}, "has no split"),
        ({"source": "given", "split": "temporal"}, "cannot be split temporal"),
        ({"mapping": Mapping(user="u")}, "has fixed columns"),
        ({"source": "csv", "mapping": Mapping(split="s"), "split": "temporal"}, "Leave one out"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settle(replace(PrepOptions("ub", ("x",), Path("out")), **changes))


def test_a_typo_in_a_mapping_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text('usr = "visitor"\n')
    with pytest.raises(UsageError, match=r"unknown key 'usr'.*Did you mean 'user'"):
        load_mapping(tmp_path / "shop.toml")
    (tmp_path / "shop.toml").write_text("header = 3\n")
    with pytest.raises(UsageError, match="header = 3"):
        load_mapping(tmp_path / "shop.toml")
    (tmp_path / "shop.toml").write_text('user = "visitor"\n[map]\nview = "click"\n')
    assert load_mapping(tmp_path / "shop.toml") == Mapping(user="visitor", map={"view": "click"})


def test_the_mappings_that_come_with_mbrec_can_be_read() -> None:
    files = sorted((Path(__file__).parents[2] / "configs" / "sources").glob("*.toml"))
    assert [file.stem for file in files] == ["rees46", "retailrocket"]
    for file in files:
        assert load_mapping(file).behaviors == ["click", "cart", "purchase"]


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.5", 0.5), ("100%", 1.0), ("0", 0.0)])
def test_shares(text: str, value: float) -> None:
    assert parse_share(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("8GB", 8 * 10**9), ("512 MiB", 2**29), ("1.5g", 15 * 10**8), ("100", 100)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(("reader", "text"), [(parse_share, "2"), (parse_bytes, "much")])
def test_shares_and_sizes_that_are_none(reader: Callable[[str], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        reader(text)


def test_times_are_asked_for_where_they_are_needed(prep: Prep) -> None:
    files = {"a.csv": "user_id,item_id,part\nu,i,train\nu,j,test\n"}
    with pytest.raises(UsageError, match="temporal needs times"):
        prep("csv", files, behaviors=("like",))
    made = prep("csv", files, behaviors=("like",), mapping=Mapping(split="part"))
    assert made.rows == [("u", "i", "like", None, "train"), ("u", "j", "like", None, "test")]
