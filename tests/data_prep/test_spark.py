"""If these fail, a log that one machine cannot take becomes another dataset on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mbrec.data_prep import java
from mbrec.data_prep.java import check_java, check_master, readable
from mbrec.data_prep.sources.csv import Mapping
from mbrec.errors import DataError, DeviceError

# py4j leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
Prep = Callable[..., Any]
BOTH = ("auto", "spark")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One session for all tests: starting one takes longer than they do."""
    pytest.importorskip("pyspark", reason="pyspark is not installed (extra spark)")
    if shutil.which("java") is None:
        pytest.skip("there is no Java for Spark")
    from mbrec.data_prep.spark import open_session

    quick = '--driver-java-options "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" pyspark-shell'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_SUBMIT_ARGS", quick)
        session, _ = open_session("local[2]", tmp_path_factory.mktemp("spark"))
    # Compiling code costs far more here than the few rows do.
    for key, value in (
        ("spark.sql.shuffle.partitions", "1"),
        ("spark.sql.codegen.wholeStage", "false"),
        ("spark.sql.adaptive.enabled", "false"),
    ):
        session.conf.set(key, value)
    yield
    session.stop()


def ub_rows(rows: int) -> str:
    codes = ("pv", "pv", "fav", "cart", "buy")
    return "".join(
        f"{n * 7 % 23},{n * 11 % 17},3,{codes[n % 5]},{1511544000 + n * 37 % 5000}\n"
        for n in range(rows)
    )


@pytest.mark.usefixtures("spark")
def test_a_log_with_malformed_rows_is_the_same_on_spark(assert_same: Prep) -> None:
    odd = "x,1,3,pv,1511544000\n1,07,3,pv,1511544000\n\n1,2,3,view,1511544000\n1,2\n"
    files: dict[str, str | bytes] = {
        "a's.csv": ub_rows(400) + odd,
        "b.csv": "999,999,3,pv,1511544001\n" + odd + ub_rows(60) + "4,5,3,buy,15115",
    }
    options: dict[str, Any] = {"min_user": 3, "min_item": 3, "core_on": "any", "max_rejects": 0.5}
    made = assert_same(BOTH, "ub", files, end="2017-11-25T02:00:00", **options)
    assert made.dropped["rejected"] == 11
    assert made.dropped["duplicates"] > 0
    assert "k-core round 1" in made.steps
    assert [line for line, _, _ in made.rejects][:2] == [401, 402]


@pytest.mark.usefixtures("spark")
def test_texts_quotes_and_given_splits_are_the_same_on_spark(assert_same: Prep) -> None:
    rows = [
        '"u,1",b,view,2019-10-01 08:30:00,train',
        "ü,-4,view,2019-10-01T08:30:05+02:00,valid",
        "ü,-4,view,2019-10-01T08:30:05Z,train",
        "Z,12,buy,2019-10-01,test",
        "Z,12,buy,2019-13-01,test",
        'Z,"12,buy,2019-10-01,test',
        ' "Z" , "12" ,buy,2019-10-01,test',
    ]
    head = "user_id,item_id,behavior,timestamp,part\n"
    files: dict[str, str | bytes] = {"a.csv": head + "\n".join(rows)}
    mapping = Mapping(split="part", behaviors=["view", "buy"], time_format="iso", tz="+08:00")
    made = assert_same(BOTH, "csv", files, mapping=mapping, max_rejects=0.5, keep="last")
    assert len(made.rejects) == 2
    assert made.dataset.user_ids.to_pylist() == ["Z", "u,1", "ü"]


@pytest.mark.usefixtures("spark")
def test_leave_one_out_is_the_same_on_spark(assert_same: Prep) -> None:
    options: dict[str, Any] = {"split": "leave-one-out", "keep": "last"}
    made = assert_same(BOTH, "ub", {"a.csv": ub_rows(200)}, **options)
    assert {row[4] for row in made.rows} == {"train", "valid", "test"}


@pytest.mark.usefixtures("spark")
def test_a_damaged_file_is_named_in_one_line(prep: Prep) -> None:
    files: dict[str, str | bytes] = {"a.csv": "1,1,1,buy,1\n", "b.csv.gz": b"\x1f\x8b\x08\x00"}
    with pytest.raises(DataError, match=r"^[^\n]*b\.csv\.gz is damaged[^\n]*$"):
        prep("ub", files, engine="spark")


def test_without_java_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(DeviceError, match=r"none in JAVA_HOME \(/nowhere\)\. Install a Java"):
        check_java()


def test_an_old_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(DeviceError, match="needs Java 17; this is 11"):
        check_java()


def test_a_master_that_does_not_answer_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_SECONDS", 0.5)
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:9 cannot be reached.*--spark-master"):
        check_master("spark://127.0.0.1:9")
    check_master("local[2]")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionRefusedError(), DeviceError, "Spark has ended"),
        (RuntimeError("a\nExecutorLostFailure (executor 1 exited)"), DeviceError, "executor of m"),
        (RuntimeError("a\nmbrec.errors.DataError: f is damaged.\n\tat b"), DataError, "f is dam"),
        (RuntimeError("No space\n\tat org.apache"), DeviceError, "Spark failed: No space"),
    ],
)
def test_what_spark_says_becomes_one_line(error: Exception, kind: type, message: str) -> None:
    found = readable(error, "m")
    assert type(found) is kind
    assert str(found).startswith(message) or message in str(found)
    assert "\n" not in str(found)
