"""Settings and versions: all that is needed to make a run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mbrec.errors import MbrecError
from mbrec.guard import inside
from mbrec.report.blocks import Block, Cell, Code, Section, Table, Text, shown
from mbrec.report.material import Material, Subject
from mbrec.run import CONFIG
from mbrec.versions import versions


def settings(material: Material) -> Section:
    """Where each run comes from, what it was set to, and how to go on with it."""
    blocks: list[Block] = [_origins(material), _changed(material)]
    for subject in material.subjects:
        blocks += [*material.heading(subject), *_run(subject)]
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    blocks.append(Text(f"This page was made by {made}."))
    return Section("settings", "Settings and versions", "", blocks)


def _origins(material: Material) -> Table:
    """One column per run."""
    rows: dict[str, list[str]] = {}
    for subject in material.subjects:
        summary = subject.summary
        content = {
            "method": summary["model"],
            "seed": summary["seed"],
            "trained": summary["started"],
            "device": summary["device"],
            "engine": summary["engine"],
            "threads": summary["threads"],
            "dataset": subject.run.dataset_hash[:12],
            **(summary["versions"] or {}),
        }
        for name, value in content.items():
            empty = [""] * (len(material.subjects))
            rows.setdefault(name, empty)[material.subjects.index(subject)] = _plain(value)
    return _per_run(material, "Origin", rows, "")


def _changed(material: Material) -> Block:
    rows: dict[str, list[str]] = {}
    for place, subject in enumerate(material.subjects):
        for key, value in subject.summary["settings"].items():
            rows.setdefault(key, [""] * len(material.subjects))[place] = _plain(value)
    if not rows:
        return Text("All settings are the methods' defaults.")
    return _per_run(
        material, "Settings that are not the defaults", rows, "An empty cell: the default."
    )


def _per_run(material: Material, title: str, rows: dict[str, list[str]], note: str) -> Table:
    names = [f"{s.letter} · {s.name}" if material.several else s.name for s in material.subjects]
    cells = [[Cell(shown(key)), *map(Cell, values)] for key, values in rows.items()]
    return Table(["", *names], cells, title=title, note=note, left=1 + len(names))


def _run(subject: Subject) -> Iterator[Block]:
    try:
        text = inside(subject.run.path, CONFIG).read_text(encoding="utf-8", errors="replace")
        yield Code(f"All settings ({CONFIG})", "\n".join(map(_line, text.splitlines())))
    except (OSError, MbrecError):
        yield Text(f"It has no {CONFIG}.")
    yield Code("How to go on", "\n".join(map(_line, subject.summary["use"])))


def _plain(value: Any) -> str:
    return "–" if value is None else shown(value)


def _line(text: str) -> str:
    """A line with its indentation, and nothing that is not seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
