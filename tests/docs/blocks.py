"""The blocks of code of a page, and what the comments before them say of how they are run.

<!-- given: NAME -->       what the page supposes to be there, from here on
<!-- not run: REASON -->   the next block cannot be run in a test
<!-- fails: CODE -->       the next block ends with this exit code
<!-- file: NAME -->        the next block is the text of this file
<!-- prints -->            the next block is the beginning of what the one before printed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

COMMENT = re.compile(r"<!-- (given|not run|fails|file|prints)(?:: (.+?))? -->")


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: Path
    line: int
    language: str
    code: str
    said: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """All blocks of a page, in order; those that are only indented have no language."""
    said: dict[str, str] = {}
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            said |= dict(COMMENT.findall(token.content))
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content, said)
            said = {}
        elif token.type != "inline" and not token.type.startswith("paragraph"):
            assert not said.keys() - {"given"}, f"{page.name}: {said} belong to no block"
