"""If these fail, a full disk or a folder without rights costs what was there before, or says why in
a page of text."""

from __future__ import annotations

import importlib
import os
import pkgutil
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import mbrec.cli
from mbrec.config import from_dict
from mbrec.data_prep.options import PrepOptions
from mbrec.data_prep.pipeline import Listener, prepare
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, BusyError, DataError
from mbrec.evaluation import evaluate_run
from mbrec.export import export_run
from mbrec.files import sha256
from mbrec.locks import locked
from mbrec.run import Run
from mbrec.trainer import Silent
from mbrec.training import train_run

Mbrec = Callable[..., Any]
SMALL = ["--set", "train.epochs=3", "--set", "model.size=4", "--device", "cpu"]
EVENTS = "".join(f"{n % 701},{n % 503},1,pv,{1511539100 + n}\n" for n in range(4000))


def snapshot(folder: Path) -> dict[str, str]:
    """The hash of every file, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def raw(copy: Path) -> Path:
    """A copy of `shop` with a raw log beside `data` and `run`."""
    (copy / "log.csv").write_text(EVENTS)
    return copy


def calls(place: Path) -> dict[str, list[object]]:
    """What writes, into places that are written to already."""
    source = ["--source", "ub", "--behaviors", "click", "--split", "leave-one-out"]
    return {
        "prep": ["prep", *source, "--input", place / "log.csv", "--out", place / "data", "--force"],
        "train": ["train", place / "data", "--out", place / "new", *SMALL],
        "resume": ["train", place / "data", "--out", place / "run", "--resume", "--set",
                   "train.epochs=2"],
        "evaluate": ["evaluate", place / "run", "--data", place / "data", "--k", "3"],
        "export": ["export", place / "run", "--data", place / "data", "--k", "9",
                   "--out", place / "run" / "lists.csv"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "size"),
    [("prep", 1000), ("prep", 20_000), ("train", 900), ("resume", 1500), ("evaluate", 100),
     ("evaluate", 3000), ("export", 100)],
)  # fmt: skip
def test_a_full_disk_is_one_line_and_what_was_there_stays(
    mbrec: Mbrec, raw: Path, verb: str, size: int
) -> None:
    before = snapshot(raw)
    with files_of_at_most(size):
        answer = mbrec(*calls(raw)[verb])
    assert answer.code == 1, answer.err
    assert "Cannot write" in answer.error
    assert "File too large. Make room" in answer.error
    assert "Traceback" not in answer.err
    after = snapshot(raw)
    assert not [name for name in after if ".mbrec-" in name]
    lost = [name for name in before if after.get(name) != before[name]]
    assert set(lost) <= MAY_CHANGE.get(verb, set())
    Run(raw / "run")
    again = calls(raw)[verb]
    if verb == "train" and (raw / "new" / "run.json").exists():
        again.append("--resume")
    answer = mbrec(*again)
    assert answer.code == 0, answer.err


# A part of what it writes may be whole and in its place when the next file finds the disk full.
MAY_CHANGE = {
    "resume": {"run/config.toml", "run/metrics.jsonl"},
    "evaluate": {"run/per_user.test.parquet", "run/evaluation.test.json"},
}

TMPFS = """
set -e
mount -t tmpfs -o size=200k none "$1/small"
cp "$1/log.csv" "$1/small/log.csv"
"$2" -m mbrec prep --source ub --behaviors click --split leave-one-out --input "$1/small/log.csv" \
    --out "$1/small/data" && exit 99
echo "left: $(ls -A "$1/small")"
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "log.csv").write_text(EVENTS)
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    allowed = "mount -t tmpfs -o size=100k none /mnt"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, allowed], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting is not allowed here; the limit on file sizes stands for it")
    done = subprocess.run(
        [*command, TMPFS, "sh", str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert "small/data: No space left on device. Make room" in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == "left: log.csv\n"


def import_all() -> None:
    """Every module of ours, while they can be read: the sources may be in a folder of root's."""
    for package in (mbrec, mbrec.cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                with suppress(ImportError):  # an extra that is not installed
                    importlib.import_module(module.name)


@pytest.fixture
def sealed(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of `shop` in which nothing may be written.

    `monkeypatch` is undone after it: it goes back to a folder that may be root's alone.
    """
    place = Path(tempfile.mkdtemp(prefix="mbrec-test-"))
    shutil.copytree(shop, place / "shop")
    (place / "shop" / "log.csv").write_text(EVENTS)
    os.chmod(place, 0o755)  # noqa: PTH101
    folders = [place / "shop", *(path for path in (place / "shop").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        import_all()
        os.seteuid(65534)  # root may write anywhere
    try:
        yield place / "shop"
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)
        shutil.rmtree(place)


@pytest.mark.parametrize("verb", ["prep", "train", "resume", "evaluate", "export"])
def test_a_folder_that_must_not_be_written_is_one_line(
    mbrec: Mbrec, sealed: Path, verb: str
) -> None:
    before = snapshot(sealed)
    answer = mbrec(*calls(sealed)[verb])
    assert answer.code == 1, answer.err
    assert "Cannot write" in answer.error
    assert "Permission denied" in answer.error
    assert ".mbrec-" not in answer.error
    assert snapshot(sealed) == before


@contextmanager
def as_root() -> Iterator[None]:
    """Who started the tests again, where `sealed` made somebody else of her."""
    before = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("log.csv", "prep --source ub --input log.csv --out new"),
        ("mine.toml", "train data --config mine.toml --out new"),
        ("mine.toml", "prep --source csv --input log.csv --mapping mine.toml --out new"),
        ("mine.toml", "bench mine.toml --out new"),
        ("users.txt", "export run --users users.txt --out new.csv"),
        ("data", "inspect data"),
        ("data/manifest.json", "inspect data"),
        ("data/interactions.parquet", "inspect data"),
        ("run", "evaluate run"),
        ("run/run.json", "evaluate run"),
        ("run/embeddings.safetensors", "explain run --data data --user u1 --item 1001"),
        ("run/config.toml", "train data --out run --resume"),
        ("run/metrics.jsonl", "train data --out run --resume --set train.epochs=2"),
    ],
)  # fmt: skip
def test_what_may_not_be_read_is_not_called_damaged(
    mbrec: Mbrec, sealed: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    with as_root():
        sealed.chmod(0o755)
        for made in ("mine.toml", "users.txt"):
            (sealed / made).write_text("u1")
        sealed.chmod(0o555)
        before = (sealed / name).stat().st_mode
        (sealed / name).chmod(0)
    monkeypatch.chdir(sealed)
    answer = mbrec(*call.split())
    with as_root():
        (sealed / name).chmod(before)
    assert answer.code in (1, 2)
    assert name in answer.error
    assert "See to the rights of the file" in answer.error
    for wrong in ("damaged", "again", "Delete", "anew", "Give a column"):
        assert wrong not in answer.error


@pytest.mark.parametrize(
    "call",
    [
        "prep --source ub --input log.csv --out log.csv/new",
        "train data --model mostpop --out log.csv/deeper/new",
        "refit run --out log.csv/new",
        "tune data --model ease --out log.csv/new",
        "export run --out log.csv/new.csv",
        "export run --embeddings log.csv/new",
        "report run --out log.csv/new.html",
        "synth --out log.csv/new.csv",
        "demo --out log.csv/new",
        "train data --model mostpop --out nowhere/new",
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(
    mbrec: Mbrec, raw: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (raw / "nowhere").symlink_to(raw / "gone")
    before = snapshot(raw)
    monkeypatch.chdir(raw)
    answer = mbrec(*call.split())
    assert answer.code == 2
    what = "nowhere" if "nowhere" in call else "log.csv"
    assert f"cannot be written: {what} is no folder. Choose another path." in answer.error
    assert snapshot(raw) == before


def test_readers_work_where_nothing_may_be_written(sealed: Path) -> None:
    assert len(PreparedDataset(sealed / "data").pairs("click", "train"))
    assert Run(sealed / "run").scorer("click").num_users == 8


def test_a_second_writer_is_refused_and_readers_are_not(mbrec: Mbrec, raw: Path) -> None:
    with locked(raw / "run"):
        Run(raw / "run").scorer("click")
        for verb in ("resume", "evaluate", "export"):
            answer = mbrec(*calls(raw)[verb])
            assert answer.code == 2
            assert "run is being written by process" in answer.error
        forced = ["train", raw / "data", "--out", raw / "run", "--force", *SMALL]
        assert "is being written" in mbrec(*forced).error
        export_run(raw / "run", raw / "lists.csv", k=3, device="cpu")  # elsewhere
    assert mbrec(*calls(raw)["evaluate"]).code == 0


def test_what_is_written_during_a_training_is_refused(raw: Path) -> None:
    class Meddler(Silent):
        def epoch(self, record: Any) -> None:
            with pytest.raises(BusyError):
                train_run(raw / "data", raw / "new", settings, resume=True)
            with pytest.raises(ArtefactError, match="not finished"):
                evaluate_run(raw / "new")

    settings = from_dict({"method": "lightgcn", "model": {"size": 4}, "train": {"epochs": 1}})
    train_run(raw / "data", raw / "new", settings, observer=Meddler())


def test_a_log_that_vanishes_while_it_is_read_is_one_line(raw: Path) -> None:
    (raw / "logs").mkdir()
    for name in ("a.csv", "b.csv"):
        shutil.copy(raw / "log.csv", raw / "logs" / name)

    class Thief(Listener):
        def reading(self, path: Path, rows: int) -> None:
            (raw / "logs" / "b.csv").unlink(missing_ok=True)

    before = snapshot(raw / "data")
    options = PrepOptions("ub", (str(raw / "logs"),), raw / "data", force=True)
    with pytest.raises((DataError, OSError), match=r"b\.csv") as caught:
        prepare(options, Thief())
    assert "No such file" in str(caught.value)
    assert snapshot(raw / "data") == before


def test_a_training_outlives_its_dataset_and_its_readers_say_what_is_gone(
    mbrec: Mbrec, raw: Path
) -> None:
    class Thief(Silent):
        def step(self, epoch: int, step: int, steps: int, loss: Any) -> None:
            shutil.rmtree(raw / "data", ignore_errors=True)

    settings = from_dict({"method": "lightgcn", "model": {"size": 4}, "train": {"epochs": 2}})
    run = train_run(raw / "data", raw / "new", settings, observer=Thief())
    assert run.scorer("click").num_users == 8
    before = snapshot(raw / "new")
    for call in (
        ["evaluate", raw / "new"],
        ["export", raw / "new", "--out", raw / "lists.csv"],
        ["train", raw / "data", "--out", raw / "new", "--resume"],
    ):
        answer = mbrec(*call)
        assert answer.code == 1
        assert str(raw / "data") in answer.error
    assert snapshot(raw / "new") == before
