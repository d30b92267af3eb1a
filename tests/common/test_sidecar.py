"""Sidecars: the reserved port, start and end of the server."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest
from support.fake_services import FakeService, dripping

from tir.common.errors import InfrastructureFault
from tir.common.http import Service, Unsendable, ask_once
from tir.common.sidecar import Sidecar, is_healthy

SLOW = "import http.server, sys, time; time.sleep(0.5); http.server.test(http.server.SimpleHTTPRequestHandler, port={})"


def sidecar(program: str, log_path) -> Sidecar:
    """A sidecar that runs a Python program; `{}` in the program is replaced by the port."""
    command = [sys.executable, "-c", program]
    return Sidecar(
        lambda port: [argument.format(port) for argument in command],
        lambda why: InfrastructureFault("the server", where="test", why=why, remedy="none"),
        log_path,
        1.0,
    )


def test_port_is_reserved_until_the_end(tmp_path):
    server = sidecar(SLOW, tmp_path / "log")
    port = int(server.url.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))
    server.start()
    with pytest.raises(InfrastructureFault, match="not ready in time"):  # the server has no /health
        server.wait(time.monotonic() + 2)
    assert server.process.poll() is not None
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


def test_server_that_ends_raises_at_once_with_the_end_of_its_log(tmp_path):
    server = sidecar("print('no such model'); raise SystemExit(3)", tmp_path / "log")
    server.start()
    started = time.monotonic()
    with pytest.raises(InfrastructureFault, match="status 3 while starting: no such model"):
        server.wait(time.monotonic() + 60)
    assert time.monotonic() - started < 10
    server.stop()


@pytest.mark.parametrize(
    ("url", "environment", "why"),
    [
        ("http://host:port", {}, "InvalidURL: Invalid port: 'port'"),
        ("http://127.0.0.1:99999", {}, "OverflowError: .*0-65535"),
        ("http://host", {"ALL_PROXY": "socks://127.0.0.1:1"}, "ValueError: Unknown scheme for proxy URL"),
        ("http://host", {"HTTP_PROXY": "http://[::1"}, "InvalidURL|ValueError"),
        ("https://host", {"SSL_CERT_FILE": "/nowhere"}, "FileNotFoundError"),
    ],
)
def test_a_request_that_cannot_be_sent_is_a_typed_error_with_the_variables_to_correct(
    url, environment, why, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unsendable, match=why):
        ask_once("GET", url, 5.0)
    service = Service(url, InfrastructureFault, "the server")
    with pytest.raises(InfrastructureFault, match=why) as caught:
        asyncio.run(service.post("/x", {}, lambda answer: answer))
    assert "ALL_PROXY, SSL_CERT_FILE" in caught.value.remedy
    assert environment or not is_healthy(url, 5.0)


@pytest.mark.parametrize("head", [True, False])
def test_the_time_limit_of_a_health_check_covers_the_whole_answer(head):
    async def inside_an_event_loop(url):
        return is_healthy(url, 0.3)

    with dripping(head, seconds=60.0) as url:
        assert not is_healthy(url, 0.3) and not asyncio.run(inside_an_event_loop(url))
    with FakeService(lambda *_: (200, {}, {})).running() as service:
        assert is_healthy(service.url, 10.0)
    assert not is_healthy(service.url, 10.0)
