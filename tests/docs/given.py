"""What pages suppose to be there: logs, datasets and runs, small, made once."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mbrec.config import from_dict
from mbrec.data_prep import PrepOptions, prepare
from mbrec.data_prep.synth import SynthOptions, write_log
from mbrec.evaluation import evaluate_run
from mbrec.training import train_run

ROOT = Path(__file__).parents[2]
USERS, ITEMS = ("100", "1234"), ("4198227",)  # ids that pages speak of
JD = ("click", "favorite", "purchase")


def make_stock(stock: Path) -> Path:
    """A folder with all that `give` hands out."""
    write_log(stock / "log.csv", SynthOptions("ub", 160, 60, 9_000, 3))
    _rename(stock / "log.csv")
    for name in ("data", "runs", "jd"):
        (stock / name).mkdir()
    prepare(PrepOptions("ub", (str(stock / "log.csv"),), stock / "data/ub"))
    split_pairs(stock)
    prepare(PrepOptions("given", (str(stock / "jd"),), stock / "data/jd", behaviors=JD))
    for name, method in (("ub", "bigel"), ("pop", "mostpop")):
        settings = {"method": method, "device": "cpu", "train": {"epochs": 2}}
        run = train_run(stock / "data/ub", stock / "runs" / name, from_dict(settings))
        evaluate_run(run.path)
    return stock


def split_pairs(stock: Path) -> None:
    """The rows of the log as files of a published split, `<behavior>.<part>.txt`."""
    names = {"pv": "click", "fav": "favorite", "buy": "purchase"}
    pairs = {name: dict[tuple[str, str], None]() for name in names.values()}
    with (stock / "log.csv").open(newline="") as source:
        for user, item, _, code, _ in csv.reader(source):
            if code in names:
                pairs[names[code]][user, item] = None
    for name, found in pairs.items():
        for part, every in (("train", (0, 1, 2)), ("valid", (3,))):
            lines = [f"{user} {item}\n" for n, (user, item) in enumerate(found) if n % 4 in every]
            (stock / "jd" / f"{name}.{part}.txt").write_text("".join(lines))


def give(name: str, stock: Path, folder: Path) -> None:
    """Put what a page supposes into its folder.

    Raises:
        KeyError: It supposes something unknown.
    """
    GIVEN[name](stock, folder)


def _shop(stock: Path, folder: Path) -> None:
    shutil.copytree(stock / "data", folder / "data")
    shutil.copytree(stock / "data/ub", folder / "data/shop")
    shutil.copytree(stock / "runs", folder / "runs")
    _log(stock, folder, "log.csv")
    (folder / "vip.txt").write_text("\n".join(USERS) + "\n")
    new = [f"new-{n},4198227,{behavior}" for n in range(3) for behavior in ("click", "purchase")]
    (folder / "today.csv").write_text("\n".join(["user_id,item_id,behavior", *new, ""]))
    rows = [f"{u},{u + n},click,{part}" for u in range(40) for n, part in enumerate(PARTS)]
    rows += [f"{u},{u + n},purchase,{part}" for u in range(40) for n, part in enumerate(PARTS)]
    (folder / "split.csv").write_text("\n".join(["user_id,item_id,behavior,part", *rows, ""]))


PARTS = ("train", "train", "valid", "test")


def _log(stock: Path, folder: Path, name: str) -> None:
    shutil.copy(stock / "log.csv", folder / name)


def _user_behavior(stock: Path, folder: Path) -> None:
    _log(stock, folder, "UserBehavior.csv")
    with gzip.open(folder / "UserBehavior.csv.gz", "wb") as packed:
        packed.write((stock / "log.csv").read_bytes())


def _jd(stock: Path, folder: Path) -> None:
    shutil.copytree(stock / "jd", folder / "jd")


def _repository(stock: Path, folder: Path) -> None:
    for name in ("configs", "benchmarks", "tests", "tools"):
        (folder / name).symlink_to(ROOT / name)


def _rename(log: Path) -> None:
    """Give some users and items of the log the ids that pages speak of."""
    with log.open(newline="") as source:
        rows = list(csv.reader(source))
    old = sorted({row[0] for row in rows})[: len(USERS)]
    user_ids = dict(zip(old, USERS, strict=True))
    user_ids |= {new: one for one, new in user_ids.items()}
    often = max({row[1] for row in rows}, key=[row[1] for row in rows].count)
    item_ids = {often: ITEMS[0]}
    with log.open("w", newline="") as target:
        csv.writer(target, lineterminator="\n").writerows(
            [user_ids.get(user, user), item_ids.get(item, item), *rest]
            for user, item, *rest in rows
        )


GIVEN: dict[str, Callable[[Path, Path], None]] = {
    "shop": _shop,
    "UserBehavior": _user_behavior,
    "UserBehavior_fav_cart_buy": partial(_log, name="UserBehavior_fav_cart_buy.csv.gz"),
    "jd": _jd,
    "repository": _repository,
}
