"""Nobody ever reads half a file, and a failure costs nobody what was there before."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, UsageError
from mbrec.files import (
    atomic_folder,
    atomic_path,
    kept_aside,
    read_json,
    refuse_existing,
    sha256,
    write_json,
)

FAILURES = [RuntimeError("full disk"), KeyboardInterrupt(), SystemExit(1)]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: BaseException
) -> None:
    path = tmp_path / "lists.csv"
    path.write_text("old")
    with pytest.raises(type(failure)), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failure_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, failure: BaseException
) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "manifest.json").write_text("old")
    with pytest.raises(type(failure)), atomic_folder(path, force=True) as temporary:
        (temporary / "manifest.json").write_text("ne")
        raise failure
    assert (path / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_the_old_file_with_an_ordinary_one(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".csv"  # writers choose their format by it
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_success_replaces_the_old_folder_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    for name in ("first", "second"):
        with atomic_folder(path, force=True) as temporary:
            (temporary / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["second"]
    assert [entry.name for entry in path.parent.iterdir()] == ["data"]
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("what", ["atomic_path", "atomic_folder"])
def test_a_process_that_is_killed_leaves_the_old_state(tmp_path: Path, what: str) -> None:
    path = tmp_path / "thing"
    if what == "atomic_path":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "file").write_text("old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        f"from mbrec.files import {what} as writing\n"
        f"options = {{'force': True}} if {what == 'atomic_folder'} else {{}}\n"
        "with writing(Path(sys.argv[1]), **options) as temporary:\n"
        "    target = temporary / 'file' if temporary.is_dir() else temporary\n"
        "    target.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    content = path / "file" if what == "atomic_folder" else path
    assert content.read_text() == "old"


def test_an_interrupt_between_the_two_renames_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "file").write_text("old")
    rename, calls = Path.replace, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, force=True) as temporary:
        (temporary / "file").write_text("new")
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from mbrec.files import atomic_folder, atomic_path
place, calls, rename = sys.argv[2], [], Path.replace
def killed(self, target):
    calls.append(target)
    if place == "between" and len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = killed
path = Path(sys.argv[1])
if place == "file":
    with atomic_path(path / "lists.csv") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_folder(path, force=True) as temporary:
    (temporary / "file").write_text("new")
    if place == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, place: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "file").write_text("old")
    command = [sys.executable, "-c", KILLED, str(path), place]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL


def test_killed_between_the_two_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "data"
    killed(path, "between")
    assert not path.exists()
    aside = kept_aside(path)
    assert aside is not None
    assert (aside / "file").read_text() == "old"
    with pytest.raises(ArtefactError, match=re.escape(str(aside))):
        PreparedDataset(path)
    with pytest.raises(UsageError, match="exists already"), atomic_folder(path):
        pytest.fail("the work was begun")
    assert (path / "file").read_text() == "old"
    assert kept_aside(path) is None
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_gone_after_the_next(tmp_path: Path) -> None:
    path = tmp_path / "data"
    killed(path, "writing")
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_folder(path, force=True) as temporary:
        assert list(temporary.iterdir()) == []
        (temporary / "file").write_text("new")
    assert list(tmp_path.iterdir()) == [path]
    killed(path, "file")
    assert len(list(path.iterdir())) == 3  # file, the temporary one, its guard
    write_json(path / "a.json", {})
    assert sorted(entry.name for entry in path.iterdir()) == ["a.json", "file"]


def test_a_temporary_file_in_use_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first:
        first.write_text("a")
        with atomic_path(tmp_path / "b") as second:
            second.write_text("b")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["a", "b"]


def test_what_another_program_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytest.raises(UsageError, match="exists already"), atomic_folder(path) as temporary:
        (temporary / "file").write_text("new")
        path.mkdir()
        (path / "file").write_text("another's")
    assert (path / "file").read_text() == "another's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_named_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "no" / "lists.csv"
    with pytest.raises(UsageError, match="does not exist") as error, atomic_path(path):
        pytest.fail("the work was begun")
    assert str(path.parent) in str(error.value)


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"), atomic_path(tmp_path):
        pytest.fail("the work was begun")


def test_what_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(UsageError, match="exists already") as refusal, atomic_folder(tmp_path):
        pytest.fail("the work was begun")
    assert "--force" in refusal.value.remedy


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.mkdir()
    with atomic_folder(path) as temporary:
        (temporary / "file").touch()
    assert (path / "file").exists()


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        refuse_existing(path, force=True)


def test_force_does_not_replace_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds other things"):
        refuse_existing(tmp_path, force=True, marker="manifest.json")
    (tmp_path / "manifest.json").touch()
    refuse_existing(tmp_path, force=True, marker="manifest.json")


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "手机", "counts": [1, 2.5, None]}
    write_json(path, value)
    assert read_json(path, "manifest") == value


def test_json_that_no_other_reader_would_take_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1', b"[1, 2]", b"\xff\xfe{}", b"null"], ids=repr
)
def test_damaged_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="manifest") as error:
        read_json(path, "manifest")
    assert str(path) in str(error.value)
    assert "damaged" in str(error.value)
    assert "\n" not in str(error.value)


def test_json_that_is_missing_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="No such file"):
        read_json(tmp_path / "none.json", "manifest")


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": {"b": 1}})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": {"b": 1}}
    assert os.linesep in text
