"""`mbrec serve`."""

from __future__ import annotations

import ipaddress
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mbrec.cli.console import show
from mbrec.cli.options import PATH, data_option

if TYPE_CHECKING:
    from mbrec.export import ExcludeSeen


@click.command("serve")
@click.argument("run", type=PATH)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. The default is reached from this machine alone.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes any that is free.",
)
@click.option(
    "--exclude-seen",
    type=click.Choice(["same", "any", "none"]),
    default="same",
    show_default=True,
    help="What lists leave out where a request does not say it, as in `mbrec export`. With none, "
    "the dataset is not read, and requests can ask for nothing else.",
)
@data_option
@click.option(
    "--max-k",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="The longest list that a request may ask for.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Requests that are ranked at a time.  [default: one for each core]",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Requests that may wait; more are answered with 503 and Retry-After.",
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Look at run.json that often, and serve a new run once it is there. SIGHUP always does.  "
    "[default: never]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where to rank. Single users gain little from a GPU.",
)
def command(
    run: Path,
    host: str,
    port: int,
    exclude_seen: ExcludeSeen,
    data: Path | None,
    max_k: int,
    workers: int | None,
    queue: int,
    watch: float | None,
    device: str,
) -> None:
    r"""Answer over HTTP: the list of a user, by the shop's own ids.

    GET /users/ID/top?behavior=B&k=20, /health, /metrics for Prometheus, and /docs, a page of all
    that. A new run in the same folder is served on SIGHUP, or by --watch; no request is dropped,
    and a run that is damaged is refused while the old one goes on. Ends on SIGTERM or Ctrl-C.

    \b
    mbrec serve runs/ub --port 8000 --watch 10
    curl 'http://127.0.0.1:8000/users/1234/top?behavior=purchase&k=10'
    """
    _require()
    from mbrec.serve.app import Limits, make_app
    from mbrec.serve.metrics import Metrics
    from mbrec.serve.server import listen, serve
    from mbrec.serve.state import Shelf, load

    count = workers or _cores()
    _one_thread_each()
    with listen(host, port) as sock:
        shelf = Shelf(run, partial(load, run, data, device, with_seen=exclude_seen != "none"))
        metrics = Metrics()
        app = make_app(shelf, Limits(count, queue, max_k), metrics, exclude_seen)
        _greet(shelf.current.model, host, sock.getsockname()[1])
        serve(app, shelf, metrics, sock, watch)


def _require() -> None:
    """Say which extra is missing, before a run is read."""
    from importlib import import_module

    from mbrec.errors import UsageError

    for name in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                f"The service needs {name} ({error}).", "Install it: pip install 'mbrec[serve]'."
            ) from error


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_thread_each() -> None:
    """Requests share the cores: a product for one user gains nothing from more threads."""
    import torch

    torch.set_num_threads(1)


def _greet(model: str, host: str, port: int) -> None:
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    show(f"Serving {model} on {place} (see {place}/docs).", err=True)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        show(
            "Warning: whoever reaches this address can read every user's lists. Put a proxy that "
            "asks who they are in front of it.",
            err=True,
        )
