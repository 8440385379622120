"""The whole preparation: read → reject → filter → dedupe → k-core → split → index → write."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from mbrec.columns import BEHAVIOR, ITEM_ID, SPLITS, USER_ID
from mbrec.data_prep import cleaning, sources, split
from mbrec.data_prep.clock import window
from mbrec.data_prep.engine import DuckEngine
from mbrec.data_prep.funnel import READ, Funnel, FunnelStep, measure
from mbrec.data_prep.inputs import find_inputs
from mbrec.data_prep.kcore import Core, core_filter
from mbrec.data_prep.layout import Layout, Log
from mbrec.data_prep.lines import LineReader
from mbrec.data_prep.options import PrepOptions, Settings, settle
from mbrec.data_prep.rejects import refuse_rejects, write_rejects
from mbrec.data_prep.writing import write_tables
from mbrec.dataset import REJECTS, PreparedDataset, check_behaviors, write_dataset
from mbrec.errors import DataError, UsageError
from mbrec.files import refuse_existing, sha256
from mbrec.versions import versions

_EVENTS = "events"


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
    refuse_existing(options.out, force=options.force)
    paths = find_inputs(options.inputs)
    log = sources.describe(options.source, paths, options.mapping, settings.behaviors)
    job = _Job.plan(options, settings, log, listener or Listener())
    with write_dataset(options.out, force=options.force) as writer:
        work = writer.folder / "work"
        work.mkdir()
        with DuckEngine(work, options.memory_limit) as engine:
            manifest = job.run(engine, writer.folder)
        shutil.rmtree(work)
        complete = writer.finish(job.behaviors, manifest)
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
    behaviors: tuple[str, ...]
    """The cascade; shrinks if the source's own has names that the log does not."""
    names: tuple[str, ...]
    """Name of every behavior code: the cascade, then what else the format knows."""
    explicit: bool
    """Whether the caller named the cascade."""

    @classmethod
    def plan(cls, options: PrepOptions, settings: Settings, log: Log, listener: Listener) -> _Job:
        behaviors = check_behaviors(settings.behaviors or log.behaviors)
        for name in behaviors:
            if name not in log.known:
                close = difflib.get_close_matches(name, log.known, 1)
                hint = f"Did you mean {close[0]}? " if close else ""
                raise UsageError(
                    f"This log has no behavior {name!r}.", f"{hint}It has {', '.join(log.known)}."
                )
        others = [name for name in log.known if name not in behaviors]
        job = cls(
            options,
            settings,
            log,
            listener,
            Funnel(listener.step),
            behaviors,
            (*behaviors, *others),
            explicit=bool(options.behaviors or options.mapping.behaviors),
        )
        job._check_columns()
        return job

    def run(self, engine: DuckEngine, folder: Path) -> dict[str, Any]:
        """Write the tables of the dataset into `folder`; give its manifest, as far as known."""
        inputs = [self._read(engine, number) for number in range(len(self.log.layouts))]
        events = engine.table(_EVENTS)
        events = self._clean(engine, events, sum(entry["rows"] for entry in inputs), folder)
        events = self._core(engine, events)
        events, parts = self._split(engine, events)
        write_tables(engine, events, self.names, folder)
        return {
            "source": self.options.source,
            "options": self._record(),
            "inputs": inputs,
            "funnel": self.funnel.records(),
            "counts": self.funnel.totals(),
            "split": parts,
            "versions": versions(),
        }

    def _read(self, engine: DuckEngine, number: int) -> dict[str, Any]:
        """Append the typed rows of one file to the events; give its entry for the manifest."""
        layout = self.log.layouts[number]
        if layout.parquet:
            fields = cleaning.fields_of_parquet(engine.parquet(layout.path), layout)
            engine.append(_EVENTS, cleaning.typed(fields, layout, self.names, number))
            rows = _parquet_rows(layout)
            self.listener.reading(layout.path, rows)
        else:
            reader = LineReader(layout, self.listener.reading)
            with engine.lines(reader) as lines:
                fields = cleaning.fields_of_lines(lines, layout)
                engine.append(_EVENTS, cleaning.typed(fields, layout, self.names, number))
            rows = reader.rows
        path = layout.path
        return {
            "file": str(path),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "rows": rows,
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
        reasons = refuse_rejects(engine, events, paths, self.options.max_rejects)
        write_rejects(engine, events, paths, folder / REJECTS)
        first, last = window(self.settings.start, self.settings.end, self.log.zone)
        events, filters = cleaning.filtered(events, len(self.behaviors), first, last)
        steps = measure(engine, events, filters, self.names)
        self._leave_out_missing(steps[0])
        self.funnel.add(replace(steps[0], detail=reasons))
        for step in steps[1:]:
            self.funnel.add(step)
        used = events.filter(events[cleaning.FILTER] == len(filters))
        given = self.settings.split == "given"
        single = cleaning.deduplicated(
            self._with_ids(engine, used), self.settings.keep, split_given=given
        )
        kept = engine.store(single)
        engine.drop(engine.table(_EVENTS))
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
        """Take behaviors without any row out of a default cascade; refuse them in a named one."""
        missing = [name for name in self.behaviors if name not in valid.behaviors]
        if not missing or valid.rows == 0:
            return
        left = tuple(name for name in self.behaviors if name not in missing)
        found = ", ".join(f"{name} {rows:,}" for name, rows in valid.behaviors.items())
        if self.explicit or self.behaviors[-1] in missing:
            raise DataError(
                f"The log has no rows of {' and '.join(missing)}; it has {found}.",
                f"Name what it has: --behaviors {','.join(left) or '…'}.",
            )
        self.listener.note(
            f"The log has no rows of {' and '.join(missing)}, which is left out of the cascade "
            f"(as --behaviors {','.join(left)} would)."
        )
        self.behaviors = left

    def _after_duplicates(self, engine: DuckEngine, kept: ir.Table) -> FunnelStep:
        before = self.funnel.steps[-1]
        groups = engine.fetch(kept.group_by(BEHAVIOR).agg(rows=kept.count()).order_by(BEHAVIOR))
        left = {self.names[group[BEHAVIOR]]: group["rows"] for group in groups}
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
        target = self.names.index(self.behaviors[-1]) if self.settings.core_on == "target" else None
        core = Core(self.settings.min_user, self.settings.min_item, target)
        if not core.min_user and not core.min_item:
            return events
        numbered, rounds = core_filter(engine, events, core)
        if not rounds:
            return events
        numbered = engine.store(numbered)
        engine.drop(events)
        for step in measure(engine, numbered, rounds, self.names):
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

    def _check_columns(self) -> None:
        protocol = self.settings.split
        if protocol == "given" and not self.log.has_split:
            raise UsageError(
                "The split is to be given, but no column says it.", "Name it with --split-col."
            )
        window_asked = self.settings.start is not None or self.settings.end is not None
        if self.log.has_time or (protocol == "given" and not window_asked):
            return
        what = "A time window" if protocol == "given" else f"The split {protocol}"
        raise UsageError(
            f"{what} needs times, and the log has no time column.",
            "Name it with --time-col, or use --split given with --split-col.",
        )

    def _record(self) -> dict[str, Any]:
        """The options as the manifest has them: all that shapes the data, nothing else."""
        record = asdict(self.settings)
        record |= {
            "behaviors": list(self.behaviors),
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


def _parquet_rows(layout: Layout) -> int:
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(layout.path).num_rows
    return rows


def summary(dataset: PreparedDataset) -> dict[str, Any]:
    """What a script wants to know of a new dataset: the manifest without the machine's part."""
    keys: Sequence[str] = ("source", "behaviors", "counts", "split", "funnel", "content_hash")
    return {"out": str(dataset.path), **{key: dataset.manifest[key] for key in keys}}
