"""The service: the lists of `mbrec export`, errors a program can read, no surprise to callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("fastapi", reason="fastapi (the extra `serve`) is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2", reason="httpx2, by which the tests ask, is not installed")

import httpx2 as httpx
from starlette.testclient import TestClient

from mbrec.dataset import PreparedDataset
from mbrec.export import ExcludeSeen, export_run
from mbrec.run import Run
from mbrec.scoring import Factors
from mbrec.serve.app import Limits
from mbrec.serve.state import Served


@pytest.mark.parametrize("seen", ["same", "any", "none"])
def test_a_user_gets_the_list_that_export_writes(
    client: TestClient, tiny_run: Run, tmp_path: Path, seen: ExcludeSeen
) -> None:
    export_run(tiny_run.path, tmp_path / "lists.parquet", k=7, exclude_seen=seen, users=["u7"])
    frame = pq.read_table(tmp_path / "lists.parquet").to_pandas()
    for behavior, group in frame.groupby("behavior"):
        asked = {"behavior": behavior, "k": 7, "exclude_seen": seen}
        answer = client.get("/users/u7/top", params=asked)
        assert answer.status_code == 200
        found = answer.json()
        assert (found["user_id"], found["behavior"], found["exclude_seen"]) == (
            "u7",
            behavior,
            seen,
        )
        assert [item["rank"] for item in found["items"]] == list(range(1, 8))
        assert [item["item_id"] for item in found["items"]] == group.item_id.tolist()
        assert [item["score"] for item in found["items"]] == group.score.tolist()


def test_without_more_words_a_list_has_20_items_and_none_of_the_same_behavior(
    client: TestClient, tiny_dataset: PreparedDataset
) -> None:
    found = client.get("/users/u1/top?behavior=click").json()
    assert (len(found["items"]), found["exclude_seen"]) == (20, "same")
    pairs = tiny_dataset.pairs("click", "train")
    clicked = {1000 + int(i) for i in pairs.item_idx[pairs.user_idx == 1]}
    assert not clicked & {item["item_id"] for item in found["items"]}


def test_a_list_is_shorter_where_no_more_items_are_left(client: TestClient) -> None:
    found = client.get("/users/u1/top?behavior=click&k=30").json()
    assert 20 <= len(found["items"]) < 30


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/users/nobody/top?behavior=click", 404, "does not know the user 'nobody'"),
        ("/users//top?behavior=click", 404, "does not know the user ''"),
        ("/users/u1/top?behavior=buy", 422, "one of click, favorite, purchase"),
        ("/users/u1/top", 422, "Field required"),
        ("/users/u1/top?behavior=click&k=0", 422, "greater than or equal to 1"),
        ("/users/u1/top?behavior=click&k=31", 422, "less than or equal to 30"),
        ("/users/u1/top?behavior=click&k=many", 422, "valid integer"),
        ("/users/u1/top?behavior=click&exclude_seen=all", 422, "one of same, any, none"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_errors_are_json_that_says_what_is_wrong(
    client: TestClient, path: str, status: int, words: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert words in str(answer.json()["detail"])


def test_ids_may_be_numbers_or_hold_anything(
    make_dataset: Callable[..., PreparedDataset],
    make_run: Callable[..., Run],
    make_service: Callable[..., object],
) -> None:
    dataset = make_dataset([(0, 0, "click", "train")], users=2, items=40, behaviors=("click",))
    run = make_run(dataset, {"click": Factors(torch.ones(2, 1), torch.arange(40.0)[:, None])})
    app, shelf = make_service(run)
    for ids in (["a/b c?d", "é&x=1"], [7, 2**53 + 1]):
        places = {str(value): place for place, value in enumerate(ids)}
        shelf.current = replace(shelf.current, user_ids=pa.array(ids), places=places)
        with TestClient(app) as client:
            for value in ids:
                path = f"/users/{quote(str(value), safe='')}/top?behavior=click"
                assert client.get(path).json()["user_id"] == value


def test_without_histories_nothing_else_can_be_asked_for(
    make_service: Callable[..., object], tiny_run: Run
) -> None:
    app, _ = make_service(tiny_run, exclude_seen="none")
    with TestClient(app) as client:
        assert client.get("/users/u1/top?behavior=click").json()["exclude_seen"] == "none"
        refused = client.get("/users/u1/top?behavior=click&exclude_seen=same")
        assert refused.status_code == 422


def test_health_says_what_is_served(client: TestClient, tiny_run: Run) -> None:
    found = client.get("/health").json()
    assert found["status"] == "ok"
    assert (found["model"], found["users"], found["items"]) == ("planted", 24, 30)
    assert found["path"] == str(tiny_run.path)
    assert found["reload_error"] is None
    assert found["run"] == client.get("/users/u1/top?behavior=click").json()["run"]


def test_there_is_a_page_of_the_interface(client: TestClient) -> None:
    assert "swagger" in client.get("/docs").text
    operations = client.get("/openapi.json").json()["paths"]
    assert set(operations) == {"/users/{user_id}/top", "/health", "/metrics"}
    parameters = operations["/users/{user_id}/top"]["get"]["parameters"]
    (behavior,) = [entry for entry in parameters if entry["name"] == "behavior"]
    assert behavior["schema"]["enum"] == ["click", "favorite", "purchase"]


def test_prometheus_finds_latency_and_requests_by_status(client: TestClient) -> None:
    client.get("/users/u1/top?behavior=click")
    client.get("/users/nobody/top?behavior=click")
    client.get("/invented/by/a/stranger")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    route = 'route="/users/{user_id}/top"'
    assert f'mbrec_requests_total{{{route},status="200"}} 1.0' in lines
    assert f'mbrec_requests_total{{{route},status="404"}} 1.0' in lines
    assert 'mbrec_requests_total{route="other",status="404"} 1.0' in lines
    assert f"mbrec_request_seconds_count{{{route}}} 2.0" in lines
    assert "mbrec_requests_in_flight 1.0" in lines  # this one
    assert 'mbrec_reloads_total{result="refused"} 0.0' in lines
    assert "stranger" not in answer.text


def test_more_requests_than_may_wait_are_told_to_come_again(
    make_service: Callable[..., object], tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = make_service(tiny_run, Limits(workers=1, queue=2))
    free, working, most = threading.Event(), [], []
    top = Served.top

    def slow(*arguments: object) -> object:
        working.append(1)
        most.append(len(working))
        free.wait(30)
        found = top(*arguments)  # type: ignore[arg-type]
        working.pop()
        return found

    monkeypatch.setattr(Served, "top", slow)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = [
                asyncio.create_task(client.get("/users/u1/top?behavior=click")) for _ in range(6)
            ]
            while sum(task.done() for task in asked) < 3:
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 200  # answers all the same
            free.set()
            answers = await asyncio.gather(*asked)
            answers.append(await client.get("/users/u1/top?behavior=click"))
            return answers

    answers = asyncio.run(ask())
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 3
    assert answers[-1].status_code == 200  # the queue is free again
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert all("try again later" in answer.json()["detail"] for answer in refused)
    assert max(most) == 1


def test_a_model_that_gives_no_numbers_is_an_error_in_json(
    make_dataset: Callable[..., PreparedDataset],
    make_run: Callable[..., Run],
    make_service: Callable[..., object],
) -> None:
    dataset = make_dataset([(0, 0, "click", "train")], users=2, items=40, behaviors=("click",))
    run = make_run(dataset, {"click": Factors(torch.ones(2, 1), torch.full((40, 1), torch.nan))})
    app, _ = make_service(run)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/users/u1/top?behavior=click")
        assert answer.status_code == 500
        assert "not numbers" in answer.json()["detail"]
        assert 'status="500"' in client.get("/metrics").text
