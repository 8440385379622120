"""What a section of a report is made of; `page/report.html` knows how to show each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None  # the figure unrounded, for whoever reads the page by program
    sub: str = ""  # a second, smaller line: an interval
    best: bool = False
    share: float | None = None  # 0 … 1: drawn as a bar
    heat: float | None = None  # 0 … 1: drawn as the depth of a tint


@dataclass(frozen=True)
class Table:
    """A table; where it is wider than the page it scrolls in a box of its own."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""
    note: str = ""
    left: int = 1  # columns from the left that are text, not figures


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption."""

    kind: ClassVar[str] = "figure"
    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, as many as the width has room for."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Text:
    """A paragraph; one that warns stands out."""

    kind: ClassVar[str] = "text"
    text: str
    warns: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading within a section, above what is of one run or dataset."""

    kind: ClassVar[str] = "heading"
    text: str
    badge: str = ""  # the run's letter


@dataclass(frozen=True)
class Tiles:
    """A few figures that are worth a large type: label, figure, remark."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Code:
    """Lines as they are; folded under a title."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Item:
    """An item in a history or a list."""

    item_id: str
    marks: Sequence[tuple[str, str]] = ()  # sign and what it means


@dataclass(frozen=True)
class ItemList:
    """A few items under a name."""

    name: str
    items: Sequence[Item]
    more: int = 0  # further ones, not shown
    badge: str = ""


@dataclass(frozen=True)
class UserCard:
    """A user: what she did, and what is recommended to her."""

    user_id: str
    about: str
    history: Sequence[ItemList]
    lists: Sequence[tuple[str, Sequence[ItemList]]]  # behavior, and the list of every run


@dataclass(frozen=True)
class Users:
    """Users, one card each."""

    kind: ClassVar[str] = "users"
    cards: Sequence[UserCard]


Block = Table | Figure | Figures | Text | Heading | Tiles | Code | Users


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, and an entry in its contents."""

    key: str  # the anchor
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def shown(value: object) -> str:
    r"""Any text on one line, with what is not seen (controls, marks of direction) as ``\x1b``."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(str(value).split())
    )


def short(value: object, length: int = 22) -> str:
    """`shown`, cut to a length, for labels in drawings."""
    text = shown(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def number(value: float | None, digits: int = 4) -> Cell:
    """A figure with so many digits; a dash where there is none."""
    return Cell("–") if value is None else Cell(f"{value:.{digits}f}", value)


def count(value: int | None) -> Cell:
    """A whole number."""
    return Cell("–") if value is None else Cell(f"{value:,}", value)


def percent(share: float | None, *, heat: bool = False) -> Cell:
    """A share in percent."""
    if share is None:
        return Cell("–")
    return Cell(f"{share:.1%}".replace("%", " %"), share, heat=share if heat else None)


def with_best(rows: Sequence[Sequence[Cell]], first: int) -> list[list[Cell]]:
    """The highest figure of every column from `first` on in bold; none where all are equal."""
    marked = [list(row) for row in rows]
    for place in range(first, len(rows[0]) if rows else 0):
        known = [value for row in rows if (value := row[place].value) is not None]
        if len(set(known)) < 2:
            continue
        for row in marked:
            row[place] = replace(row[place], best=row[place].value == max(known))
    return marked


def grouped(rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """Rows of the same name, which then stands in the first of them alone."""
    return [[row[0] if place == 0 else Cell(""), *row[1:]] for place, row in enumerate(rows)]
