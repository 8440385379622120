"""The whole preparation: read → reject → filter → dedupe → k-core → split → index → write."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLITS, USER_ID
from mbrec.data_prep import cleaning, sources, split
from mbrec.data_prep.cascade import Cascade
from mbrec.data_prep.clock import window
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.funnel import READ, Funnel, FunnelStep, measure
from mbrec.data_prep.inputs import find_inputs
from mbrec.data_prep.kcore import Core, core_filter
from mbrec.data_prep.layout import Log
from mbrec.data_prep.options import PrepOptions, Settings, settle
from mbrec.data_prep.reading import read_files
from mbrec.data_prep.rejects import refuse_rejects, write_rejects
from mbrec.data_prep.writing import write_tables
from mbrec.dataset import MANIFEST, REJECTS, PreparedDataset, write_dataset
from mbrec.errors import DataError, UsageError
from mbrec.files import refuse_existing
from mbrec.versions import versions


class Listener:
    """Hears how a preparation goes on; this one ignores it. Override what you want to show."""

    def reading(self, path: Path, rows: int) -> None:
        """Some rows of a file were read, `rows` of it so far; may come from another thread."""

    def step(self, step: FunnelStep) -> None:
        """A step of the funnel is done."""

    def note(self, text: str) -> None:
        """Something that the caller should know, in a sentence."""


def prepare(options: PrepOptions, listener: Listener | None = None) -> PreparedDataset:
    """Turn a raw log into a prepared dataset.

    The log is read once; everything after that happens in an embedded database in a hidden
    folder beside `options.out`, which is gone at the end, whatever the end is.

    Args:
        options: What to prepare, and how.
        listener: Hears of every step.

    Returns:
        The dataset at `options.out`.

    Raises:
        UsageError: An option, or a combination of them, cannot be.
        DataError: The log cannot be read, has too many malformed rows, or a filter left nothing.
    """
    settings = settle(options)
    refuse_existing(options.out, force=options.force, marker=MANIFEST)
    paths = find_inputs(options.inputs)
    log = sources.describe(options.source, paths, options.mapping, settings.behaviors)
    job = _Job.plan(options, settings, log, listener or Listener())
    with write_dataset(options.out, force=options.force) as writer:
        scratch = writer.folder / "scratch"
        scratch.mkdir()
        with DuckEngine(scratch, options.memory_limit) as engine:
            manifest = job.run(engine, writer.folder)
        shutil.rmtree(scratch)
        complete = writer.finish(job.cascade.used, manifest)
        job.warn_of_empty_parts(complete["counts"]["splits"])
    return PreparedDataset(options.out)


@dataclass
class _Job:
    """One preparation under way."""

    options: PrepOptions
    settings: Settings
    log: Log
    listener: Listener
    funnel: Funnel
    cascade: Cascade
    window: tuple[int | None, int | None]
    """Unix seconds: from the first, up to but without the second."""

    @classmethod
    def plan(cls, options: PrepOptions, settings: Settings, log: Log, listener: Listener) -> _Job:
        """Check what can be checked before the log is read."""
        _check_columns(settings, log)
        explicit = bool(options.behaviors or options.mapping.behaviors)
        cascade = Cascade.choose(log, settings.behaviors, explicit=explicit)
        seconds = window(settings.start, settings.end, log.zone)
        return cls(options, settings, log, listener, Funnel(listener.step), cascade, seconds)

    def run(self, engine: DuckEngine, folder: Path) -> dict[str, Any]:
        """Write the tables of the dataset into `folder`; give its manifest, as far as known."""
        inputs, events = read_files(
            engine, self.log.layouts, self.cascade.names, self.listener.reading
        )
        events = self._clean(engine, events, sum(entry["rows"] for entry in inputs), folder)
        events = self._core(engine, events)
        events, parts = self._split(engine, events)
        write_tables(engine, events, self.cascade.names, folder)
        return {
            "source": self.options.source,
            "options": self._record(),
            "inputs": inputs,
            "funnel": self.funnel.records(),
            "counts": self.funnel.totals(),
            "split": parts,
            "versions": versions(),
        }

    def _clean(self, engine: DuckEngine, events: ir.Table, rows: int, folder: Path) -> ir.Table:
        """Reject, filter and deduplicate."""
        if rows == 0:
            raise DataError(
                f"{', '.join(str(layout.path) for layout in self.log.layouts)} has no rows.",
                "Check that the log was written or downloaded whole.",
            )
        self.funnel.add(FunnelStep(READ, dropped=0, rows=rows))
        paths = [layout.path for layout in self.log.layouts]
        reasons = refuse_rejects(engine, events, self.log.layouts, self.options.max_rejects)
        write_rejects(engine, events, paths, folder / REJECTS)
        numbered, filters = cleaning.filtered(events, self.cascade.asked, *self.window)
        steps = measure(engine, numbered, filters, self.cascade.names)
        self.funnel.add(replace(steps[0], detail=reasons))
        self._leave_out_missing(steps[0])
        for step in steps[1:]:
            self.funnel.add(step)
        used = numbered.filter(numbered[cleaning.FILTER] == len(filters))
        given = self.settings.split == "given"
        single = cleaning.deduplicated(
            self._with_ids(engine, used), self.settings.keep, split_given=given
        )
        kept = engine.store(single)
        engine.drop(events)
        self.funnel.add(self._after_duplicates(engine, kept))
        return kept

    def _with_ids(self, engine: DuckEngine, events: ir.Table) -> ir.Table:
        """Make integers of text ids where that loses nothing."""
        if self.log.layouts[0].ids == "integer":
            return events
        columns = (USER_ID, ITEM_ID)
        checks = {column: cleaning.integer_ids(events[column]) for column in columns}
        [whole] = engine.fetch(events.agg(**checks))
        return events.mutate(
            **{column: events[column].cast("int64") for column in columns if whole[column]}
        )

    def _leave_out_missing(self, valid: FunnelStep) -> None:
        """Take behaviors without any row out of the source's own cascade, and say so."""
        before, self.cascade = self.cascade, self.cascade.found_in(valid.behaviors)
        missing = [name for name in before.used if name not in self.cascade.used]
        if missing:
            left = ",".join(self.cascade.used)
            self.listener.note(
                f"The log has no rows of {' and '.join(missing)}: left out of the cascade, as "
                f"--behaviors {left} would."
            )

    def _after_duplicates(self, engine: DuckEngine, kept: ir.Table) -> FunnelStep:
        before = self.funnel.steps[-1]
        groups = engine.fetch(kept.group_by(BEHAVIOR).agg(rows=kept.count()).order_by(BEHAVIOR))
        left = {self.cascade.names[group[BEHAVIOR]]: group["rows"] for group in groups}
        gone = {name: before.behaviors[name] - rows for name, rows in left.items()}
        return replace(
            before,
            name="duplicates",
            dropped=sum(gone.values()),
            rows=sum(left.values()),
            behaviors=left,
            detail={name: rows for name, rows in gone.items() if rows},
        )

    def _core(self, engine: DuckEngine, events: ir.Table) -> ir.Table:
        target = self.cascade.target if self.settings.core_on == "target" else None
        core = Core(self.settings.min_user, self.settings.min_item, target)
        if not core.min_user and not core.min_item:
            return events
        numbered, rounds = core_filter(engine, events, core)
        if not rounds:
            return events
        numbered = engine.store(numbered)
        engine.drop(events)
        for step in measure(engine, numbered, rounds, self.cascade.names):
            self.funnel.add(step)
        return numbered.filter(numbered[cleaning.FILTER] == len(rounds))

    def _split(self, engine: DuckEngine, events: ir.Table) -> tuple[ir.Table, dict[str, Any]]:
        protocol, ratios = self.settings.split, self.settings.ratios
        cuts = None
        if protocol == "temporal":
            cuts = split.temporal_cuts(engine, events, ratios)
            events = split.temporal(events, cuts)
        elif protocol == "leave-one-out":
            events = split.leave_one_out(events)
        return events, split.describe(protocol, ratios, cuts)

    def _record(self) -> dict[str, Any]:
        """The options as the manifest has them: all that shapes the data, nothing else."""
        record = asdict(self.settings)
        record |= {
            "behaviors": list(self.cascade.used),
            "ratios": str(self.settings.ratios),
            "preset": self.options.preset,
            "max_rejects": self.options.max_rejects,
        }
        if self.options.source == "csv":
            record["mapping"] = self.options.mapping.model_dump()
        return record

    def warn_of_empty_parts(self, counts: dict[str, dict[str, int]]) -> None:
        """Say which behaviors lack rows in a part."""
        for part in SPLITS:
            empty = [name for name, rows in counts[part].items() if not rows]
            if empty:
                self.listener.note(f"No {part} rows of {', '.join(empty)}.")


def _check_columns(settings: Settings, log: Log) -> None:
    """Refuse a split or a time window that needs a column the log does not have."""
    if settings.split == "given" and not log.has_split:
        raise UsageError(
            "The split is to be given, but no column says it.", "Name it with --split-col."
        )
    window_asked = settings.start is not None or settings.end is not None
    if log.has_time or (settings.split == "given" and not window_asked):
        return
    what = "A time window" if settings.split == "given" else f"The split {settings.split}"
    raise UsageError(
        f"{what} needs times, and the log has no time column.",
        "Name it with --time-col, or use --split given with --split-col.",
    )


def summary(dataset: PreparedDataset) -> dict[str, Any]:
    """What a script wants to know of a new dataset: the manifest without the machine's part."""
    keys: Sequence[str] = ("source", "behaviors", "counts", "split", "funnel", "content_hash")
    return {"out": str(dataset.path), **{key: dataset.manifest[key] for key in keys}}
