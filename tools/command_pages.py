"""The pages that are made from the code: one per command, and one with every setting.

What stands there is what `--help` and `--list-settings` print, so neither can be out of date.
"""

from __future__ import annotations

import json
import re
import textwrap
from functools import cache
from pathlib import Path

import click

from mbrec.cli.main import VERBS, group
from mbrec.config import describe
from mbrec.models import BUILT_IN

FOLDER = "commands"
DOCS = Path(__file__).parents[1] / "docs"


@cache
def pages() -> dict[str, str]:
    """Path below docs/ → Markdown."""
    found = {f"{FOLDER}/index.md": _overview()}
    found |= {f"{FOLDER}/{verb}.md": command_page(verb) for verb in VERBS}
    return found | {"settings.md": _settings()}


def find(verb: str) -> tuple[click.Command, click.Context]:
    """A command as the command line makes it.

    Raises:
        KeyError: There is no such verb.
    """
    parent = click.Context(group, info_name="mbrec", help_option_names=["-h", "--help"])
    command = group.get_command(parent, verb)
    if command is None:
        raise KeyError(verb)
    return command, click.Context(command, info_name=verb, parent=parent)


def command_page(verb: str) -> str:
    """What `mbrec VERB --help` says."""
    command, context = find(verb)
    usage = command.collect_usage_pieces(context)
    lines = [f"# mbrec {verb}", "", VERBS[verb], ""]
    lines += ["```text", f"mbrec {verb} {' '.join(usage)}", "```", ""]
    lines += [*_help(command.help or ""), "", "## Options", ""]
    lines += ["| option | what it does |", "| --- | --- |"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and isinstance(parameter, click.Option):
            option, text = record
            lines.append(f"| `{_cell(option)}` | {_cell(_escape(text.strip()))} |")
    return "\n".join(lines) + "\n"


def _help(text: str) -> list[str]:
    """The paragraphs of a help text; those whose lines Click keeps become blocks of code."""
    lines = []
    for paragraph in _hang(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            body = paragraph.removeprefix("\b\n").rstrip()
            if not body.startswith((" ", "mbrec ")):
                head, _, body = body.partition("\n")
                lines += [_escape(head), ""]
            language = "sh" if body.lstrip().startswith("mbrec ") else "text"
            lines += [f"```{language}", textwrap.dedent(body), "```", ""]
        else:
            lines += [_escape(" ".join(paragraph.split())), ""]
    return lines


def _hang(text: str) -> str:
    """The text without indentation; the first line of a docstring has none anyway."""
    first, _, rest = text.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}"


def _overview() -> str:
    lines = [
        "# Every command",
        "",
        "These pages are made from the commands: they say what `mbrec COMMAND --help` says.",
        "",
        "| command | what it does |",
        "| --- | --- |",
        *(f"| [mbrec {verb}]({verb}.md) | {_cell(text)} |" for verb, text in VERBS.items()),
        "",
        "Results go to the standard output, progress and warnings to the standard error.",
        "Exit codes: 0, 1 (bad data, failed run), 2 (wrong usage), 130 (interrupted),",
        "143 (terminated).",
    ]
    return "\n".join(lines) + "\n"


def _settings() -> str:
    lines = [
        "# Every setting",
        "",
        "What a config file and `--set KEY=VALUE` take. Methods share the settings of training,",
        "some with other defaults. `mbrec train --list-settings METHOD` prints the same.",
        "",
    ]
    first = describe("bigel")
    shared = [row[0] for row in first if not row[0].startswith("model.")]
    lines += ["## All methods", "", *_table([row for row in first if row[0] in shared])]
    usual = {key: default for key, default, _ in first}
    for method in BUILT_IN:
        rows = [row for row in describe(method) if row[0] not in shared or usual[row[0]] != row[1]]
        rows = [row for row in rows if row[0] != "method"]
        lines += ["", f"## {method}", ""]
        lines += _table(rows) if rows else ["Nothing of its own."]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, object, str]]) -> list[str]:
    head = ["| setting | default | |", "| --- | --- | --- |"]
    return head + [
        f"| `{key}` | `{_cell(json.dumps(default))}` | {_cell(_escape(' '.join(text.split())))} |"
        for key, default, text in rows
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _escape(text: str) -> str:
    """Markdown that shows this text as it stands, but for code in backticks and names of pages."""
    parts = re.split(r"(`[^`]*`)", text)
    text = "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts
    )
    return re.sub(r"docs/([\w-]+\.md)", _link, text)


def _link(match: re.Match[str]) -> str:
    there = (DOCS / match[1]).is_file()
    return f"[{match[1]}](../{match[1]})" if there else match[0]
