"""MODEL_CARD.md: a run on one page, for whoever is to use it.

Written at the end of a training and anew by every evaluation, from run.json, the figures beside it
and the dataset's manifest alone. What stands below `YOURS` is the user's, and is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec.errors import ArtefactError
from mbrec.files import write_text
from mbrec.guard import inside
from mbrec.summary import run_summary

CARD = "MODEL_CARD.md"
YOURS = (
    "<!-- What stands below this line is yours: mbrec keeps it when it writes the card anew. -->"
)

_TEMPLATE = """
## License and contact

* License of the model: _to be filled in_
* License of the data, and who may use them: _to be filled in_
* Responsible: _to be filled in_
"""
_METRICS = ("ndcg", "hr", "recall", "mrr")
_PROTOCOL = """\
All items are ranked for every user with held-out rows of the behavior; her training items of that
behavior are left out, and nothing else is. Figures against sampled negatives, or by other
protocols, are not comparable."""


def write_card(run: Path | str, manifest: Mapping[str, Any]) -> Path:
    """Write the card of a finished run, atomically.

    Args:
        run: The run's folder.
        manifest: The manifest of the dataset that it was trained on.

    Returns:
        Where it was written.

    Raises:
        ArtefactError: The folder is no run, or damaged.
    """
    path = inside(Path(run), CARD)
    text = card_text(run_summary(run), manifest)
    write_text(path, f"{text}\n{YOURS}\n{_kept(path)}")
    return path


def card_text(run: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The part of the card that mbrec writes.

    Args:
        run: What `mbrec.summary.run_summary` gives.
        manifest: Of the dataset.
    """
    name = Path(run["path"]).resolve().name
    sections = [
        f"# {_plain(name)}: {run['model']} for {_listed(run['behaviors'])}",
        "Ranks the items of a shop for its users, one list per behavior, by what users did before. "
        "Meant for the shop whose log it was trained on: to choose what to show, not to judge "
        "people.",
        f"## Data\n\n{_data(run['dataset'], manifest)}",
        f"## Method\n\n{_method(run)}",
        f"## Figures\n\n{_figures(run['figures'])}",
        f"## Limits\n\n{_limits(run)}",
    ]
    return "\n\n".join(sections) + "\n"


def _data(dataset: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    counts, split = manifest.get("counts", {}), manifest.get("split", {})
    lines = [
        f"Source {_plain(manifest.get('source'))}, split {_plain(split.get('protocol'))}; "
        f"{counts.get('users', 0):,} users, {counts.get('items', 0):,} items, "
        f"{counts.get('interactions', 0):,} interactions.",
        f"Content hash `{dataset.get('content_hash')}`.",
        "",
        "| rows | " + " | ".join(map(_plain, manifest.get("behaviors", ()))) + " |",
        "| --- |" + " ---: |" * len(manifest.get("behaviors", ())),
    ]
    for name, row in counts.get("splits", {}).items():
        cells = (f"{row.get(b, 0):,}" for b in manifest.get("behaviors", ()))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _method(run: Mapping[str, Any]) -> str:
    training, versions = run["training"], run["versions"] or {}
    named = ", ".join(f"{name} {versions[name]}" for name in ("mbrec", "torch") if name in versions)
    lines = [f"`{run['model']}`, seed {run['seed']}, engine {run['engine']}, {named}."]
    if training:
        lines.append(
            f"{training['epochs']} epochs, the best (by {training['metric']}) "
            f"{training['best_epoch']}."
            if training["metric"]
            else f"{training['epochs']} epochs, without validation rows."
        )
    changed = ", ".join(f"`{key} = {_code(value)}`" for key, value in run["settings"].items())
    own = f"Settings that are not the defaults: {changed}." if changed else "Default settings."
    return " ".join([*lines, own, "All settings are in `config.toml`."])


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return "None were measured: there are no held-out rows."
    blocks = []
    for split, summary in figures.items():
        lengths = sorted({int(name.partition("@")[2]) for name in summary["macro"]})
        keys = [f"{m}@{lengths[0]}" for m in _METRICS if f"{m}@{lengths[0]}" in summary["macro"]]
        lines = [f"| {split} rows | users | " + " | ".join(key.upper() for key in keys) + " |"]
        lines.append("| --- | ---: |" + " ---: |" * len(keys))
        for name, row in {**summary["behaviors"], "macro": summary["macro"]}.items():
            cells = ("-" if row[key] is None else f"{row[key]:.4f}" for key in keys)
            lines.append(f"| {_plain(name)} | {row.get('users', '')} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
        if "note" in summary:
            blocks.append(summary["note"])
    if "test" not in figures:
        blocks.append(
            "Validation rows chose the epoch, so these figures flatter. `mbrec evaluate` measures "
            "test rows, where there are some."
        )
    return "\n\n".join(blocks)


def _limits(run: Mapping[str, Any]) -> str:
    points = [
        " ".join(_PROTOCOL.split()),
        "Items and users without training rows have no learned scores: their lists are guesses.",
        "It repeats what the log holds: what was shown often, and to whom, is ranked higher.",
        *(_plain(finding.get("message")) for finding in run["health"]),
    ]
    return "\n".join(f"* {point}" for point in points)


def _kept(path: Path) -> str:
    """What the user has written into the card before, or the fields to be filled in."""
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError as error:  # not to be written over: it may be mended
            raise ArtefactError(
                f"{path} is damaged: {error}.", "Mend or move it, and run this again."
            ) from error
        _, found, rest = text.partition(YOURS)
        if found:
            return rest.removeprefix("\n")
    return _TEMPLATE


def _listed(names: Any) -> str:
    *first, last = map(_plain, names)
    return f"{', '.join(first)} and {last}" if first else last


def _plain(value: Any) -> str:
    """On one line, and nothing that Markdown or HTML would take for its own."""
    text = " ".join(str(value).split())
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}" if character not in "<>" else "")
    return text


def _code(value: Any) -> str:
    return " ".join(str(value).split()).replace("`", "'")
