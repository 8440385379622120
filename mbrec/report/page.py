"""A page from its sections: one file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbrec.errors import DeviceError
from mbrec.report.blocks import Section

_FOLDER = Path(__file__).parent / "page"


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as HTML; every text is escaped.

    Args:
        title: Of the page.
        subtitle: The line below it.
        sections: In their order.

    Raises:
        DeviceError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise DeviceError(
            f"Jinja cannot be loaded ({error}).", "Install it: pip install 'mbrec[report]'."
        ) from error
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html")
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return page.render(title=title, subtitle=subtitle, sections=sections, style=style) + "\n"
