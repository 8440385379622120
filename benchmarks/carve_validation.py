"""Carve validation parts out of training pairs, for published splits that hold out one behavior.

    python benchmarks/carve_validation.py FOLDER OUT

FOLDER has `<behavior>.train.txt[.gz]` for every behavior and `<behavior>.valid.txt[.gz]` for some,
lines of "user item". For every behavior without a validation part, one pair of each user with at
least three moves there, drawn by a fixed seed. All other files are copied; OUT is what
`mbrec prep --source given` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

SEED = 1
LEAST = 3  # training pairs of a user in the behavior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    for source in sorted(arguments.folder.glob("*.train.txt*")):
        behavior = source.name.partition(".")[0]
        pairs = read(source)
        given = sorted(arguments.folder.glob(f"{behavior}.valid.txt*"))
        if given:
            train, valid = pairs, read(given[0])
        else:
            train, valid = carve(pairs)
        for part, rows in (("train", train), ("valid", valid)):
            rows.to_csv(
                arguments.out / f"{behavior}.{part}.txt", sep=" ", header=False, index=False
            )
        print(f"{behavior}: {len(train)} training pairs, {len(valid)} held out")


def read(path: Path) -> pd.DataFrame:
    """Distinct pairs of a file."""
    pairs = pd.read_csv(path, sep=r"\s+", header=None, names=["user", "item"])
    return pairs.drop_duplicates(ignore_index=True)


def carve(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs without one of each user with enough of them, and those."""
    sizes = pairs.groupby("user")["item"].transform("size")
    held = pairs[sizes >= LEAST].groupby("user").sample(1, random_state=SEED).index
    return pairs.drop(held), pairs.loc[held]


if __name__ == "__main__":
    main()
