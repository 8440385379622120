"""What happens to the rows of a log after they are read, whoever computes it.

There are two ways, with the same results to the bit: `mbrec.data_prep.arrays` for what fits into
memory, and `mbrec.data_prep.tables` for what does not, on DuckDB or Spark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mbrec.data_prep.funnel import FunnelStep
from mbrec.data_prep.kcore import Core
from mbrec.data_prep.split import Cuts, Ratios


class Stages(Protocol):
    """The sound rows of a log on their way to a dataset; every method changes them."""

    def filter(
        self, names: Sequence[str], asked: int, start: int | None, end: int | None
    ) -> list[FunnelStep]:
        """Drop behaviors that are not asked for and what lies outside a time window.

        Args:
            names: Name of each behavior code.
            asked: Codes from here on are not asked for.
            start: First second of the window, if any.
            end: First second after it, if any.

        Returns:
            A step for the sound rows, and one per filter.
        """

    def deduplicate(self, keep: str, *, split_given: bool) -> dict[int, int]:
        """Leave one row per user, item and behavior; give behavior code → rows.

        It is that of the first split, then the first or last in time (`keep`). Nothing but the
        time is left to choose, so the result does not depend on the order of rows.
        """

    def core(self, core: Core, names: Sequence[str]) -> list[FunnelStep]:
        """Leave the k-core (see `mbrec.data_prep.kcore`); give a step per round."""

    def split_by_time(self, ratios: Ratios) -> Cuts:
        """Split at two cuts in time (see `mbrec.data_prep.split`).

        Raises:
            DataError: Too many rows share the first second to leave a training part.
        """

    def split_last_two(self) -> None:
        """Split leave-one-out (see `mbrec.data_prep.split`)."""

    def write(self, names: Mapping[int, str], folder: Path) -> None:
        """Number users and items in the order of their ids, and write the dataset's tables.

        Args:
            names: Behavior code → name, of those that the dataset has.
            folder: Where `mbrec.dataset.DatasetWriter` expects the files.
        """
