"""What MkDocs does to the pages of docs/ beyond Markdown. Everything here works without a network.

* Pages are made from the code: commands and settings (`command_pages.py`).
* Equations, written as GitHub takes them (```` ```math ```` and ``$`…`$``), become MathML, which
  browsers draw by themselves.
* ``<!-- code: FILE NAME -->`` becomes the source of that function or class.
* Links to files of the repository that are no pages become their names.

What does not exist, a file, a name or a command of LaTeX, ends the build.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

import command_pages
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.superfences import SuperFencesException

ROOT = Path(__file__).parents[1]
MATH = re.compile(r"\$`([^`]+)`\$")
CODE = re.compile(r"^<!-- code: (\S+) (\S+) -->$", re.MULTILINE)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+?)(?:#[^)]*)?\)")
REMARK = re.compile(r"^<!-- (?:given|not run|fails|file|prints)\b.*-->\n", re.MULTILINE)
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
PLACE = re.compile(r"\bequation-(\d+)-here\b")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw blocks of mathematics, and enter pages that mkdocs.yml does not name."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": math_block}]
    made = [path for path in command_pages.pages() if path.startswith(command_pages.FOLDER)]
    for entry in config.nav or []:
        if entry.get("Commands") == command_pages.FOLDER:
            entry["Commands"] = made
    rest = {page.name for page in Path(config.docs_dir).glob("*.md")} - set(_entered(config.nav))
    if config.nav and rest:
        config.nav.append({"More": sorted(rest)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for path, text in command_pages.pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show code, unlink what is no page, and put marks where equations will stand."""
    equations: list[str] = []

    def keep(match: re.Match[str]) -> str:
        equations.append(mathml(match[1], "inline"))
        return f"equation-{len(equations) - 1}-here"

    page.meta["equations"] = equations
    markdown = CODE.sub(lambda match: source_block(match[1], match[2]), markdown)
    if "/" not in page.file.src_uri:  # in a folder of docs/, `..` is docs/
        markdown = OUTSIDE.sub(_unlink, markdown)
    return MATH.sub(keep, REMARK.sub("", markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the equations where their marks stand, and take the backslash that GitHub wants away."""
    html = CELL.sub(lambda match: match[0].replace("\\|", "|"), html)
    return PLACE.sub(lambda match: page.meta["equations"][int(match[1])], html)


def math_block(source: str, language: str, css_class: str, *args: Any, **kwargs: Any) -> str:
    """One displayed equation per paragraph of a block."""
    try:
        drawn = [mathml(part, "block") for part in re.split(r"\n\s*\n", source.strip())]
    except PluginError as error:
        raise SuperFencesException(str(error)) from error  # others would be passed over
    return "".join(f'<div class="{css_class}">{equation}</div>' for equation in drawn)


def mathml(latex: str, display: str) -> str:
    r"""MathML of LaTeX.

    Raises:
        PluginError: It cannot be read, or has a command that is not known.
    """
    try:
        found: str = convert(latex, display=display)
    except Exception as error:
        raise PluginError(f"{latex!r} is no LaTeX that can be shown: {error!r}") from error
    unknown = re.search(r"\\[A-Za-z]+", found)
    if unknown:
        raise PluginError(f"{unknown[0]} in {latex!r} is not known.")
    return found


def source_block(file: str, name: str) -> str:
    """The source of a function, a method or a class, as a block of code.

    Raises:
        PluginError: The file has no such thing.
    """
    return f'```python title="{escape(file)}"\n{source_of(file, name)}\n```'


def source_of(file: str, name: str) -> str:
    """The source of `name` ("f", "Class" or "Class.f") without its docstring.

    Raises:
        PluginError: There is none.
    """
    path = ROOT / file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        found = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part
        ]
        if not found:
            raise PluginError(f"{file} has no {name}.")
        node = found[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    first = node.body[0]
    if ast.get_docstring(node) and first.end_lineno:
        del lines[first.lineno - node.lineno : first.end_lineno - node.lineno + 1]
    return "\n".join(line[node.col_offset :] for line in lines)


def _entered(nav: Any) -> Iterator[str]:
    """The pages of a navigation, however deep."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav or []:
            yield from _entered(part)


def _unlink(match: re.Match[str]) -> str:
    path = PurePosixPath(match[2])
    if not (ROOT / path).exists():
        raise PluginError(f"A link leads to {path}, which is not there.")
    return match[1] if match[1].startswith("`") else f"{match[1]} (`{path}`)"
