"""A real HTTP proxy on loopback that loses, doubles, delays, reorders, refuses and resets."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from http_stub import Reply, Request

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection"})
SLOW_S = 0.15
JSON = {"Content-Type": "application/json"}


class Fault(Enum):
    """What happens to a request."""

    PASS = "pass"
    DROP = "drop"  # acknowledged to the sender, never delivered
    TWICE = "twice"  # delivered two times
    SLOW = "slow"  # delivered after SLOW_S
    LATE = "late"  # acknowledged at once, delivered at a flush, in another order
    ERROR = "error"  # answered with 500, never delivered
    BUSY = "busy"  # answered with 429 and Retry-After
    RESET = "reset"  # the connection breaks before anything is delivered
    LOST_ANSWER = "lost answer"  # delivered, then the connection breaks


Decision = Fault | Reply  # a Reply is sent instead of asking the target
Plan = Callable[[Request], Decision]


def random_plan(
    seed: int, weights: Mapping[Fault, float], when: Callable[[Request], bool] = lambda _: True
) -> Plan:
    """Faults drawn with these weights; requests that `when` refuses pass."""
    draw, lock = random.Random(seed), threading.Lock()

    def plan(request: Request) -> Decision:
        if not when(request):
            return Fault.PASS
        with lock:
            return draw.choices(list(weights), list(weights.values()))[0]

    return plan


@dataclass
class FaultProxy:
    """Stands in front of `target`; a context manager. `plan` may be changed at any time."""

    target: str
    plan: Plan = lambda _: Fault.PASS
    seed: int = 0
    retry_after_s: int = 0
    seen: list[tuple[float, Request, Decision]] = field(default_factory=list)
    _late: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def count(self, *faults: Fault) -> int:
        """How many requests met one of these faults."""
        return sum(decision in faults for _, _, decision in list(self.seen))

    def decide(self, request: Request) -> Decision:
        """What the plan says, noted down."""
        decision = self.plan(request)
        with self._lock:
            self.seen.append((time.monotonic(), request, decision))
            if decision is Fault.LATE:
                self._late.append(request)
        return decision

    def flush(self) -> int:
        """Deliver what was held back, in a drawn order; returns how much that was."""
        with self._lock:
            late, self._late = self._late, []
        self._random.shuffle(late)
        for request in late:
            self.forward(request)
        return len(late)

    def forward(self, request: Request) -> Reply:
        """Ask the target."""
        parts = urlsplit(self.target)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        headers["Host"] = parts.netloc
        try:
            connection.request(request.method, request.path, request.body or None, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP}
        return Reply(answer.status, body, {k: v for k, v in kept.items() if k != "Content-Length"})

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = dict(self.headers)
            request = Request(self.command, self.path, headers, self.rfile.read(length))
            reply = self.act(request, proxy.decide(request))
            if reply is None:
                # An RST instead of an orderly end.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
                return
            body = reply.body if isinstance(reply.body, bytes) else b"{}"
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        def act(self, request: Request, decision: Decision) -> Reply | None:
            if isinstance(decision, Reply):
                return decision
            if decision is Fault.RESET:
                return None
            if decision is Fault.ERROR:
                return Reply(500, b"{}", JSON)
            if decision is Fault.BUSY:
                return Reply(429, b"{}", {**JSON, "Retry-After": str(proxy.retry_after_s)})
            if decision in (Fault.DROP, Fault.LATE):
                return Reply(200, b"{}", JSON)
            if decision is Fault.SLOW:
                time.sleep(SLOW_S)
            try:
                if decision is Fault.TWICE:
                    proxy.forward(request)
                reply = proxy.forward(request)
            except OSError:
                return None  # the target is away: so is the proxy
            return None if decision is Fault.LOST_ANSWER else reply

        def finish(self) -> None:
            if not self.connection._closed:  # type: ignore[attr-defined]
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
