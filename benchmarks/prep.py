"""A UserBehavior log to a dataset with its graph: mbrec against a plain pandas script.

    python benchmarks/prep.py --rows 20000000 --turns 1

Each contender runs in a process of its own, in turn: it reads the log, keeps the first row of every
user, item and behavior, cuts to the 5-core of all behaviors together, splits 8:1:1 in time, numbers
users and items and writes tables and graph. Both results are compared before any figure is shown.
Peak memory is the resident set of the process, libraries included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import Times, goal, machine

CODES = ["pv", "fav", "cart", "buy"]
NAMES = ["click", "favorite", "cart", "purchase"]
MINIMUM = 5


def ours(log: Path, out: Path) -> None:
    """Prepare the log with mbrec."""
    from mbrec.data_prep import PrepOptions, prepare

    prepare(
        PrepOptions(
            "ub", (str(log),), out, min_user=MINIMUM, min_item=MINIMUM, core_on="any", force=True
        )
    )


def pandas_script(log: Path, out: Path) -> None:
    """What one would write without a package for it."""
    import pandas as pd

    out.mkdir(parents=True)
    rows = pd.read_csv(log, names=["user", "item", "category", "code", "time"])
    rows = rows.drop(columns="category")
    rows["behavior"] = rows.pop("code").map({code: n for n, code in enumerate(CODES)})
    rows = rows.sort_values("time").drop_duplicates(["user", "item", "behavior"])
    while True:
        before = len(rows)
        for column, other in (("item", "user"), ("user", "item")):
            pairs = rows[["user", "item"]].drop_duplicates()
            counts = pairs.groupby(column)[other].size()
            rows = rows[rows[column].isin(counts.index[counts >= MINIMUM])]
        if len(rows) == before:
            break
    ordered = rows["time"].sort_values().to_numpy()
    cuts = [ordered[int(len(ordered) * share / 10)] for share in (8, 9)]
    rows["split"] = (rows["time"] >= cuts[0]).astype("int8") + (rows["time"] >= cuts[1])
    users, items = (rows[name].drop_duplicates().sort_values() for name in ("user", "item"))
    for name, ids in (("user", users), ("item", items)):
        index = pd.Series(range(len(ids)), index=ids.to_numpy(), dtype="int32")
        rows[f"{name}_idx"] = rows[name].map(index).astype("int32")
        index.rename_axis(f"{name}_id").reset_index(name=f"{name}_idx").to_parquet(
            out / f"{name}s.parquet"
        )
    rows = rows.sort_values(["behavior", "split", "user_idx", "item_idx"])
    table = rows[["user_idx", "item_idx", "behavior", "time", "split"]]
    table.to_parquet(out / "interactions.parquet", index=False)
    save_graph(table[table["split"] == 0], len(users), len(items), out / "graph.bin")


def save_graph(train: Any, users: int, items: int, path: Path) -> None:
    """Write the heterograph: a relation per behavior and direction, and a merged one."""
    import torch

    from mbrec.backend import dgl

    edges = {}
    groups = {name: train[train["behavior"] == code] for code, name in enumerate(NAMES)}
    groups["global"] = train[["user_idx", "item_idx"]].drop_duplicates()
    for name, group in groups.items():
        ends = [torch.tensor(group[f"{node}_idx"].to_numpy()) for node in ("user", "item")]
        edges["user", name, "item"] = tuple(ends)
        edges["item", f"{name}-by", "user"] = tuple(reversed(ends))
    graph = dgl().heterograph(edges, {"user": users, "item": items})
    dgl().save_graphs(str(path), [graph])


CONTENDERS = {"mbrec": ours, "pandas": pandas_script}


def measured(name: str, log: Path, out: Path) -> dict[str, float]:
    """Run one contender in a process of its own; its seconds and peak memory in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    call = [sys.executable, __file__, "--contender", name, "--log", str(log), "--out", str(out)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def contend(name: str, log: Path, out: Path) -> None:
    """The process of one contender; what it imports does not count as time."""
    for module in ("pandas", "mbrec.data_prep.pipeline"):
        importlib.import_module(module)
    from mbrec.backend import dgl

    dgl()
    start = time.perf_counter()
    CONTENDERS[name](log, out)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": taken, "bytes": peak}))


def check_equal(mine: Path, other: Path) -> int:
    """Compare the datasets of both contenders, row for row; give the number of rows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for name in ("user", "item"):
        one, two = (pq.read_table(f / f"{name}s.parquet")[f"{name}_id"] for f in (mine, other))
        if one.combine_chunks() != two.combine_chunks():
            raise SystemExit(f"The {name}s differ.")
    first = pq.read_table(mine / "interactions.parquet")
    second = pq.read_table(other / "interactions.parquet")
    names = {"behavior": pa.array(NAMES), "split": pa.array(["train", "valid", "test"])}
    for column in first.column_names:
        found = second["time" if column == "timestamp" else column].combine_chunks()
        wanted = first[column].combine_chunks()
        found = names[column].take(found) if column in names else found
        if not pc.all(pc.equal(wanted, found)).as_py() or len(wanted) != len(found):
            raise SystemExit(f"The column {column} differs.")
    return len(first)


def synthetic_log(path: Path, rows: int) -> None:
    """Users and items in the proportions of the published log, which has 100 M rows."""
    from mbrec.data_prep.synth import SynthOptions, write_log

    users, items = max(rows // 100, 10), max(rows // 24, 10)
    print(f"Writing a log of {rows:,} rows …", file=sys.stderr)
    write_log(path, SynthOptions(users=users, items=items, events=rows))


def main() -> None:
    """Read the options; prepare in turns, each in a process of its own; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--only-ours", action="store_true", help="time and memory alone")
    parser.add_argument("--folder", type=Path, help="for log and results  [default: temporary]")
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help="use it, and write it if it is not there")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.log, options.out)
        return
    names = ["mbrec"] if options.only_ours else list(CONTENDERS)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="mbrec-prep-") as folder:
        log = options.log or Path(folder) / "UserBehavior.csv"
        if not log.exists():
            synthetic_log(log, options.rows)
        for _ in range(options.turns):
            for name in names:
                results[name].append(measured(name, log, Path(folder) / name))
        kept = None
        if not options.only_ours:
            kept = check_equal(Path(folder) / "mbrec", Path(folder) / "pandas")
    report(options.rows, kept, results)


def report(rows: int, kept: int | None, results: dict[str, list[dict[str, float]]]) -> None:
    """Print seconds, their ratios and peak memory (bytes) of all contenders."""
    print(f"{machine()}. {rows:,} rows" + ("" if kept is None else f", {kept:,} kept, equal"))
    times = Times({name: [run["seconds"] for run in runs] for name, runs in results.items()})
    peaks = {name: max(run["bytes"] for run in runs) for name, runs in results.items()}
    times.show("mbrec", unit=1.0, label="s")
    for name, peak in peaks.items():
        per_row = 1e6 * times.median(name) / rows
        print(f"{name}: {per_row:.2f} µs per row, peak memory {peak / 1e9:.2f} GB")
    if "pandas" in results:
        goal("pandas / mbrec, time", times.ratio("pandas", "mbrec"), 3)
        goal("mbrec / pandas, memory", peaks["mbrec"] / peaks["pandas"], 0.5, at_most=True)


if __name__ == "__main__":
    main()
