"""Put rows of given training files aside: for data that come without one of the parts.

    python benchmarks/hold_out.py ub_loo held --behaviors pv,fav,cart,buy

Reads `<behavior>.train.txt` of the first folder (packed or not; `user item`, blanks between) and
writes all parts into the second one. Rows of a `<behavior>.valid.txt` become the test part. Every
user then gives one pair per behavior, drawn at random, to each part that is still missing, as long
as two are left to train on; what `mbrec prep --source given` reads is the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PARTS = ("test", "valid")
LEFT = 2  # pairs of a user and behavior that stay for training


def read(folder: Path, name: str) -> pd.DataFrame | None:
    """The pairs of a file, packed or not; None if there is none."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return pd.read_csv(path, sep=r"\s+", header=None, names=["user", "item"], dtype=str)
    return None


def divide(train: pd.DataFrame, test: pd.DataFrame | None, seed: int) -> dict[str, pd.DataFrame]:
    """Part → pairs, each pair in one part.

    Args:
        train: Columns user and item.
        test: The same; None to draw one pair per user.
        seed: Of the drawing.
    """
    found = {} if test is None else {"test": test}
    rest = train.drop_duplicates().sample(frac=1.0, random_state=seed)
    for part in PARTS:
        if part in found:
            continue
        place = rest.groupby("user").cumcount()
        count = rest.groupby("user")["item"].transform("size")
        drawn = (place == 0) & (count > LEFT)
        found[part], rest = rest[drawn], rest[~drawn]
    return {"train": rest, **found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, write the parts, print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--behaviors", required=True, help="with commas between")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True)
    for behavior in options.behaviors.split(","):
        train = read(options.data, f"{behavior}.train.txt")
        if train is None:
            parser.error(f"there is no {behavior}.train.txt in {options.data}")
        parts = divide(train, read(options.data, f"{behavior}.valid.txt"), options.seed)
        for part, pairs in parts.items():
            path = options.out / f"{behavior}.{part}.txt"
            pairs.sort_index().to_csv(path, sep=" ", header=False, index=False)
        print(behavior, {part: len(pairs) for part, pairs in parts.items()})


if __name__ == "__main__":
    main()
