"""Datasets and runs from strangers: nothing in them is unpickled, or trusted for its hash."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import mbrec.cli
import mbrec.data_prep
from mbrec.dataset import PreparedDataset
from mbrec.guard import read_ids

Mbrec = Callable[..., Any]
Bless = Callable[[Path, str], None]

FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle",
    "yaml.load", "eval", "exec", "compile",
}  # fmt: skip


def sources() -> Iterator[Path]:
    for package in (mbrec, mbrec.cli, mbrec.data_prep):
        assert package.__file__
        yield from Path(package.__file__).parent.rglob("*.py")


def unpickling(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in FORBIDDEN_MODULES:
                yield node.module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS or name.endswith((".to_pickle", ".read_pickle")):
                yield name
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            loads = name in ("np.load", "numpy.load")
            if words.get("allow_pickle", "False" if not loads else "True") != "False":
                yield f"{name} with allow_pickle"


def test_no_source_file_unpickles() -> None:
    files = sorted(set(sources()))
    assert len(files) > 100
    assert {file.parent.name for file in files} >= {"mbrec", "cli", "data_prep", "models"}
    found = [
        (file.name, name) for file in files for name in unpickling(ast.parse(file.read_text()))
    ]
    assert not found


def test_the_search_for_pickles_finds_one() -> None:
    tricks = (
        "import pickle, os\nfrom joblib import load\ntorch.load(x)\nnp.load(x, allow_pickle=True)"
    )
    found = set(unpickling(ast.parse(tricks)))
    assert found == {"pickle", "joblib", "torch.load", "np.load with allow_pickle"}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_the_payload_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "fired")))
    assert (tmp_path / "fired").is_dir()


def artefacts(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_a_planted_pickle_is_refused_unread(
    copy: Path, mbrec: Mbrec, tmp_path: Path, bless: Bless
) -> None:
    fired = tmp_path / "fired"
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(pickle.dumps(Payload(fired)))
    torch.save(Payload(fired), packed)
    calls = {
        "data": [("evaluate", copy / "run", "--data", copy / "data")],
        "run": [
            ("compare", copy / "run", copy / "rival"),
            ("evaluate", copy / "run", "--data", copy / "data"),
            ("train", copy / "data", "--out", copy / "run", "--resume"),
        ],
    }
    for folder, index in (("data", "manifest.json"), ("run", "run.json")):
        for name in artefacts(copy / folder):
            path = copy / folder / name
            whole, said = path.read_bytes(), (copy / folder / index).read_bytes()
            shutil.copy(packed if name.endswith("safetensors") else plain, path)
            if name != index:
                bless(copy / folder, index)
            answers = [mbrec(*call) for call in calls[folder]]
            assert not fired.exists(), name
            assert all("Traceback" not in a.err for a in answers), name
            assert all("a way it should not" not in a.err for a in answers), (name, answers)
            read = name not in ("rejects.parquet", "graph.bin", "evaluation.test.json")
            assert read == any(a.code == 1 for a in answers), (name, answers)
            path.write_bytes(whole)
            (copy / folder / index).write_bytes(said)


def test_a_pickled_graph_with_the_right_hash_is_not_trusted(
    copy: Path, tmp_path: Path, bless: Bless
) -> None:
    (copy / "data" / "graph.bin").write_bytes(pickle.dumps(Payload(tmp_path / "fired")))
    bless(copy / "data", "manifest.json")
    graph = PreparedDataset(copy / "data").graph()
    assert graph.num_nodes("user") == 8
    assert not (tmp_path / "fired").exists()


def test_a_graph_that_leaks_test_rows_is_not_trusted(copy: Path, bless: Bless) -> None:
    honest = PreparedDataset(copy / "data").graph()
    shutil.copy(copy / "other-data" / "graph.bin", copy / "data" / "graph.bin")
    bless(copy / "data", "manifest.json")
    graph = PreparedDataset(copy / "data").graph()
    for way in honest.canonical_etypes:
        assert torch.equal(graph.edges(etype=way)[1], honest.edges(etype=way)[1])


def test_parquet_does_not_unpickle_extension_types(tmp_path: Path) -> None:
    marks = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Payload(tmp_path / "fired")),
    }
    field = pa.field("user_id", pa.int64(), metadata=marks)
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table([pa.array([1, 2])], schema=pa.schema([field])), path)
    assert read_ids(path, "user_id").to_pylist() == [1, 2]
    assert not (tmp_path / "fired").exists()
