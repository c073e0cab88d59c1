"""Who may ask, and how much: host, origin, token, size, rate; and what every response says."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Iterable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 20
_DRAINED = 16 * MOST_BYTES  # what is read of a longer one
_COOKIE = "scaling-sim"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Lets through what this server's own page may ask.

    Parameters
    ----------
    app : ASGI application
        Behind it.
    token : str
        That the address carries once, a cookie or ``Authorization: Bearer`` from then on.
    hosts : iterable of str
        What ``Host`` may say: a page of another name that resolves to us is turned away.
    rate : float
        Requests a second, in the long run. [1/s]
    burst : int
        Requests at once.
    body_s : float
        Longest time a body takes to come. [s]
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: Iterable[str], rate: float = 200.0,
        burst: int = 400, body_s: float = 5.0,
    ) -> None:  # fmt: skip
        self._app, self._token, self._hosts = app, token, frozenset(hosts)
        self._rate, self._burst, self._body_s = rate, burst, body_s
        self._left, self._seen = float(burst), time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turn a request away, or hand it on with its body read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if headers.get("host", "") not in self._hosts:
            await _refuse(send, 421, "this host is not served here")
            return
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            await _refuse(send, 403, "another page may not ask")
            return
        if not self._in_time():
            await _refuse(send, 429, "too many requests; wait a second")
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given and self._right(given):
            await _welcome(send, self._token)
            return
        if not self._right(_token_of(headers)):
            await _refuse(send, 401, "open the address that scaling-sim serve printed")
            return
        try:
            body = await asyncio.wait_for(_read(receive), self._body_s)
        except TimeoutError:
            await _refuse(send, 408, f"no whole request in {self._body_s:g} s")
            return
        if body is None:
            await _refuse(send, 413, f"more than {MOST_BYTES >> 20} MiB")
            return
        await self._app(scope, _replayed(body, receive), _with_headers(send))

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def _in_time(self) -> bool:
        """A bucket that fills at the rate."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + self._rate * (now - self._seen))
        self._seen = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _token_of(headers: MutableMapping[str, str]) -> str:
    bearer = headers.get("authorization", "")
    if bearer.startswith("Bearer "):
        return bearer.removeprefix("Bearer ")
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except Exception:  # a cookie that is none, whoever set it
        return ""
    return cookies[_COOKIE].value if _COOKIE in cookies else ""


async def _read(receive: Receive) -> bytes | None:
    """The body; None where it is too long, which who sends it hears once it is sent."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        size += len(message.get("body", b""))
        if size <= MOST_BYTES:
            body += message.get("body", b"")
        elif size > _DRAINED:
            return None
        if not message.get("more_body", False):
            return bytes(body) if size <= MOST_BYTES else None


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"faults": [{"path": "", "message": text}]}).encode()
    await _respond(send, status, [(b"content-type", b"application/json")], body)


async def _welcome(send: Send, token: str) -> None:
    """The token as a cookie, out of the address."""
    cookie = f"{_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    await _respond(send, 303, [(b"location", b"/"), (b"set-cookie", cookie.encode())], b"")


async def _respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    length: list[tuple[bytes, bytes]] = [(b"content-length", str(len(body)).encode())]
    start: dict[str, Any] = {
        "type": "http.response.start", "status": status, "headers": [*headers, *length, *_HEADERS],
    }  # fmt: skip
    await send(start)
    await send({"type": "http.response.body", "body": body})
