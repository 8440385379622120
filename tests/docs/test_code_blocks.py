"""If these fail, a page of the documentation tells people to type what does not work."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
try:
    from blocks import Block, blocks_of
    from given import give, make_stock
    from shell import run_shell
finally:
    sys.path.pop(0)

from mbrec.cli.main import VERBS, group  # noqa: E402
from mbrec.config import Settings, from_dict, tomllib  # noqa: E402

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# Why a block is not run; anything else is no reason.
REASONS = {
    "installs packages",
    "makes an environment",
    "needs Docker",
    "needs a GPU",
    "needs a server",
    "needs Java, and a cluster",
    "needs the real data",
    "takes hours",
    "takes minutes",
}
LANGUAGES = {"sh", "python", "toml", "json", "text", "math"}
NEEDED = {
    "serving.md": ("faiss", "fastapi", "uvicorn", "prometheus_client"),
    "inspect.md": ("tensorboard", "mlflow", "wandb"),
    "faq.md": ("tensorboard",),
    "tuning.md": ("optuna", "matplotlib", "jinja2"),
    "report.md": ("jinja2", "matplotlib"),
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stock(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_works(
    page: Path,
    stock: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for module in NEEDED.get(page.name, ()):
        pytest.importorskip(module, reason=f"{page.name} shows what {module} does")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page):
        if "given" in block.said:
            for name in block.said["given"].split(", "):
                give(name, stock, tmp_path)
        if "not run" in block.said:
            continue
        if block.language == "sh":
            code, printed = run_shell(block.code, tmp_path, capfd)
            wanted = int(block.said.get("fails", "0"))
            assert code == wanted, f"{block.place} ended with {code}:\n{block.code}\n{printed}"
        elif block.language == "python" and "file" not in block.said:
            capfd.readouterr()
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
            printed = "".join(capfd.readouterr())
        else:
            look_at(block, tmp_path, printed)


def look_at(block: Block, folder: Path, printed: str) -> None:
    """A block that is not run: a file, an output, or something to be read."""
    if "file" in block.said:
        file = folder / block.said["file"]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.code, encoding="utf-8")
    if "prints" in block.said:
        shown, got = (
            [" ".join(line.split()) for line in text.splitlines() if line.strip()]
            for text in (block.code, printed)
        )
        assert [line for line in shown if line not in got] == [], f"{block.place}:\n{printed}"
    if block.language == "toml":
        values = tomllib.loads(block.code)
        if "file" not in block.said and "project" not in values:
            unknown = values.keys() - Settings.model_fields
            assert not unknown, f"{block.place}: no config, no file: {unknown}"
            from_dict(values)
    if block.language == "json":
        json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: give it one of {LANGUAGES}"
        if "not run" in block.said:
            assert block.said["not run"] in REASONS, f"{block.place}: {block.said['not run']}"
        if block.language == "text" and "prints" not in block.said:
            commands = re.findall(r"^(?:\$ .*|(?:mbrec|pip|python) .*)$", block.code, re.MULTILINE)
            assert not commands, f"{block.place}: commands belong into a block of sh"


def test_little_is_left_out() -> None:
    left = [block.place for page in PAGES for block in blocks_of(page) if "not run" in block.said]
    runnable = [
        block.place
        for page in PAGES
        for block in blocks_of(page)
        if block.language in ("sh", "python")
    ]
    assert len(left) <= len(runnable) / 4, left


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    for words in re.findall(r"`mbrec ([^`]+)`", text):
        verb = words.split()[0]
        if not re.fullmatch(r"[a-z]+", verb):
            continue
        assert verb in VERBS, f"{page.name}: mbrec {words}"
        known = {
            name for option in options(verb) for name in [*option.opts, *option.secondary_opts]
        }
        used = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", words))
        assert used <= known | {"--help"}, f"{page.name}: mbrec {words}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb: str) -> None:
    silent = [
        option.name
        for option in options(verb)
        if not option.hidden and not re.sub(r"\[.*?\]", "", option.help or "").strip()
    ]
    assert silent == []


def options(verb: str) -> list[click.Option]:
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]
