"""What of a plan is done, what can be run now, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mbrec.bench.plan import Cell, Lane
from mbrec.bench.store import Record, Store
from mbrec.errors import UsageError


@dataclass(frozen=True)
class Standing:
    """How far a bench is."""

    done: int
    total: int  # as far as is known: a method that does not train needs one final run
    seconds_left: float | None  # None: nothing is known of how long a run takes


class Schedule:
    """What is done, what can be run now, and what is left.

    Args:
        lanes: The plan.
        store: What is done.
        only: The rows to run; all if empty.
        retry: Run the cells again that have failed.
        jobs: Cells at a time, for the estimate.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        store: Store,
        only: Sequence[str] = (),
        retry: bool = False,
        jobs: int = 1,
    ) -> None:
        self.lanes = [lane for lane in lanes if not only or lane.label in only]
        unknown = set(only) - {lane.label for lane in lanes}
        if unknown:
            raise UsageError(
                f"This bench has no method {min(unknown)!r}.",
                f"It has {', '.join(dict.fromkeys(lane.label for lane in lanes))}.",
            )
        self.store = store
        self._jobs = max(jobs, 1)
        self._retried: set[str] | None = set() if retry else None

    def record(self, cell: Cell) -> Record | None:
        """What is known of a cell; a failure that is to be tried again is not."""
        found = self.store.record(cell)
        if found is None or found["status"] != "failed" or self._retried is None:
            return found
        return found if cell.key in self._retried else None

    def done(self, cell: Cell) -> None:
        """A cell has just been run."""
        if self._retried is not None:
            self._retried.add(cell.key)

    def ready(self) -> Iterator[Cell]:
        """The cells that can be run now, each once."""
        seen = set()
        for lane in self.lanes:
            for cell in self._open(lane):
                if cell.key not in seen:
                    seen.add(cell.key)
                    yield cell

    def _open(self, lane: Lane) -> list[Cell]:
        trials = [cell for cell in lane.trials() if self.record(cell) is None]
        if trials or lane.error:
            return trials
        best = self.best(lane)
        finals = [] if best is None else self.finals(lane, best)
        return [cell for cell in finals if self.record(cell) is None]

    def best(self, lane: Lane) -> int | None:
        """The candidate that validation chose, the first of equals; None if all have failed.

        Also None while some trial has not been run: the choice is made once, among all.
        """
        if not lane.searched:
            return 0
        found = [(cell.trial, self.record(cell)) for cell in lane.trials()]
        if any(record is None for _, record in found):
            return None
        values = {
            trial: record["measured"]["valid"]["macro"][lane.spec.select]
            for trial, record in found
            if record is not None and record["status"] == "finished"
        }
        return max(values, key=lambda trial: values[trial]) if values else None

    def finals(self, lane: Lane, best: int) -> list[Cell]:
        """The final runs: with every seed, but one for what does not depend on it."""
        cells = lane.finals(best)
        known = [self.record(cell) for cell in (*lane.trials(), cells[0])]
        finished = [r for r in known if r is not None and r["status"] == "finished"]
        if finished and not any("epochs" in record for record in finished):
            return cells if cells[0].settings.order == "random" else cells[:1]
        unknown = not finished and not lane.searched and known[-1] is None
        return cells[:1] if unknown else cells  # the first run says whether seeds matter

    def standing(self) -> Standing:
        """How far the bench is."""
        done: set[str] = set()
        left: dict[str, float | None] = {}
        for lane in self.lanes:
            cells = self._expected(lane)
            records = {cell.key: self.record(cell) for cell in cells}
            finished = [record for record in records.values() if record is not None]
            done |= {key for key, record in records.items() if record is not None}
            seconds = _mean_seconds(finished)
            left.update({key: seconds for key, record in records.items() if record is None})
        left = {key: seconds for key, seconds in left.items() if key not in done}
        return Standing(len(done), len(done) + len(left), self._time(left, done))

    def _expected(self, lane: Lane) -> list[Cell]:
        """All cells of a lane, as far as is known; which candidate wins does not matter here."""
        if lane.error:
            return []
        trials, best = lane.trials(), self.best(lane)
        if best is not None:
            finals = self.finals(lane, best)
            seen = any(self.record(cell) is not None for cell in (*trials, finals[0]))
            return [*trials, *(finals if seen else lane.finals(best))]
        over = trials and all(self.record(cell) is not None for cell in trials)
        # The first seed's final run is a trial again where both are measured on the same rows.
        again = lane.dataset.report == "valid"
        return trials if over else [*trials, *lane.finals(0)[1 if again else 0 :]]

    def _time(self, left: Mapping[str, float | None], done: set[str]) -> float | None:
        known = [seconds for seconds in left.values() if seconds is not None]
        if not left:
            return 0.0
        if not known and not done:
            return None
        # Of a row that has not begun, as long as a run of the others took on average.
        others = self._average(done) if len(known) < len(left) else 0.0
        total = sum(others if seconds is None else seconds for seconds in left.values())
        return total / min(self._jobs, len(left))

    def _average(self, done: set[str]) -> float:
        cells = {cell.key: cell for lane in self.lanes for cell in self._expected(lane)}
        records = [self.record(cells[key]) for key in done if key in cells]
        return _mean_seconds([record for record in records if record is not None]) or 0.0


def _mean_seconds(records: Sequence[Record]) -> float | None:
    times = [float(record["wall_seconds"]) for record in records]
    return sum(times) / len(times) if times else None
