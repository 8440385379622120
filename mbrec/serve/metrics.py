"""What Prometheus reads: latency, requests by status, requests under way, the run, reloads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mbrec.serve.state import Served

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_OTHER = "other"  # paths that no route answers: anybody can invent new ones


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "mbrec_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            "mbrec_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._in_flight = Gauge(
            "mbrec_requests_in_flight", "Requests being answered.", registry=self._registry
        )
        self._loaded = Gauge(
            "mbrec_run_loaded_timestamp_seconds",
            "When the run that is served was loaded, Unix time.",
            ["run", "model"],
            registry=self._registry,
        )
        self._reloads = Counter(
            "mbrec_reloads", "Attempts to load a new run.", ["result"], registry=self._registry
        )
        for result in ("served", "refused"):
            self._reloads.labels(result)

    def serves(self, state: Served) -> None:
        """A run is served from now on."""
        self._loaded.clear()
        self._loaded.labels(state.version, state.model).set(state.loaded_at.timestamp())

    def reloaded(self, served: bool) -> None:
        """A new run was tried."""
        self._reloads.labels("served" if served else "refused").inc()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def watch(self, app: ASGIApp) -> ASGIApp:
        """An ASGI application that measures another one."""

        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            """The other one; its answers to HTTP requests are counted and timed."""
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = "500"  # unless an answer begins

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            start = time.perf_counter()
            with self._in_flight.track_inprogress():
                try:
                    await app(scope, receive, sent)
                finally:
                    route = getattr(scope.get("route"), "path_format", _OTHER)
                    self._seconds.labels(route).observe(time.perf_counter() - start)
                    self._requests.labels(route, status).inc()

        return measured
