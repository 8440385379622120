"""The HTTP interface: one list per request, and what operators ask.

FastAPI reads the annotations of the functions in `make_app`, and these depend on the run. They
have to be values, so this module does without `from __future__ import annotations`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel, Field

from mbrec.errors import MbrecError
from mbrec.export import ExcludeSeen
from mbrec.serve.limits import BusyError, Gate
from mbrec.serve.metrics import Metrics
from mbrec.serve.state import Shelf
from mbrec.version import __version__

RETRY_SECONDS = 1
_EXCLUDE_SEEN = (
    "Leave out what the user has done before: in the same behavior, in any behavior, or nothing."
)


class Item(BaseModel):
    """One place of a list."""

    rank: int = Field(description="1 is best.")
    item_id: int | str
    score: float


class TopList(BaseModel):
    """The best items of a user for one behavior."""

    user_id: int | str
    behavior: str
    exclude_seen: str
    run: str = Field(description="The version of the run that answered, as in /health.")
    items: list[Item] = Field(description="Best first; fewer than k where no more are left.")


class Health(BaseModel):
    """What is served."""

    status: Literal["ok"] = "ok"
    run: str = Field(description="The first digits of the SHA-256 of run.json.")
    path: str
    model: str
    behaviors: list[str]
    users: int
    items: int
    loaded_at: datetime
    reload_error: str | None = Field(description="Why the last new run was refused.")


class Problem(BaseModel):
    """What went wrong."""

    detail: str


@dataclass(frozen=True)
class Limits:
    """What a service allows."""

    workers: int = 2
    """Requests that are scored at a time."""
    queue: int = 64
    """Requests that may wait for that."""
    max_k: int = 100
    """The longest list."""


def make_app(
    shelf: Shelf, limits: Limits, metrics: Metrics, exclude_seen: ExcludeSeen = "same"
) -> Any:
    """The ASGI application.

    Args:
        shelf: What is served.
        limits: How much of it.
        metrics: Where requests are counted.
        exclude_seen: What lists leave out where a request does not say it. With "none", the
            service holds no histories, and requests can ask for nothing else.
    """
    gate = Gate(limits.workers, limits.queue)
    behaviors = shelf.current.behaviors
    kinds = ("none",) if exclude_seen == "none" else ("same", "any", "none")
    app = FastAPI(title="mbrec", version=__version__, description=_describe(shelf))

    async def top(
        user_id: Annotated[str, Path(description="The shop's own id.")],
        behavior: Annotated[
            str, _choice(behaviors, "Which list."), AfterValidator(_check(behaviors))
        ],
        k: Annotated[int, Query(ge=1, le=limits.max_k, description="Length of the list.")] = min(
            20, limits.max_k
        ),
        exclude_seen: Annotated[
            str, _choice(kinds, _EXCLUDE_SEEN), AfterValidator(_check(kinds))
        ] = exclude_seen,
    ) -> TopList:
        """The best items of a user for a behavior, best first."""
        state = shelf.current  # once: another run may be served before this request ends
        if user_id not in state.places:
            raise HTTPException(404, f"The run does not know the user {user_id!r}.")
        work = partial(state.top, user_id, behavior, k, exclude_seen)  # type: ignore[arg-type]
        return TopList(
            user_id=state.user_ids[state.places[user_id]].as_py(),
            behavior=behavior,
            exclude_seen=exclude_seen,
            run=state.version,
            items=[
                Item(rank=rank, item_id=item_id, score=score)
                for rank, (item_id, score) in enumerate(await gate.run(work), 1)
            ],
        )

    app.add_api_route(
        # An id may hold slashes, so the path between the two words is the id.
        "/users/{user_id:path}/top",
        top,
        summary="The list of a user",
        responses={
            404: {"model": Problem, "description": "The run does not know the user."},
            503: {"model": Problem, "description": "Too many requests wait; see Retry-After."},
        },
    )
    _add_operations(app, shelf, metrics)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(MbrecError, _failed)
    metrics.serves(shelf.current)
    return metrics.watch(app)


def _add_operations(app: FastAPI, shelf: Shelf, metrics: Metrics) -> None:
    """What operators ask: /health and /metrics."""

    async def health() -> Health:
        """What is served, since when, and whether the last new run was refused."""
        state = shelf.current
        return Health(
            run=state.version,
            path=str(state.path),
            model=state.model,
            behaviors=list(state.behaviors),
            users=len(state.user_ids),
            items=len(state.item_ids),
            loaded_at=state.loaded_at,
            reload_error=shelf.failure or None,
        )

    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/health", health, summary="What is served")
    app.add_api_route(
        "/metrics",
        prometheus,
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )


def _choice(choices: tuple[str, ...], description: str) -> Any:
    """A query parameter that is one of some words, known only now."""
    return Query(description=description, json_schema_extra={"enum": list(choices)})


def _check(choices: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"it has to be one of {', '.join(choices)}")
        return value

    return check


def _describe(shelf: Shelf) -> str:
    return (
        f"Ranked lists of `{shelf.current.model}` for every user and behavior. "
        "Users and items go by the shop's own ids."
    )


async def _busy(request: Request, error: Exception) -> JSONResponse:
    problem = {"detail": "Too many requests wait; try again later."}
    return JSONResponse(problem, 503, {"Retry-After": str(RETRY_SECONDS)})


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 500)
