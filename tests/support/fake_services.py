"""Fake network services on local ports: Tavily's search and an OpenAI-compatible chat API.

Each uses the real service's schema, status codes and error bodies (compared with the services' public clients), and
returns faults when a test plans them.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "tvly-dev-0123456789abcdefSECRET"
TOO_FAST = "Your request has been blocked due to excessive requests. Please reduce the rate of requests."
USED_UP = "This request exceeds your plan's set usage limit. Please upgrade your plan or contact support"


class FakeService:
    """An HTTP server; `answer(path, headers, body)` returns `(status, headers, bytes or JSON)`.

    Attributes:
        plan: answers to give before calling `answer`; each is such a triple or a function from the body to one.
        seen: bodies of all requests, in order.
        max_in_flight: largest number of requests handled at the same time.
    """

    def __init__(self, answer: Callable):
        self.answer, self.plan, self.seen, self.max_in_flight = answer, [], [], 0
        self._in_flight, self._lock, service = 0, threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"null")
                with service._lock:
                    service.seen.append(body)
                    service._in_flight += 1
                    service.max_in_flight = max(service.max_in_flight, service._in_flight)
                    planned = service.plan.pop(0) if service.plan else None
                if planned is None:
                    status, headers, content = service.answer(self.path, self.headers, body)
                else:
                    status, headers, content = planned(body) if callable(planned) else planned
                with service._lock:
                    service._in_flight -= 1
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                with contextlib.suppress(OSError):  # the client has closed the connection
                    self.send_response(status)
                    for name, value in {
                        "Content-Type": "application/json",
                        "Content-Length": len(content),
                        **headers,
                    }.items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            handle_error = staticmethod(lambda *_: None)  # clients may close their connection

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeService]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@contextlib.contextmanager
def dripping(head: bool = True, seconds: float = 6.0) -> Iterator[str]:
    """A server that sends its answer one byte per 0.1 s: the body, or with `head=False` the headers; yields its URL."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):
                self.request.recv(65536)
                self.request.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 1000\r\n\r\n" if head else b"X: "))
                for _ in range(int(seconds / 0.1)):
                    self.request.sendall(b" ")
                    time.sleep(0.1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def slow(seconds: float, then: tuple) -> Callable:
    """A planned answer that is sent after a delay."""

    def answer(_body):
        time.sleep(seconds)
        return then

    return answer


def tavily_error(status: int, text: str, **headers) -> tuple:
    return status, headers, {"detail": {"error": text}}


def tavily(path: str, headers, body: dict) -> tuple:
    """Tavily's POST /search."""
    if path != "/search":
        return 404, {}, {"detail": "Not Found"}
    if headers["authorization"] != f"Bearer {KEY}":
        return tavily_error(401, "Unauthorized: missing or invalid API key.")
    if len(body["query"]) > 400:
        return tavily_error(400, "Query is too long. Max query length is 400 characters.")
    if body.get("search_depth", "basic") not in ("basic", "advanced") or not 0 <= body.get("max_results", 5) <= 20:
        return 422, {}, {"detail": [{"loc": ["body", "search_depth"], "msg": "bad value", "type": "value_error"}]}
    results = [
        {
            "title": f"{body['query']} {rank}",
            "url": f"https://site{rank}.example.org/page?q={rank}",
            "content": f"About <strong>{body['query']}</strong> &amp; more, {rank}.",
            "score": 1 - rank / 50,
            "raw_content": None,
        }
        for rank in range(1, body.get("max_results", 5) + 1)
    ]
    if results:
        results[0]["published_date"] = "2024-03-01T10:00:00Z"
    return (
        200,
        {},
        {
            "query": body["query"],
            "follow_up_questions": None,
            "answer": None,
            "images": [],
            "results": results,
            "response_time": 0.67,
            "request_id": "00000000-0000-4000-8000-000000000000",
        },
    )


def chat(reply: Callable[[str], str]) -> Callable:
    """POST /v1/chat/completions; `reply` maps the last message to the assistant's reply."""

    def answer(path: str, _headers, body: dict) -> tuple:
        if path != "/v1/chat/completions":
            return 404, {}, {"detail": "Not Found"}
        if body["model"] == "absent":
            return (
                404,
                {},
                {"error": {"message": "The model `absent` does not exist.", "type": "NotFoundError", "code": 404}},
            )
        content = reply(body["messages"][-1]["content"])
        return (
            200,
            {},
            {
                "id": "chatcmpl-0",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            },
        )

    return answer
