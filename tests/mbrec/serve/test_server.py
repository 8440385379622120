"""Listening: answers leave at once."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("uvicorn", reason="uvicorn (the extra `serve`) is not installed")

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

from mbrec.serve.server import listen


def test_answers_do_not_wait_for_the_client_to_acknowledge_their_head() -> None:
    with listen("127.0.0.1", 0) as sock:
        client = socket.create_connection(sock.getsockname())
        server, _ = sock.accept()
        with client, server:
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
