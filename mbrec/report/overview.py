"""The top of the page: which runs, and how good they are, in one table."""

from __future__ import annotations

from mbrec.cross_fitting import NOTE
from mbrec.report.blocks import (
    Block,
    Cell,
    Figures,
    Section,
    Table,
    Text,
    count,
    number,
    shown,
    with_best,
)
from mbrec.report.material import Material, Subject
from mbrec.report.metrics import glance

_CHOSEN = (
    "Measured on validation rows. They chose the epoch (and perhaps the settings), so these "
    "figures flatter; what a new day would bring is told by --split test, where there are test "
    "rows."
)
_KEPT = (
    "Measured on test rows, which neither training nor the choice of the epoch has seen. Choose "
    "between settings by --split valid."
)


def overview(material: Material) -> Section:
    """Runs and their NDCG per behavior at the shortest list."""
    blocks: list[Block] = [Text(_CHOSEN if material.split == "valid" else _KEPT)]
    lengths = material.lengths
    if lengths:
        blocks += [_table(material, lengths[0]), Figures([glance(material, lengths[0])])]
    for subject in material.subjects:
        who = f"{subject.letter}: " if material.several else ""
        if material.split == "valid" and subject.run.info.get("cross_fitted"):
            blocks.append(Text(f"{who}{NOTE}"))
        for finding in subject.summary["health"]:
            blocks.append(Text(f"{who}{shown(finding.get('message'))}", warns=True))
        if subject.measured is None:
            blocks.append(
                Text(
                    f"{who}Not measured on {material.split} rows, and its dataset is not there any "
                    "more; say where it is with --data.",
                    warns=True,
                )
            )
    return Section("overview", "At a glance", "", blocks)


def _table(material: Material, k: int) -> Table:
    key = f"ndcg@{k}"
    found = {
        s.letter: s.measured.summary()
        for s in material.subjects
        if s.measured and k in s.measured.ks
    }
    rows = []
    for subject in material.subjects:
        summary = found.get(subject.letter)
        values = {
            behavior: summary["behaviors"].get(behavior, {}).get(key) if summary else None
            for behavior in material.behaviors
        }
        macro = summary["macro"][key] if summary else None
        cells = [number(value) for value in values.values()]
        rows.append([*_who(material, subject), *cells, number(macro)])
    lead = ["Run", "Method", "Best epoch"]
    head = [*lead, *map(shown, material.behaviors), "Mean"]
    return Table(
        head,
        with_best(rows, len(lead)) if material.several else rows,
        title=f"NDCG@{k}",
        note="Mean: the plain mean over behaviors."
        + (" Bold: the best run of a column." if material.several else ""),
        left=2,
    )


def _who(material: Material, subject: Subject) -> list[Cell]:
    letter = f"{subject.letter} · " if material.several else ""
    training = subject.summary["training"]
    best = count(training["best_epoch"]) if training else Cell("–")
    if training:
        best = Cell(f"{best.text} of {training['epochs']}", best.value)
    return [Cell(f"{letter}{subject.name}"), Cell(shown(subject.run.model)), best]
