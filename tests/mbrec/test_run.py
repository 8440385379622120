"""A run is read back as it was written, or refused in one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError
from mbrec.guard import seal
from mbrec.run import EMBEDDINGS, ITEMS, RUN, USERS, Run, write_run_info
from mbrec.scoring import Factors

ARTEFACTS = (EMBEDDINGS, USERS, ITEMS)


def read_all(path: Path) -> None:
    """Open a run and everything in it."""
    run = Run(path)
    for behavior in run.behaviors:
        run.factors(behavior)
    assert len(run.user_ids) + len(run.item_ids)
    run.dataset()


def refused(path: Path) -> str:
    with pytest.raises(ArtefactError) as error:
        read_all(path)
    text = str(error.value)
    assert "\n" not in text
    assert error.value.remedy
    return text


def edit(path: Path, **changes: object) -> None:
    info = json.loads((path / RUN).read_text())
    (path / RUN).write_text(json.dumps(seal({**info, **changes})))


def test_what_was_written_is_read_back(tiny_run: Run, tiny_dataset: PreparedDataset) -> None:
    run = Run(tiny_run.path)
    assert (run.model, run.behaviors) == ("planted", tiny_dataset.behaviors)
    assert run.user_ids.to_pylist()[:2] == ["u0", "u1"]
    assert run.item_ids.to_pylist()[-1] == 1029
    factors = run.factors("purchase")
    assert (factors.num_users, factors.num_items) == (24, 30)
    assert run.dataset().content_hash == tiny_dataset.content_hash


def test_behaviors_may_share_their_embeddings(
    tiny_dataset: PreparedDataset, make_run: Callable[..., Run]
) -> None:
    shared = Factors(torch.ones(24, 2), torch.rand(30, 2))
    run = make_run(tiny_dataset, dict.fromkeys(tiny_dataset.behaviors, shared))
    assert torch.equal(run.factors("click").item_emb, run.factors("purchase").item_emb)


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], id="flipped"),
        pytest.param(lambda data: b"", id="emptied"),
    ],
)
def test_a_damaged_artefact_is_named(
    tiny_run: Run, name: str, damage: Callable[[bytes], bytes]
) -> None:
    file = tiny_run.path / name
    file.write_bytes(damage(file.read_bytes()))
    assert f"{file} is damaged" in refused(tiny_run.path)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_missing_artefact_is_named(tiny_run: Run, name: str) -> None:
    (tiny_run.path / name).unlink()
    assert f"{tiny_run.path / name} is missing" in refused(tiny_run.path)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_of_another_run_is_refused(
    tiny_run: Run,
    make_dataset: Callable[..., PreparedDataset],
    make_run: Callable[..., Run],
    name: str,
) -> None:
    dataset = make_dataset([(0, 0, "purchase", "train")], users=2, items=2)
    factors = dict.fromkeys(dataset.behaviors, Factors(torch.ones(2, 1), torch.ones(2, 1)))
    other = make_run(dataset, factors, "other")
    shutil.copy(other.path / name, tiny_run.path / name)
    assert f"{tiny_run.path / name} is damaged" in refused(tiny_run.path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema_version": 1}', "\udcff", '{"schema_version": 1, "a'],
)
def test_a_damaged_run_json_is_named(tiny_run: Run, text: str) -> None:
    (tiny_run.path / RUN).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(tiny_run.path / RUN) in refused(tiny_run.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"behaviors": None},
        {"behaviors": 3},
        {"behaviors": "click"},
        {"behaviors": [1, 2]},
        {"files": [1]},
        {"files": "x"},
        {"dataset": None},
        {"dataset": {"content_hash": "x"}},
        {"dataset": {"content_hash": "x", "path": 7}},
    ],
)
def test_a_run_json_with_unusable_fields_is_named(
    tiny_run: Run, changes: dict[str, object]
) -> None:
    edit(tiny_run.path, **changes)
    assert str(tiny_run.path / RUN) in refused(tiny_run.path)


def test_a_run_of_another_version_says_so(tiny_run: Run) -> None:
    edit(tiny_run.path, schema_version=99)
    assert "schema version 99" in refused(tiny_run.path)


def test_a_run_still_in_training_says_how_to_go_on(
    tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    write_run_info(tmp_path, {"model": "bigel", "seed": 1}, tiny_dataset, {})
    assert "--resume" in refused(tmp_path)


def test_what_is_no_run_says_so(tmp_path: Path, tiny_dataset: PreparedDataset) -> None:
    for path in (tmp_path, tmp_path / "gone", tiny_dataset.path):
        assert f"{path} is no run" in refused(path)


def test_an_unknown_behavior_lists_those_there_are(tiny_run: Run) -> None:
    with pytest.raises(ArtefactError, match="click, favorite, purchase"):
        tiny_run.factors("buy")


def test_embeddings_that_do_not_fit_the_ids_are_refused(
    tiny_dataset: PreparedDataset, make_run: Callable[..., Run]
) -> None:
    wrong = Factors(torch.ones(5, 2), torch.ones(30, 2))
    run = make_run(tiny_dataset, dict.fromkeys(tiny_dataset.behaviors, wrong))
    assert f"{run.path / EMBEDDINGS}" in refused(run.path)


def test_a_dataset_that_is_gone_asks_for_its_new_place(
    tiny_run: Run, tiny_dataset: PreparedDataset, tmp_path: Path
) -> None:
    edit(
        tiny_run.path,
        dataset={"path": str(tmp_path / "gone"), "content_hash": tiny_dataset.content_hash},
    )
    assert "--data" in refused(tiny_run.path)
