"""Options that several verbs have, with one meaning and one help text."""

from __future__ import annotations

from pathlib import Path

import click

_DEVICES = click.Choice(["auto", "cpu", "cuda"])

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
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
