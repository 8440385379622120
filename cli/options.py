"""Options that several verbs have, with one meaning and one help text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mbrec.errors import RIGHTS


def is_text(path: str) -> bool:
    """Whether a path can be written as UTF-8; file systems take any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class PathType(click.Path):
    """A path; what is there and may not be read is refused, with what to do about it.

    So is one that is not UTF-8: Arrow cannot open it, and no JSON can name it.
    """

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; see `click.ParamType.convert`."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not is_text(str(path.absolute())):
            self.fail(f"{path.absolute()} is not UTF-8. Give it another name.", param, ctx)
        if path.exists() and not os.access(path, os.R_OK):
            self.fail(f"{path} may not be read. {RIGHTS}", param, ctx)
        return path


PATH = PathType()
_DEVICES = click.Choice(["auto", "cpu", "cuda"])

data_option = click.option(
    "--data",
    type=PATH,
    help="The prepared dataset.  [default: where it was at training]",
)
"""Of the verbs that read a run."""

ranking_device_option = click.option(
    "--device",
    type=_DEVICES,
    default="auto",
    show_default=True,
    help="Where to rank; auto takes CUDA where there is one.",
)
"""Of the verbs that rank all users."""

training_device_option = click.option(
    "--device",
    type=_DEVICES,
    help="Where to train; auto takes CUDA where there is one.  [default: auto]",
)
"""Of the verbs that train, and have settings for it: what is not given is not changed."""

engine_option = click.option(
    "--engine",
    type=click.Choice(["dgl", "torch"]),
    help="Who passes the messages; torch needs no DGL.  [default: dgl]",
)
"""Likewise."""
