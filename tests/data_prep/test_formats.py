"""If these fail, a log is read wrongly: rows lost, ids changed, times shifted, splits moved."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.data_prep.sources.csv import Mapping
from mbrec.errors import DataError, UsageError

Prep = Callable[..., Any]

UB = (
    "\ufeff1,10,7,pv,1511544000\r\n"  # byte order mark, CRLF
    "1,10,7,pv,1511544001\n"  # the pair again, later
    "1,11,7,fav,1511544002\n"
    "2,10,7,cart,1511544003\n"
    "\n"
    "2,10,7,buy,1511544004\n"
    "2,10,buy,1511544005\n"  # four fields
    "x,10,7,buy,1511544006\n"
    "3,007,7,buy,1511544007\n"
    "3,10,7,view,1511544008\n"
    "3,10,7,buy,noon\n"
    "3,12,7,pv,-5\n"
    "3,1\x000,7,pv,1511544009\n"
    "3,10,7,buy,15115"  # cut
)


def test_ub_keeps_what_is_sound_and_names_what_is_not(prep: Prep) -> None:
    made = prep("ub", {"u.csv": UB}, max_rejects=1.0)
    assert made.rows == [
        (1, 10, "click", 1511544000, "train"),
        (1, 11, "favorite", 1511544002, "train"),
        (2, 10, "cart", 1511544003, "train"),
        (2, 10, "purchase", 1511544004, "test"),  # of five rows, floor(5 · .8) = floor(5 · .9)
        (3, 12, "click", -5, "train"),
    ]
    assert made.rejects == [
        (5, "empty line", ""),
        (7, "wrong number of fields", "2,10,buy,1511544005"),
        (8, "user_id is not a whole number", "x,10,7,buy,1511544006"),
        (9, "item_id is not a whole number", "3,007,7,buy,1511544007"),
        (10, "unknown behavior", "3,10,7,view,1511544008"),
        (11, "timestamp is not Unix time in seconds", "3,10,7,buy,noon"),
        (13, "NUL byte", "3,1\\00,7,pv,1511544009"),
        (14, "last line is cut", "3,10,7,buy,15115"),
    ]
    assert made.manifest["counts"]["rows_read"] == 14
    assert made.dropped == {"rejected": 8, "duplicates": 1}


def test_ub_takes_the_later_of_two_rows_if_told_so(prep: Prep) -> None:
    text = "1,10,7,buy,20\n1,10,7,buy,30\n1,10,7,buy,10\n1,11,7,buy,5\n2,11,7,buy,6\n"
    first = prep("ub", {"u.csv": text}, behaviors=("purchase",))
    last = prep("ub", {"u.csv": text}, behaviors=("purchase",), keep="last")
    assert [r[3] for r in first.rows if r[:2] == (1, 10)] == [10]
    assert [r[3] for r in last.rows if r[:2] == (1, 10)] == [30]


def test_jd_2019_is_read_in_beijing_time_and_drops_comments_and_carts(prep: Prep) -> None:
    text = (
        "user_id,sku_id,action_time,module_id,type\n"
        "937922,357022,2018-02-04 08:28:15,8107857,1\n"
        "937922,357022,2018-02-04 08:29:15,8107857,2\n"
        "937922,357023,2018-02-04 08:30:15,8107857,3\n"
        "937922,357023,2018-02-04 08:31:15,8107857,4\n"
        "937922,357023,2018-04-09 08:31:15,8107857,5\n"
        "937922,357023,2018-02-30 08:31:15,8107857,1\n"
        "937922,357023,2018-02-04 08:28,8107857,1\n"
    )
    made = prep("jd", {"jdata_action.csv": text}, max_rejects=1.0)
    assert [row[:4] for row in made.rows] == [
        (937922, 357022, "click", 1517704095),  # 2018-02-04 00:28:15 UTC
        (937922, 357022, "purchase", 1517704155),
        (937922, 357023, "click", 1517704080),
        (937922, 357023, "favorite", 1517704215),
    ]
    assert made.rejects[0][:2] == (7, "timestamp is not of the form ISO")
    assert made.dropped == {"rejected": 1, "other behaviors": 2}
    [other] = [s for s in made.manifest["funnel"] if s["name"] == "other behaviors"]
    assert other["detail"] == {"cart": 1, "comment": 1}
    assert made.dataset.behaviors == ("click", "favorite", "purchase")
    with_cart = prep(
        "jd", {"a.csv": text}, max_rejects=1.0, behaviors=("click", "cart", "purchase")
    )
    assert with_cart.dropped["other behaviors"] == 2  # favorite, comment


JD_2016 = (
    "user_id,sku_id,time,model_id,type,cate,brand\n"
    "266079.0,138778,2016-01-31 23:59:02,,1,8,403\n"
    "266079.0,138778,2016-01-31 23:59:02,,1,8,403\n"
    "266079,138778,2016-01-31 23:59:03,0,6,8,403\n"
    "200719.0,61226,2016-01-31 23:59:07,,2,8,30\n"
    "200719.0,61226,2016-01-31 23:59:08,,3,8,30\n"
    "200719.0,61226,2016-01-31 23:59:09,,4,8,30\n"
    "200719.0,61227,2016-01-31 23:59:10,,5,8,30\n"
    "200719.5,61227,2016-01-31 23:59:10,,5,8,30\n"
    "200719.0,61227,2016-01-31 23:59:10,,9,8,30\n"
    "200719.0,61227,,,1,8,30\n"
)


def test_jd_2016_knows_float_ids_and_its_own_codes(prep: Prep) -> None:
    made = prep("jd", {"JData_Action_201602.csv": JD_2016}, max_rejects=1.0)
    assert [row[:4] for row in made.rows] == [
        (200719, 61226, "purchase", 1454255949),
        (200719, 61227, "favorite", 1454255950),
        (266079, 138778, "click", 1454255942),
    ]
    assert [reject[1] for reject in made.rejects] == [
        "user_id is not a whole number",
        "unknown behavior",
        "timestamp is not of the form ISO",
    ]
    assert made.dropped == {"rejected": 3, "other behaviors": 2, "duplicates": 2}


def test_jd_lines_in_gbk_are_read(prep: Prep) -> None:
    gbk = JD_2016.replace("8,403\n", "8,华为\n", 1).encode("gbk")
    made = prep("jd", {"a.csv": gbk}, max_rejects=1.0)
    assert made.dropped["rejected"] == 3


def test_jd_of_two_contests_is_refused(prep: Prep) -> None:
    other = "user_id,sku_id,action_time,module_id,type\n1,2,2018-02-04 08:28:15,8,1\n"
    with pytest.raises(DataError, match="two JData contests"):
        prep("jd", {"a.csv": JD_2016, "b.csv": other})


RETAIL_ROCKET = (
    "timestamp,visitorid,event,itemid,transactionid\n"
    "1433221332117,257597,view,355908,\n"
    "1433224214164,992329,addtocart,248676,\n"
    "1433221999827,111016,transaction,318965,4000\n"
)


def test_retail_rocket_goes_in_by_mapping_alone(prep: Prep) -> None:
    mapping = Mapping(
        user="visitorid",
        item="itemid",
        behavior="event",
        time_format="ms",
        map={"view": "click", "addtocart": "cart", "transaction": "purchase"},
    )
    made = prep("csv", {"events.csv": RETAIL_ROCKET}, mapping=mapping)
    assert [row[:4] for row in made.rows] == [
        (111016, 318965, "purchase", 1433221999),
        (257597, 355908, "click", 1433221332),
        (992329, 248676, "cart", 1433224214),
    ]
    assert made.dataset.behaviors == ("click", "cart", "purchase")


def test_rees46_goes_in_and_known_events_can_be_dropped(prep: Prep) -> None:
    text = (
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,session\n"
        '2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,"a, ""b""",35.79,541312140,x\n'
        "2019-10-01 00:00:01 UTC,cart,44600062,2103807459595387724,,a,35.79,541312140,x\n"
        "2019-10-01 00:00:02 UTC,remove_from_cart,44600062,2103807459595387724,,a,35,541312140,x\n"
        "2019-10-01 00:00:03 UTC,purchase,44600062,2103807459595387724,,a,35.79,541312140,x\n"
    )
    mapping = Mapping(
        user="user_id",
        item="product_id",
        behavior="event_type",
        time="event_time",
        time_format="iso",
        tz="Asia/Shanghai",  # the times name their own
        map={"view": "click", "remove_from_cart": ""},
        behaviors=["click", "cart", "purchase"],
    )
    made = prep("csv", {"2019-Oct.csv": text}, mapping=mapping)
    assert [(row[2], row[3]) for row in made.rows] == [
        ("cart", 1569888001),
        ("click", 1569888000),
        ("purchase", 1569888003),
    ]
    assert made.dropped == {"other behaviors": 1}


def test_files_of_one_log_may_differ_in_their_columns(prep: Prep) -> None:
    made = prep(
        "csv",
        {
            "a.csv": "user_id,item_id,timestamp\nu1,i1,1\nu2,i2,2\n",
            "b.tsv": "timestamp\textra\titem_id\tuser_id\n3\tx\ti1\tu2\n",
        },
        behaviors=("purchase",),
    )
    assert [row[:4] for row in made.rows] == [
        ("u1", "i1", "purchase", 1),
        ("u2", "i1", "purchase", 3),
        ("u2", "i2", "purchase", 2),
    ]
    assert [entry["rows"] for entry in made.manifest["inputs"]] == [2, 1]


def test_ids_come_back_exactly_as_they_were(prep: Prep) -> None:
    text = 'user_id,item_id,timestamp\n007,1,1\n7,2,2\n"a,b",3,3\nÜ-9,-4,4\n'
    made = prep("csv", {"a.csv": text}, behaviors=("purchase",))
    assert made.dataset.user_ids.to_pylist() == ["007", "7", "a,b", "Ü-9"]
    assert made.dataset.item_ids.to_pylist() == [-4, 1, 2, 3]


def test_a_log_without_header_is_read_by_position(prep: Prep) -> None:
    mapping = Mapping(user=2, item="1", time=3, header=False, delimiter=";")
    made = prep("csv", {"a.csv": "i1;u1;5\ni2;u1;6\n"}, mapping=mapping, behaviors=("like",))
    assert [row[:4] for row in made.rows] == [("u1", "i1", "like", 5), ("u1", "i2", "like", 6)]


def test_other_encodings_are_read_when_named(prep: Prep) -> None:
    text = "user_id,item_id,timestamp\n用户,商品,5\nü,b,6\n".encode("gb18030")
    mapping = Mapping(encoding="gb18030")
    made = prep("csv", {"a.csv": text}, mapping=mapping, behaviors=("like",))
    assert made.dataset.user_ids.to_pylist() == ["ü", "用户"]
    with pytest.raises(DataError, match=r"2 × not UTF-8.*name the --encoding"):
        prep("csv", {"a.csv": text}, behaviors=("like",))


def test_parquet_is_read_like_text(prep: Prep, tmp_path: Any) -> None:
    table = pa.table(
        {
            "user_id": pa.array([1.0, 2.0, None]),
            "item_id": pa.array(["a", "b", "c"]),
            "behavior": pa.array(["view", "buy", "buy"]),
            "timestamp": pa.array([10**9, 2 * 10**9, 3 * 10**9], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    mapping = Mapping(tz="+08:00")
    made = prep(
        "csv",
        {"log.parquet": (tmp_path / "log.parquet").read_bytes()},
        mapping=mapping,
        behaviors=("view", "buy"),
        max_rejects=0.5,
    )
    assert [row[:4] for row in made.rows] == [
        (1, "a", "view", 1 - 8 * 3600),
        (2, "b", "buy", 2 - 8 * 3600),
    ]
    assert made.rejects == [(3, "user_id is empty", ",c,buy,1970-01-01 00:00:03")]


def test_a_split_column_is_kept_and_train_wins_over_a_repetition(prep: Prep) -> None:
    text = (
        "user_id,item_id,timestamp,fold\n"
        "u1,i1,9,valid\nu1,i1,8,train\nu1,i1,1,test\nu1,i2,7,test\nu1,i3,7,dev\n"
    )
    mapping = Mapping(split="fold")
    made = prep("csv", {"a.csv": text}, mapping=mapping, behaviors=("buy",), max_rejects=0.2)
    assert made.rows == [("u1", "i1", "buy", 8, "train"), ("u1", "i2", "buy", 7, "test")]
    assert made.rejects == [(6, "unknown split", "u1,i3,7,dev")]
    assert made.manifest["split"] == {"protocol": "given"}


GIVEN: dict[str, str | bytes] = {
    "click.train.txt": "1 10\n1 11\n\t2  10 \n",
    "click.valid.csv": "user_id,item_id\n2,11\n1,10\n",
    "favourite.train.txt.gz": gzip.compress(b"1\t10\n"),
    "purchase.train.txt": "2,10",
    "purchase.test.txt": "1 11\n",
    "README.txt": "not data\n",
}


def test_given_files_keep_their_split_and_other_spellings_are_known(prep: Prep) -> None:
    made = prep("given", GIVEN)
    assert made.dataset.behaviors == ("click", "favorite", "purchase")
    assert made.rows == [
        (1, 10, "click", None, "train"),
        (1, 10, "favorite", None, "train"),
        (1, 11, "click", None, "train"),
        (1, 11, "purchase", None, "test"),
        (2, 10, "click", None, "train"),
        (2, 10, "purchase", None, "train"),
        (2, 11, "click", None, "valid"),
    ]
    assert made.dropped == {"duplicates": 1}  # (1, 10) again in click.valid


def test_given_files_of_other_names_need_an_order(prep: Prep) -> None:
    files = {"like.train.txt": "1 2\n", "buy.train.txt": "1 3\n"}
    with pytest.raises(UsageError, match="Where does like stand"):
        prep("given", files)
    made = prep("given", files, behaviors=("like", "buy"))
    assert made.dataset.behaviors == ("like", "buy")


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.csv.gz", gzip.compress),
        ("a.csv.bz2", bz2.compress),
        ("a.csv.xz", lzma.compress),
        ("a.csv.zst", lambda data: pa.compress(data, "zstd", asbytes=True)),
        ("misnamed.csv", gzip.compress),
    ],
)
def test_packed_logs_are_the_same_as_plain_ones(
    prep: Prep, name: str, pack: Callable[[bytes], bytes]
) -> None:
    text = "".join(f"{n % 7},{n % 11},1,{'pv' if n % 3 else 'buy'},{n}\n" for n in range(200))
    options = {"behaviors": ("click", "purchase")}
    plain = prep("ub", {"a.csv": text}, **options)
    packed = prep("ub", {name: pack(text.encode())}, **options)
    assert packed.dataset.content_hash == plain.dataset.content_hash


def test_behaviors_that_the_log_lacks_are_left_out_aloud(prep: Prep) -> None:
    text = "1,1,1,cart,1\n1,2,1,buy,2\n2,1,1,buy,3\n"
    made = prep("ub", {"a.csv": text})
    assert made.dataset.behaviors == ("cart", "purchase")
    assert "no rows of click and favorite" in made.notes[0]
    with pytest.raises(DataError, match=r"no rows of click.*--behaviors purchase"):
        prep("ub", {"a.csv": text}, behaviors=("click", "purchase"))


def test_folders_patterns_and_repeated_names_name_each_file_once(prep: Prep, tmp_path: Any) -> None:
    for name in ("a.csv", "b.csv", "notes.md", ".hidden.csv"):
        (tmp_path / name).write_text(f"1,{ord(name[0])},1,buy,{ord(name[0])}\n")
    inputs = (str(tmp_path / "*.csv"), str(tmp_path / "a.csv"))
    made = prep("ub", {"x": ""}, inputs=inputs, behaviors=("purchase",))
    assert made.manifest["counts"]["rows_read"] == 2
    assert [entry["rows"] for entry in made.manifest["inputs"]] == [1, 1]
