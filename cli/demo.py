"""`mbrec demo`: the whole road on a synthetic log, with the commands that go it step by step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.console import show, show_json
from mbrec.cli.options import PATH

if TYPE_CHECKING:
    from mbrec.data_prep.synth import SynthOptions

MARKER = "demo.json"
LOG, DATA, RUNS, LISTS = "log.csv", "data", "runs", "lists.csv"
# Tried on the default log: about three times MostPop on every behavior, in a few seconds.
TRAINING = {"train.epochs": "8", "train.lr": "0.005"}
MODELS = ("bigel", "mostpop")
LIST_LENGTH = 10


@click.command()
@click.option(
    "--out",
    type=PATH,
    default=Path("demo-out"),
    show_default=True,
    help="The folder to make.",
)
@click.option("--users", type=int, default=2_000, show_default=True, help="Users of the log.")
@click.option("--items", type=int, default=1_000, show_default=True, help="Items of the catalog.")
@click.option("--events", type=int, default=200_000, show_default=True, help="Rows of the log.")
@click.option("--seed", type=int, default=1, show_default=True, help="For the log and training.")
@click.option("--force", is_flag=True, help="Replace an earlier demo.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")
def command(
    out: Path, users: int, items: int, events: int, seed: int, force: bool, as_json: bool
) -> None:
    r"""The whole road in about a minute: raw log, dataset, model, figures, lists.

    Writes a synthetic UserBehavior log, prepares it, trains BiGEL (and MostPop beside it),
    evaluates both on the test rows and exports BiGEL's lists; shows the command for every step.

    \b
    Example:
      mbrec demo --out demo-out
    """
    from mbrec.data_prep.synth import SynthOptions
    from mbrec.files import write_json

    options = SynthOptions("ub", users, items, events, seed)
    with _folder(out, force):
        road = Road(out, options)
        road.walk()
        result = {"out": str(out), "seconds": road.seconds, "metrics": road.metrics}
        write_json(out / MARKER, {**result, "status": "finished"})
    if as_json:
        show_json(result)
        return
    from mbrec.cli.demo_report import lists_text, metrics_text

    show(metrics_text(road.metrics))
    show(lists_text(road.log, road.lists))
    show(_places(road))


@contextmanager
def _folder(out: Path, force: bool) -> Iterator[None]:
    """Make the demo's folder; if the demo does not come to its end, nothing is left of it."""
    from mbrec.files import refuse_existing, write_json

    refuse_existing(out, force=force, marker=MARKER, known=(MARKER, LOG, DATA, RUNS, LISTS))
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    try:
        write_json(out / MARKER, {"status": "running"})
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


@dataclass
class Road:
    """The steps of the demo, and what they gave."""

    out: Path
    options: SynthOptions
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Model → what `mbrec evaluate --json` prints."""

    @property
    def log(self) -> Path:
        """The raw log."""
        return self.out / LOG

    @property
    def data(self) -> Path:
        """The prepared dataset."""
        return self.out / DATA

    @property
    def lists(self) -> Path:
        """The exported lists."""
        return self.out / LISTS

    def run(self, model: str) -> Path:
        """The run of a model."""
        return self.out / RUNS / model

    def walk(self) -> None:
        """Go all steps, saying on stderr what is done."""
        o, overrides = self.options, [f"{key}={value}" for key, value in TRAINING.items()]
        self._step(
            "A raw log, as UserBehavior.csv is published",
            f"mbrec synth --format ub --users {o.users} --items {o.items} --events {o.events} "
            f"--seed {o.seed} --out {self.log}",
            self._synth,
        )
        self._step(
            "The prepared dataset: deduplicated, 5-core on purchases, split 8:1:1 by time",
            f"mbrec prep --source ub --input {self.log} --out {self.data} "
            "--min-user 5 --min-item 5",
            self._prep,
        )
        sets = " ".join(f"--set {override}" for override in overrides)
        self._step(
            "BiGEL, trained on the graph of the training rows; validation chooses the epoch",
            f"mbrec train {self.data} --out {self.run('bigel')} --seed {o.seed} {sets}",
            partial(self._train, "bigel", overrides),
        )
        self._step(
            "The most popular items per behavior, to compare with",
            f"mbrec train {self.data} --out {self.run('mostpop')} --seed {o.seed} --model mostpop",
            partial(self._train, "mostpop", []),
        )
        for model in MODELS:
            self._step(
                "All items ranked for every user and behavior, measured on the test rows",
                f"mbrec evaluate {self.run(model)}",
                partial(self._evaluate, model),
            )
        self._step(
            "The lists, with the shop's own ids",
            f"mbrec export {self.run('bigel')} --k {LIST_LENGTH} --out {self.lists}",
            self._export,
        )

    def _step(self, title: str, call: str, work: Callable[[], str]) -> None:
        show(f"\n# {title}\n$ {call}", err=True)
        start = time.perf_counter()
        said = work()
        seconds = time.perf_counter() - start
        verb = call.split()[1]
        self.seconds[verb] = round(self.seconds.get(verb, 0.0) + seconds, 2)
        show(f"  {said}  ({seconds:.1f} s)", err=True)

    def _synth(self) -> str:
        from mbrec.data_prep.synth import write_log

        summary = write_log(self.log, self.options)
        shares = ", ".join(f"{code} {rows:,}" for code, rows in summary.by_code.items())
        return f"{summary.rows:,} rows: {shares}"

    def _prep(self) -> str:
        from mbrec.data_prep.options import PrepOptions
        from mbrec.data_prep.pipeline import prepare

        options = PrepOptions("ub", (str(self.log),), self.data, min_user=5, min_item=5)
        counts = prepare(options).manifest["counts"]
        rows = ", ".join(f"{part} {sum(n.values()):,}" for part, n in counts["splits"].items())
        return f"{counts['users']:,} users, {counts['items']:,} items, rows: {rows}"

    def _train(self, model: str, overrides: list[str]) -> str:
        from mbrec.config import resolve
        from mbrec.training import train_run

        settings = resolve(
            options={"method": model, "seed": self.options.seed}, overrides=overrides
        )
        info = train_run(self.data, self.run(model), settings, observer=_Epochs()).info
        if "epochs" not in info:
            return "counted"
        return f"{info['epochs']} epochs, the best was number {info['best_epoch']}"

    def _evaluate(self, model: str) -> str:
        from mbrec.evaluation import evaluate_run

        self.metrics[model] = evaluate_run(self.run(model)).summary()
        macro = self.metrics[model]["macro"]
        return f"{model}: macro NDCG@5 {macro['ndcg@5']:.4f}, HR@5 {macro['hr@5']:.4f}"

    def _export(self) -> str:
        from mbrec.export import export_run

        export = export_run(self.run("bigel"), self.lists, k=LIST_LENGTH)
        return f"{export.rows:,} rows for {export.users:,} users"


class _Epochs:
    """Shows a few epochs of a training on stderr."""

    def step(self, epoch: int, step: int, steps: int, loss: Callable[[], float]) -> None:
        """Nothing within an epoch."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """One line for the first epoch and for every third."""
        if record["epoch"] == 1 or record["epoch"] % 3 == 0:
            loss = sum(record["loss"].values())
            valid = record.get("valid", {})
            said = f", valid {valid['metric']} {valid['macro']:.4f}" if valid else ""
            show(f"  epoch {record['epoch']:>2}: loss {loss:.3f}{said}", err=True)


def _places(road: Road) -> str:
    places = [
        (road.log, "the raw log"),
        (road.data, "the prepared dataset; manifest.json has the funnel"),
        (
            road.run("bigel"),
            "the run: config.toml, metrics.jsonl, embeddings, evaluation.test.json",
        ),
        (road.run("mostpop"), "the same for MostPop"),
        (road.lists, f"the {LIST_LENGTH} best items for every user and behavior"),
    ]
    width = max(len(str(path)) for path, _ in places)
    lines = [f"  {path!s:<{width}}  {what}" for path, what in places]
    total = sum(road.seconds.values())
    return "\n".join([f"Where everything lies ({total:.0f} s in all):", *lines])
