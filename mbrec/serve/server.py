"""Listening, loading a new run when asked to, and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from anyio.to_thread import run_sync

from mbrec.errors import UsageError
from mbrec.serve.metrics import Metrics
from mbrec.serve.state import Shelf

_GRACE_SECONDS = 10  # for requests under way when the service is told to end
_BACKLOG = 2048

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: `serve` handles them, and a service that was stopped ends with 0."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        UsageError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"Cannot listen on {host}, port {port}: {reason}.", "Choose another --host or --port."
        ) from error
    # asyncio sets it only on sockets that name their protocol, which these do not. Without it,
    # every answer on a kept connection waited 40 ms for the client to acknowledge its head.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def serve(
    app: Any, shelf: Shelf, metrics: Metrics, sock: socket.socket, watch: float | None
) -> None:
    """Answer requests until SIGINT or SIGTERM; load the run anew on SIGHUP.

    Args:
        app: The ASGI application.
        shelf: What it serves.
        metrics: Where reloads are counted.
        sock: As `listen` gave it.
        watch: Seconds between looks at run.json, to load a new run by itself; None: never.
    """
    asyncio.run(_serve(app, shelf, metrics, sock, watch))


async def _serve(
    app: Any, shelf: Shelf, metrics: Metrics, sock: socket.socket, watch: float | None
) -> None:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS
    )
    server, loop = _Server(config), asyncio.get_running_loop()
    wanted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, wanted.set)
    tasks = [asyncio.create_task(_reload(shelf, metrics, wanted))]
    if watch is not None:
        tasks.append(asyncio.create_task(_watch(shelf, wanted, watch)))
    try:
        await server.serve([sock])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reload(shelf: Shelf, metrics: Metrics, wanted: asyncio.Event) -> None:
    """Load the run anew whenever it is wanted, one load at a time, beside the requests."""
    while True:
        await wanted.wait()
        wanted.clear()
        served = await run_sync(shelf.renew)
        metrics.reloaded(served)
        if served:
            metrics.serves(shelf.current)
            log.info("Serving run %s now.", shelf.current.version)


async def _watch(shelf: Shelf, wanted: asyncio.Event, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        if await run_sync(shelf.changed):
            wanted.set()
