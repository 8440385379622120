"""Data that is split already: files named ``<behavior>.<train|valid|test>.<txt|csv|parquet>``.

Each line is a pair of ids, separated by blanks, a tab or a comma; a header of two names such as
``user_id,item_id`` is skipped. Parquet files need the columns user_id and item_id. Any file may
be packed. Missing parts are empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq

from mbrec.columns import ITEM_ID, SPLITS, USER_ID, Split
from mbrec.data_prep.layout import Layout, Log
from mbrec.data_prep.lines import first_line
from mbrec.errors import DataError, UsageError

CASCADE = ("click", "favorite", "cart", "purchase")
ALIASES = {
    "pv": "click",
    "view": "click",
    "fav": "favorite",
    "favourite": "favorite",
    "buy": "purchase",
}
"""Other spellings in file names; a name that is asked for as it stands is left alone."""

_NAME = re.compile(rf"(.+)\.({'|'.join(SPLITS)})\.(txt|csv|tsv|parquet)(\.\w+)?")
_HEADERS = ({USER_ID, "user", "uid"}, {ITEM_ID, "item", "iid"})


def describe(paths: Sequence[Path], asked: Sequence[str] | None) -> Log:
    """Describe files whose names say behavior and split.

    Args:
        paths: The files; those that are named otherwise are no part of the data.
        asked: The cascade the caller named, if any.

    Raises:
        DataError: No file has such a name, or no behavior has a training part.
        UsageError: A behavior has no place in the usual cascade, and none was named.
    """
    layouts = [layout for path in paths if (layout := _layout(path, asked or ())) is not None]
    if not layouts:
        raise DataError(
            f"{paths[0].parent} holds no file named <behavior>.<train|valid|test>.<txt|csv>.",
            "Rename the files, e.g. click.train.txt, or use another --source.",
        )
    found = dict.fromkeys(layout.fixed_behavior for layout in layouts)
    if not any(layout.fixed_split == "train" for layout in layouts):
        raise DataError("No behavior has a training file.", "Name it, e.g., click.train.txt.")
    if asked is None and (odd := [name for name in found if name not in CASCADE]):
        raise UsageError(
            f"Where does {', '.join(odd)} stand in the cascade?",
            "Name all behaviors in order, target last, with --behaviors.",
        )
    behaviors = tuple(name for name in CASCADE if name in found)
    return Log(tuple(layouts), behaviors, "UTC", known=tuple(found))


def _layout(path: Path, asked: Sequence[str]) -> Layout | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    behavior = match[1] if match[1] in asked else ALIASES.get(match[1], match[1])
    split = cast(Split, match[2])
    if match[3] == "parquet":
        names = pq.read_schema(path).names
        if not {USER_ID, ITEM_ID} <= set(names):
            raise DataError(
                f"{path} has the columns {', '.join(names)}.", "Name two user_id and item_id."
            )
        return Layout(
            path,
            user=USER_ID,
            item=ITEM_ID,
            fixed_behavior=behavior,
            fixed_split=split,
            parquet=True,
        )
    fields = re.split(r"[\s,]+", first_line(path).strip().lower())
    header = len(fields) == 2 and all(f in names for f, names in zip(fields, _HEADERS, strict=True))
    return Layout(
        path,
        user=0,
        item=1,
        width=2,
        blanks=True,
        header=header,
        fixed_behavior=behavior,
        fixed_split=split,
    )
