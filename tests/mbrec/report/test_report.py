"""What a reader of a report would lose."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mbrec.config import from_dict
from mbrec.data_prep.options import PrepOptions
from mbrec.data_prep.pipeline import prepare
from mbrec.dataset import PreparedDataset
from mbrec.errors import ArtefactError, DataError, UsageError
from mbrec.evaluation import SOURCE, evaluate_run
from mbrec.metrics import METRICS
from mbrec.report import write_report
from mbrec.report.blocks import short, shown
from mbrec.report.drawing import drawing, logarithmic, series
from mbrec.report.item_map import components
from mbrec.report.material import gather
from mbrec.report.measured import measure
from mbrec.report.report import SECTIONS
from mbrec.report.sample_users import chosen
from mbrec.run import Run
from mbrec.training import train_run

ALL = ["overview", "data", "learning", "metrics", "side-by-side", "slices", "gates", "map"]
ALL += ["users", "settings"]


def test_every_section_is_there_and_in_the_contents(page: Any) -> None:
    ids = [values["id"] for tag, values in page.tags if tag == "section"]
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert ids == ALL
    assert links == [f"#{key}" for key in ALL]


def test_the_page_asks_nobody_for_anything(page: Any) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed")]
    for tag, values in page.tags:
        assert not [name for name in values if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            assert re.match(r"#|data:|$", values.get(name, "")), (tag, values[name])
    assert "@import" not in page.text
    assert not re.search(r"url\((?!#)", page.text)
    policy = [v["content"] for t, v in page.tags if v.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_ids_are_found_once_and_what_refers_to_them_finds_them(page: Any) -> None:
    ids = [values["id"] for _, values in page.tags if "id" in values]
    asked = set(re.findall(r'(?:url\(|href=")#([^")]+)', page.text))
    assert len(ids) == len(set(ids))
    assert asked <= set(ids)


def test_figures_are_those_of_evaluate(page: Any, runs: list[Path], tmp_path: Path) -> None:
    for path in runs:
        shutil.copytree(path, tmp_path / path.name)
        summary = evaluate_run(tmp_path / path.name, split="valid").summary()
        for row in [*summary["behaviors"].values(), summary["macro"]]:
            for k in (5, 10, 20):
                for metric in METRICS:
                    assert row[f"{metric}@{k}"] in page.values
                    assert f"{row[f'{metric}@{k}']:.4f}" in page.by_section["metrics"]


def test_what_evaluate_has_stored_is_taken_and_is_the_same(
    page: Any, runs: list[Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(path, tmp_path / path.name)) for path in runs]
    for path in copies:
        evaluate_run(path, split="valid", slices=True)
    material = gather(copies, split="valid", data=None, sample_users=0, progress=None)
    assert all(subject.measured and subject.measured.stored for subject in material.subjects)
    write_report(copies, tmp_path / "report.html", users=3)
    again = type(page)((tmp_path / "report.html").read_text(encoding="utf-8"))
    for key in ("metrics", "slices", "side-by-side", "users"):
        assert again.by_section[key] == page.by_section[key]


def test_figures_of_an_earlier_training_are_not_shown(runs: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(runs[0], tmp_path / "run"))
    evaluate_run(path, split="valid", slices=True)
    run, file = Run(path), path / "per_user.valid.parquet"
    dataset = run.dataset(splits=("train", "valid"))
    table = pq.read_table(file)
    source = json.dumps({"dataset": run.dataset_hash, "scores": "of another training"})
    pq.write_table(table.replace_schema_metadata({SOURCE: source}), file)
    measured = measure(run, dataset, "valid")
    assert measured is not None and not measured.stored


def test_slices_of_other_figures_are_not_shown(runs: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(runs[0], tmp_path / "run"))
    right = evaluate_run(path, split="valid", slices=True).slices
    wrong = json.loads((path / "slices.valid.json").read_text())
    wrong["source"]["scores"] = "of another training"
    (path / "slices.valid.json").write_text(json.dumps(wrong))
    run = Run(path)
    measured = measure(run, run.dataset(splits=("train", "valid")), "valid")
    assert measured is not None and measured.stored
    assert measured.slices == right


def test_damaged_figures_are_named(runs: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (path / "per_user.valid.parquet").write_bytes(b"PAR1 not so")
    with pytest.raises(ArtefactError, match=r"per_user\.valid\.parquet is damaged"):
        write_report([path], tmp_path / "report.html")


def test_nothing_is_written_into_a_run(runs: list[Path], page_path: Path) -> None:
    for path in runs:
        names = {entry.name for entry in path.iterdir()}
        assert not [name for name in names if name.startswith(("evaluation", "per_user", "slices"))]


def test_a_page_on_validation_rows_never_lists_a_test_row(runs: list[Path]) -> None:
    material = gather(runs, split="valid", data=None, sample_users=3, progress=None)
    for dataset, _ in material.datasets:
        assert dataset.splits == ("train", "valid")


def test_sections_that_a_method_lacks_are_left_out(
    page: Any, runs: list[Path], tmp_path: Path
) -> None:
    write_report([runs[0]], tmp_path / "report.html", users=0)
    alone = type(page)((tmp_path / "report.html").read_text(encoding="utf-8"))
    ids = [values["id"] for tag, values in alone.tags if tag == "section"]
    assert ids == ["overview", "data", "learning", "metrics", "slices", *ids[5:]]
    assert not {"gates", "users", "side-by-side"} & set(ids)
    assert "does not learn by epochs" in " ".join(alone.by_section["learning"])


def test_a_run_whose_dataset_is_gone_still_has_a_page(
    make_dataset: Callable[..., PreparedDataset], page: Any, tmp_path: Path
) -> None:
    rows = [(u, i, "click", "valid" if i == u else "train") for u in range(4) for i in range(5)]
    dataset = make_dataset(rows, users=4, items=5, behaviors=("click",))
    train_run(dataset.path, tmp_path / "run", from_dict({"method": "mostpop"}))
    shutil.move(dataset.path, tmp_path / "moved")
    write_report([tmp_path / "run"], tmp_path / "gone.html")
    gone = type(page)((tmp_path / "gone.html").read_text(encoding="utf-8"))
    assert "say where it is with --data" in " ".join(gone.by_section["data"])
    assert "metrics" not in gone.by_section
    write_report([tmp_path / "run"], tmp_path / "there.html", data=tmp_path / "moved")
    there = type(page)((tmp_path / "there.html").read_text(encoding="utf-8"))
    assert "metrics" in there.by_section


def test_ids_from_a_log_are_text_and_nothing_else(page: Any, tmp_path: Path) -> None:
    user, item = "<script>alert({})</script>", '"><img src=https://evil.example/{}>\u202e'
    lines = ["user_id,item_id,behavior,timestamp"]
    lines += [
        f'{user.format(u)},"{item.format(i)}",{behavior},{100 + u + 10 * i}'.replace('""', '"""')
        for u in range(8)
        for i in range(8)
        if (u + i) % 3
        for behavior in ("click", "<b>$buy^2$</b>")
    ]
    (tmp_path / "log.csv").write_text("\n".join(lines), encoding="utf-8")
    prepare(
        PrepOptions(
            "csv",
            (str(tmp_path / "log.csv"),),
            tmp_path / "data",
            behaviors=("click", "<b>$buy^2$</b>"),
        )
    )
    run = tmp_path / "<svg onload=alert(1)>"
    steps = {"epochs": 1, "batch_size": 16}
    values = {"method": "lightgcn", "engine": "torch", "model": {"size": 4}, "train": steps}
    train_run(tmp_path / "data", run, from_dict(values))
    write_report([run], tmp_path / "report.html")
    hostile = type(page)((tmp_path / "report.html").read_text(encoding="utf-8"))
    tags = {tag for tag, _ in hostile.tags}
    assert not tags & {"script", "img", "b"}
    assert not [values for _, values in hostile.tags if "onload" in values]
    words = " ".join(hostile.words)
    assert "<script>alert(" in words and "<b>$buy^2$</b>" in words and "evil.example" in words
    assert "\u202e" not in hostile.text and "\\u202e" in hostile.text


def test_the_same_run_gives_the_same_page(runs: list[Path], tmp_path: Path) -> None:
    clock = re.compile(r"made \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    pages = []
    for name in ("first.html", "second.html"):
        write_report([runs[0]], tmp_path / name, users=1)
        pages.append(clock.sub("", (tmp_path / name).read_text(encoding="utf-8")))
    assert pages[0] == pages[1]


def test_gates_are_shown_by_behavior_and_dimension(page: Any) -> None:
    words = page.by_section["gates"]
    assert "cgf: mean per dimension" in words and "gce: mean per dimension" in words
    assert {"click", "favorite"} <= set(words)
    assert "0.0 %" in words  # closed


def test_task_weights_that_move_are_drawn(page: Any) -> None:
    assert "Task weights" in page.by_section["learning"]


def test_sample_users_are_spread_over_activity_and_not_chosen_by_luck(
    tiny_dataset: PreparedDataset,
) -> None:
    users = chosen(tiny_dataset, "valid", 4)
    assert len(set(users.tolist())) == 4
    assert (users == chosen(tiny_dataset, "valid", 4)).all()
    assert 23 not in chosen(tiny_dataset, "test", 24)  # has no test row
    train = tiny_dataset.train_relations().values()
    counts = np.sum([np.bincount(pairs.user_idx, minlength=24) for pairs in train], axis=0)
    assert (np.diff(counts[users]) >= 0).all()


def test_the_map_shows_the_principal_components() -> None:
    points = np.random.default_rng(3).normal(size=(50, 6)) * [9, 5, 1, 1, 1, 1]
    places, shares = components(points)
    centered = points - points.mean(0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    assert np.allclose(np.abs(places), np.abs(left[:, :2] * sizes[:2]))
    assert np.allclose(shares, (sizes**2 / (sizes**2).sum())[:2])
    assert np.allclose(components(points)[0], places)


def test_drawings_take_their_colors_and_font_from_the_page() -> None:
    with drawing() as drawn:
        drawn.axes.plot([1, 1000], [1, 1000], label="$a_b$ <i>", **series(0))
        logarithmic(drawn.axes, "x", "y")
        drawn.legend()
    svg = str(drawn.named("A & B").svg)
    assert "var(--c0)" in svg and "currentColor" in svg and "var(--grid)" in svg
    assert "#0072b2" not in svg and "font-family" not in svg and "http" not in svg
    assert "$a_b$ &lt;i&gt;" in svg and ">1,000<" in svg and "mathdefault" not in svg
    assert 'aria-label="A &amp; B"' in svg


def test_what_is_not_seen_is_shown_as_an_escape() -> None:
    assert shown("a\x1b[2J\u202eb\n c") == "a\\x1b[2J\\u202eb c"
    assert short("x" * 50) == "x" * 21 + "…"


def test_a_section_may_be_added_by_a_function(runs: list[Path]) -> None:
    material = gather(runs[:1], split="valid", data=None, sample_users=0, progress=None)
    keys = [section.key for build in SECTIONS if (section := build(material))]
    assert len(keys) == len(set(keys))


def test_wrong_calls_say_what_is_wrong(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No run is named"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"folder .* does not exist"):
        write_report(runs, tmp_path / "no" / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        write_report(runs, tmp_path)
    with pytest.raises(ArtefactError, match="is no run"):
        write_report([tmp_path], tmp_path / "report.html")


def test_a_split_without_rows_is_named(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    rows = [(u, i, "click", "valid" if i == u else "train") for u in range(4) for i in range(5)]
    dataset = make_dataset(rows, users=4, items=5, behaviors=("click",))
    train_run(dataset.path, tmp_path / "run", from_dict({"method": "mostpop"}))
    with pytest.raises(DataError, match=r"no test rows\. Take --split valid"):
        write_report([tmp_path / "run"], tmp_path / "report.html", split="test")
