"""A page on two tiny runs, made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")
pytest.importorskip("jinja2", reason="the extra report is not installed")

from mbrec.config import from_dict
from mbrec.dataset import PreparedDataset
from mbrec.report import write_report
from mbrec.training import train_run


@dataclass
class Page(HTMLParser):
    """What a browser would find on a page."""

    text: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # text, outside the style sheet
    values: list[float] = field(default_factory=list)  # of <data>, in their order
    section: str = ""
    by_section: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._skip = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self._skip = tag == "style"
        if tag == "section":
            self.section = values["id"]
        if tag == "data":
            self.values.append(float(values["value"]))

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._skip:
            self.words.append(data.strip())
            self.by_section.setdefault(self.section, []).append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self._skip = False


@pytest.fixture(scope="session")
def runs(tiny_dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """MostPop and BiGEL on the tiny dataset."""
    folder = tmp_path_factory.mktemp("report-runs")
    steps = {"epochs": 3, "batch_size": 64, "lr": 0.02, "weighting": "uncertainty"}
    bigel = {"method": "bigel", "engine": "torch", "model": {"size": 8}, "train": steps}
    for name, values in (("popular", {"method": "mostpop"}), ("bigel", bigel)):
        train_run(tiny_dataset.path, folder / name, from_dict(values))
    return [folder / "popular", folder / "bigel"]


@pytest.fixture(scope="session")
def page_path(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on both."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(runs, out, users=3)
    return out


@pytest.fixture(scope="session")
def page(page_path: Path) -> Page:
    """The same, read."""
    return Page(page_path.read_text(encoding="utf-8"))
