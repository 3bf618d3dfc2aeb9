"""An ASGI guard for a server that trusts whoever reaches it.

Dagster's webserver runs mutations that any web page sends, by GET or as a form, answers any Host
and accepts WebSockets of any origin. The guard lets through what the server's own pages and
programs on this machine send, and refuses what a browser sends on behalf of another site:

- a Host that was not allowed (DNS rebinding)
- an Origin other than the page's own, and requests that the browser marks as cross-site, except
  that a link may open a page
- a GraphQL query in an address, and a request body other than JSON: another site can't send JSON
  without the server's consent
- with a token, every request that doesn't carry it: as the password of HTTP's basic authentication,
  or as a bearer token
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SAFE_METHODS = ("GET", "HEAD")
_POLICY_VIOLATION = 1008
_SECURITY_HEADERS = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused, as the answer to it."""

    status: int
    reason: str


class Guard:
    """Wraps an ASGI application.

    Args:
        app: the application.
        allowed_hosts: host names, without a port, under which the server may be addressed.
        token: what each request must carry; empty: none.
    """

    def __init__(
        self, app: App, allowed_hosts: Collection[str] = LOOPBACK, token: str = ""
    ) -> None:
        self.app = app
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, and pass on every other."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.check(scope)
        if refusal is None:
            await self.app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "websocket":
            await receive()  # the handshake
            await send(
                {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.reason}
            )
        else:
            await _answer(refusal, send)

    def check(self, scope: Scope) -> Refusal | None:
        """Why the request is refused, or None where it may pass.

        >>> page = {"type": "http", "method": "GET", "path": "/"}
        >>> page["headers"] = [(b"host", b"localhost:3000")]
        >>> Guard(app=None).check(page) is None
        True
        >>> Guard(app=None).check(page | {"headers": [(b"host", b"evil.example")]}).status
        403
        """
        headers = _Headers(scope["headers"])
        if headers.repeated:
            return Refusal(400, f"the header {headers.repeated} comes twice")
        if _host_name(headers.get("host")) not in self.allowed_hosts:
            return Refusal(403, "this server is not known under that name: see --allowed-host")
        if self.token and not _carries(self.token, headers.get("authorization")):
            return Refusal(401, "this server needs its token as the password")
        if self._is_cross_site(scope, headers):
            return Refusal(403, "another site may not send requests to this server")
        if scope["type"] == "websocket":
            return None
        return _check_method(scope, headers)

    def _is_cross_site(self, scope: Scope, headers: _Headers) -> bool:
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc.lower() != headers.get("host").lower():
            return True
        site = headers.get("sec-fetch-site")
        return site not in ("", "same-origin", "none") and not _is_link(scope, headers)


class _Headers:
    """Headers by their lower-case name; ``repeated`` names one that decides and comes twice."""

    _DECIDING = ("host", "origin", "authorization", "content-type", "sec-fetch-site")

    def __init__(self, raw: Collection[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        self.repeated = ""
        for name_bytes, value in raw:
            name = name_bytes.decode("latin-1").lower()
            if name in self._values and name in self._DECIDING:
                self.repeated = name
            self._values[name] = value.decode("latin-1")

    def get(self, name: str) -> str:
        """The value, empty where the header is missing."""
        return self._values.get(name, "")


def _host_name(host: str) -> str:
    """The name without the port.

    >>> [_host_name(host) for host in ("LocalHost:3000", "[::1]:3000", "a@b", "a:b:c")]
    ['localhost', '::1', '', '']
    """
    if any(character in host for character in "@/?#\\ \t"):
        return ""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError where it isn't a number
    except ValueError:
        return ""
    return (parts.hostname or "").lower()


def _carries(token: str, authorization: str) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode(), token.encode())


def _is_link(scope: Scope, headers: _Headers) -> bool:
    """Whether a browser opens a page because a person followed a link."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _check_method(scope: Scope, headers: _Headers) -> Refusal | None:
    if scope["method"] in _SAFE_METHODS:
        if _is_graphql(scope) and "query" in parse_qs(
            scope["query_string"].decode("latin-1"), keep_blank_values=True
        ):
            return Refusal(405, "send GraphQL as JSON by POST")
        return None
    media_type = headers.get("content-type").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return Refusal(415, "send JSON, with the content type application/json")
    return None


def _is_graphql(scope: Scope) -> bool:
    return scope["path"].rstrip("/").endswith("/graphql")


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_SECURITY_HEADERS]
        await send(message)

    return send_with_headers


async def _answer(refusal: Refusal, send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="m3h", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{refusal.reason}\n".encode()})
