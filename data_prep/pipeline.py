"""The whole preparation: read → reject → filter → dedupe → k-core → split → index → write."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mbrec.columns import SPLITS
from mbrec.data_prep import sources, split
from mbrec.data_prep.cascade import Cascade
from mbrec.data_prep.clock import window
from mbrec.data_prep.funnel import READ, Funnel, FunnelStep
from mbrec.data_prep.inputs import find_inputs
from mbrec.data_prep.intake import Place, read_log
from mbrec.data_prep.kcore import Core
from mbrec.data_prep.layout import Log
from mbrec.data_prep.options import PrepOptions, Settings, settle
from mbrec.data_prep.rejects import Rejects
from mbrec.data_prep.stages import Stages
from mbrec.dataset import FILES, MANIFEST, REJECTS, PreparedDataset, write_dataset
from mbrec.errors import DataError, UsageError
from mbrec.files import refuse_existing, refuse_loss
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

    The log is read once; everything after that happens in memory or, if it does not fit there or
    another engine is asked for, in a database in a hidden folder beside `options.out`, which is
    gone at the end, whatever the end is. The dataset is the same, to the byte, on every engine.

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
    refuse_existing(options.out, force=options.force, marker=MANIFEST, known=FILES)
    paths = find_inputs(options.inputs)
    refuse_loss(options.out, paths)
    log = sources.describe(options.source, paths, options.mapping, settings.behaviors)
    job = _Job.plan(options, settings, log, listener or Listener())
    with write_dataset(options.out, force=options.force) as writer:
        scratch = writer.folder / "scratch"
        scratch.mkdir()
        manifest = job.run(
            Place(options.engine, scratch, options.memory_limit, options.spark_master),
            writer.folder,
        )
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

    def run(self, place: Place, folder: Path) -> dict[str, Any]:
        """Write the tables of the dataset into `folder`; give its manifest, as far as known."""
        layouts, names = self.log.layouts, self.cascade.names
        with (
            Rejects(layouts, folder / REJECTS) as rejects,
            read_log(place, layouts, names, self.listener.reading, rejects) as (inputs, stages),
        ):
            self._clean(stages, rejects, sum(entry["rows"] for entry in inputs))
            self._core(stages)
            parts = self._split(stages)
            stages.write(self.cascade.codes, folder)
        return {
            "source": self.options.source,
            "options": self._record(),
            "inputs": inputs,
            "funnel": self.funnel.records(),
            "counts": self.funnel.totals(),
            "split": parts,
            "versions": versions(),
        }

    def _clean(self, stages: Stages, rejects: Rejects, rows: int) -> None:
        """Reject, filter and deduplicate."""
        if rows == 0:
            raise DataError(
                f"{', '.join(str(layout.path) for layout in self.log.layouts)} has no rows.",
                "Check that the log was written or downloaded whole.",
            )
        self.funnel.add(FunnelStep(READ, dropped=0, rows=rows))
        rejects.refuse(rows, self.options.max_rejects)
        sound, *steps = stages.filter(self.cascade.names, self.cascade.asked, *self.window)
        bad = rejects.sorted_reasons()
        self.funnel.add(replace(sound, dropped=sum(bad.values()), detail=bad))
        self._leave_out_missing(sound)
        for step in steps:
            self.funnel.add(step)
        given = self.settings.split == "given"
        left = stages.deduplicate(self.settings.keep, split_given=given)
        self.funnel.add(self._after_duplicates(left))

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

    def _after_duplicates(self, kept: Mapping[int, int]) -> FunnelStep:
        before = self.funnel.steps[-1]
        left = {self.cascade.names[code]: rows for code, rows in sorted(kept.items())}
        gone = {name: before.behaviors[name] - rows for name, rows in left.items()}
        return replace(
            before,
            name="duplicates",
            dropped=sum(gone.values()),
            rows=sum(left.values()),
            behaviors=left,
            detail={name: rows for name, rows in gone.items() if rows},
        )

    def _core(self, stages: Stages) -> None:
        target = self.cascade.target if self.settings.core_on == "target" else None
        core = Core(self.settings.min_user, self.settings.min_item, target)
        if core.min_user or core.min_item:
            for step in stages.core(core, self.cascade.names):
                self.funnel.add(step)

    def _split(self, stages: Stages) -> dict[str, Any]:
        protocol, ratios = self.settings.split, self.settings.ratios
        cuts = None
        if protocol == "temporal":
            cuts = stages.split_by_time(ratios)
        elif protocol == "leave-one-out":
            stages.split_last_two()
        return split.describe(protocol, ratios, cuts)

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
