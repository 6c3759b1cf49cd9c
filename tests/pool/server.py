"""A web server of a test: a real one on loopback, which writes down who connects and when it sees a connection end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.pool.ledger import PATIENCE, note


class NotingProtocol(H11Protocol):
    """One connection, named after the client's port."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        note(f"opened {self._port}")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        note(f"lost {self._port}")

    @property
    def _port(self) -> int:
        assert self.client is not None
        return self.client[1]


async def double(scope: Any, receive: Any, send: Any) -> None:
    """Answer ``/21`` with ``42``, and write down who asked through which connection."""
    who = dict(scope["headers"]).get(b"x-who", b"anyone").decode()
    note(f"asked {scope['client'][1]} by {who}")
    await asyncio.sleep(0.002)  # so that requests overlap
    body = str(2 * int(scope["path"][1:])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving() -> Iterator[str]:
    """Serve ``double`` in a thread; give its address. It ends no connection that is idle: that is left to clients."""
    options: dict[str, Any] = {"loop": "asyncio", "lifespan": "off", "ws": "none", "log_config": None}
    config = uvicorn.Config(double, http=NotingProtocol, timeout_keep_alive=600, access_log=False, **options)
    server = uvicorn.Server(config)
    # Of the protocol TCP by name, or asyncio would not switch off Nagle's delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, args=([listening],), name="test server", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
