"""A service over the tiny run, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mbrec.export import ExcludeSeen
from mbrec.run import Run

if TYPE_CHECKING:  # the tests of this folder skip themselves where the extra is not installed
    from starlette.testclient import TestClient

    from mbrec.serve.app import Limits
    from mbrec.serve.state import Shelf

MakeService = Callable[..., tuple[Any, "Shelf"]]


@pytest.fixture
def make_service() -> MakeService:
    """Make the application of a run, and its shelf."""
    from mbrec.serve.app import Limits, make_app
    from mbrec.serve.metrics import Metrics
    from mbrec.serve.state import Shelf, load

    def make(
        run: Run, limits: Limits | None = None, exclude_seen: ExcludeSeen = "same"
    ) -> tuple[Any, Shelf]:
        read = partial(load, run.path, None, "cpu", with_seen=exclude_seen != "none")
        shelf = Shelf(run.path, read)
        return make_app(shelf, limits or Limits(), Metrics(), exclude_seen), shelf

    return make


@pytest.fixture
def client(make_service: MakeService, tiny_run: Run) -> Iterator[TestClient]:
    """Asks a service over `tiny_run`."""
    from starlette.testclient import TestClient

    from mbrec.serve.app import Limits

    app, _ = make_service(tiny_run, Limits(max_k=30))
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found
