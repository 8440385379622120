"""What a run is, how it went and how to go on, as plain values; a training that still runs too."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrec import config as configuration
from mbrec.dataset import MANIFEST
from mbrec.errors import ArtefactError, MbrecError
from mbrec.files import read_json
from mbrec.guard import inside, read_object
from mbrec.run import CONFIG, LAST_LINE, METRICS, RUN, SCHEMA_VERSION

EVALUATIONS = {split: f"evaluation.{split}.json" for split in ("valid", "test")}
_REMEDY = "Train again, or fetch the whole folder anew."
_WHAT = ("model", "seed", "engine", "device", "threads", "started", "versions", "behaviors")


def run_summary(path: Path | str) -> dict[str, Any]:
    """Everything that the small files of a run's folder say.

    Args:
        path: The folder; the training may not have finished.

    Returns:
        "status", what was trained ("model", "seed", "dataset", "versions", …), "settings" (those
        that are not the method's defaults), "training" (see `learning`; None for methods that do
        not learn by steps), "health" (findings that stood at the end), "calibration", "figures"
        (split → averages, those of `mbrec evaluate` before those of training) and "use" (commands).

    Raises:
        ArtefactError: The folder is no run, or damaged.
    """
    path = Path(path)
    if not (path / RUN).is_file():
        raise ArtefactError(f"{path} is no run (it has no {RUN}).", "Make one with `mbrec train`.")
    info = read_object(inside(path, RUN), "run", SCHEMA_VERSION, _REMEDY)
    records = read_journal(path)
    dataset = info.get("dataset")
    if not isinstance(dataset, dict):
        raise ArtefactError(f"{path / RUN} is damaged: it names no dataset.", _REMEDY)
    finished = bool(info.get("files"))
    return {
        "kind": "run",
        "path": str(path),
        "status": "finished" if finished else _unfinished(records),
        **{key: info.get(key) for key in _WHAT},
        "dataset": {**dataset, "found": Path(str(dataset.get("path", ""))).is_dir()},
        "settings": changed_settings(path),
        "training": learning(records, info),
        "health": _health(records),
        "calibration": info.get("calibration"),
        "figures": _figures(path, info),
        "use": _commands(path, str(dataset.get("path", "DATA")), finished, info),
    }


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, one per epoch; a line that is no record is left out."""
    file = inside(path, METRICS)
    found = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a training that was killed, or damage
            continue
        if isinstance(record, dict) and "epoch" in record:
            found.append(record)
    return found


def learning(
    records: Sequence[Mapping[str, Any]], info: Mapping[str, Any]
) -> dict[str, Any] | None:
    """How a training went.

    Args:
        records: The lines of metrics.jsonl.
        info: Of run.json.

    Returns:
        None without records. Else "epochs", "best_epoch", "seconds" (of training steps), "metric",
        "validated" (epochs), "curves" ("macro" and behavior → its values then), "losses" (term →
        its value in every epoch), "weights" (behavior → its task weight at the end) and "gates".
    """
    trained = [record for record in records if "loss" in record]
    if not trained:
        return None
    valid = [record for record in trained if "valid" in record]
    names = [name for name in (valid[-1]["valid"] if valid else ()) if name != "metric"]
    terms = dict.fromkeys(term for record in trained for term in record["loss"])
    last = trained[-1]
    return {
        "epochs": last["epoch"],
        "best_epoch": info.get("best_epoch") or (valid[-1].get("best_epoch") if valid else None),
        "seconds": sum(record.get("seconds", 0.0) for record in trained),
        "metric": valid[-1]["valid"].get("metric") if valid else None,
        "validated": [record["epoch"] for record in valid],
        "curves": {name: [record["valid"].get(name) for record in valid] for name in names},
        "losses": {term: [record["loss"].get(term) for record in trained] for term in terms},
        "weights": last.get("weights", {}),
        "gates": valid[-1].get("gates", {}) if valid else {},
    }


def changed_settings(path: Path) -> dict[str, Any]:
    """Dotted key → value of the settings in config.toml that are not the method's defaults.

    All of them where the method is not installed here; where the file is missing, or is not whole,
    that is said in their place.
    """
    try:
        values = configuration.read_toml(inside(path, CONFIG))
        whole = (path / CONFIG).read_text(encoding="utf-8").rstrip().endswith(LAST_LINE)
    except MbrecError:
        whole = False
    if not whole:
        return {CONFIG: "missing or damaged"}
    flat = configuration.flat(values)
    try:
        settings = configuration.from_dict(values)
        default = configuration.from_dict({"method": settings.method})
        changed = configuration.differences(default, settings)
    except MbrecError:
        return flat
    return {key: flat[key] for key in changed if key in flat and key != "seed"}


def _unfinished(records: Sequence[Mapping[str, Any]]) -> str:
    """Whether a training runs (or was interrupted), or has failed."""
    found = records[-1].get("health", ()) if records else ()
    return "failed" if any(f["finding"] == "training stopped" for f in found) else "training"


def _health(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The findings at the last validated epoch, and what ended the training."""
    looked = [record for record in records if "valid" in record or "loss" not in record]
    return list(looked[-1].get("health", ())) if looked else []


def _figures(path: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for split, name in EVALUATIONS.items():
        file = inside(path, name)
        if file.is_file():
            found[split] = read_json(file, "evaluation")
    if "valid" not in found and info.get("valid"):
        found = {"valid": info["valid"], **found}
    return found


def _commands(path: Path, data: str, finished: bool, info: Mapping[str, Any]) -> list[str]:
    """What can be done with the run."""
    run = str(path)
    if not finished:
        return [shlex.join(["mbrec", "train", data, "--out", run, "--resume"])]
    target = str((info.get("behaviors") or [""])[-1])
    split = [] if _has_test_rows(Path(data)) else ["--split", "valid"]
    return [
        shlex.join(["mbrec", "evaluate", run, *split]),
        shlex.join(["mbrec", "export", run, "--k", "20", "--out", "lists.parquet"]),
        shlex.join(["mbrec", "explain", run, "--behavior", target]) + " --user ID --item ID",
    ]


def _has_test_rows(data: Path) -> bool:
    """Whether the dataset can be evaluated on its test part; yes where it cannot be read."""
    try:
        counts = read_json(data / MANIFEST, "manifest")["counts"]["splits"]["test"]
        return any(counts.values())
    except (MbrecError, KeyError, TypeError, AttributeError):
        return True
