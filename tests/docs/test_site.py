"""If these fail, the site cannot be built, leaves pages out, or asks other machines for parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mbrec.cli.main import VERBS
from mbrec.models import BUILT_IN

for module in ("mkdocs", "material", "latex2mathml"):
    pytest.importorskip(module, reason="The extra docs is not installed.")

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself; a link that a reader may follow is no such thing.
FETCHED = {"src", "srcset", "poster", "data", "background"}
ELSEWHERE = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)


class Fetches(HTMLParser):
    """Collects what a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = FETCHED | ({"href"} if tag == "link" else set())
        self.found += [value for name, value in attrs if name in fetched and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_there_is_a_page_for_every_file_and_command(site: Path) -> None:
    wanted = {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")}
    assert wanted <= {page.name for page in site.glob("*.html")}
    assert set(VERBS) <= {page.stem for page in (site / "commands").glob("*.html")}
    settings = (site / "settings.html").read_text(encoding="utf-8")
    assert [method for method in BUILT_IN if f'id="{method}"' not in settings] == []


def test_no_page_needs_another_machine(site: Path) -> None:
    for page in site.rglob("*.html"):
        reader = Fetches()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.found, page
        assert [url for url in reader.found if ELSEWHERE.match(url)] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import[^;]*", text) == [], style


def test_equations_are_drawn_and_code_is_shown(site: Path) -> None:
    page = (site / "bigel.html").read_text(encoding="utf-8")
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 7
    assert "leaky_relu" in page
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "$`" not in text and "-here" not in re.sub(r"<[^>]*>", "", text), path
        assert "<!-- code" not in text and "```" not in text, path
