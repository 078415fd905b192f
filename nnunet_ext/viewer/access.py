"""Access to the server: only for users with the link, at this machine's address, and with requests of limited size.

A page on any web site can send requests to ``127.0.0.1``, and a rebound DNS name can even read the answers. So the
server checks the address that the browser asked for (``Host``), refuses requests of other sites (``Origin``,
``Sec-Fetch-Site``), and needs a secret for everything. For browsers this is the token of the link, which works once and
is exchanged for a cookie that no script can read; for programs it is a bearer token.

The cookie is ``SameSite=Lax``. If a user clicks the link in webmail or a chat, another site has begun the navigation,
and the browser sends no ``Strict`` cookie with it, not even after the redirection to ``/``. The token would be used up
and the page refused. With ``Lax`` another site can only navigate a browser to the page, and learns nothing.

Requests without a key cost almost nothing: they are refused from the headers alone, in a time linear in their length;
the body is not read, and the connection is closed.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINK_BYTES = 1024
"""Largest query in bytes; a mail program may add its own parameters to the token."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer. NiiVue's font is a ``data:`` URL; nothing is loaded from another site."""


class AccessMiddleware:
    """Middleware that refuses forbidden requests; see the module's docstring.

    Args:
        app: application to protect.
        hosts: names of the server, without a port, that requests may use.
        token: token of the link, or of the ``Authorization`` header.
        port: port of the server; it is part of the cookie's name, because cookies do not tell ports apart.
        limit: largest body of a request, in bytes.
        bearer: whether clients are programs, which send the token with every request, as ``Authorization: Bearer``,
            instead of a cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        token: str,
        port: int,
        limit: int,
        bearer: bool = False,
    ) -> None:
        self.app, self.hosts, self.limit, self.bearer = app, hosts, limit, bearer
        self._token = token
        self._unused = not bearer
        self._cookie = f"nnunet_ext_{port}"
        self._secret = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no websockets here

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers)
        if answer is not None:
            return await answer(scope, receive, send_with_headers)
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise HTTPException(
                    413, self._too_large, {"connection": "close"}
                )  # a body without a length, or with a wrong one
            return message

        await self.app(scope, receive_limited, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """Return the answer to a refused request, or the redirection of the link; None for all other requests."""
        host = headers.get("host", "")
        if _without_port(host) not in self.hosts:
            return _refused(f"This server is not called {host[:80]}.", 421)
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        foreign = foreign or (origin is not None and origin.partition("://")[2] != host)
        # a link clicked in a mail or a chat may come from another site, but only to "/"
        if foreign and not (scope["path"] == "/" and scope["method"] == "GET"):
            return _refused("Requests of other sites are refused.", 403)
        if not self._known(headers):
            return self._unknown(scope, headers)
        if not self.bearer and self._given_token(scope) is not None:
            return RedirectResponse("/", 303)  # so that the token does not stay in the address bar
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > self.limit:
            return _refused(self._too_large, 413)
        return None

    def _unknown(self, scope: Scope, headers: Headers) -> ASGIApp:
        if self.bearer:
            return _refused("Send the token that was printed, as Authorization: Bearer TOKEN.", 401)
        # a mail program that checks links, or a browser that prefetches pages, must not use the token up
        ahead = scope["method"] != "GET" or "prefetch" in headers.get("sec-purpose", headers.get("purpose", ""))
        given = self._given_token(scope)
        if self._unused and not ahead and given is not None and _same(given, self._token):
            self._unused = False
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._secret, httponly=True, samesite="lax", path="/")
            return answer
        return _refused(
            "Open the link that was printed when the server started. It works once, in one browser; start the server "
            "again for another.",
            401,
        )

    def _known(self, headers: Headers) -> bool:
        if self.bearer:
            kind, _, given = headers.get("authorization", "").partition(" ")
            return kind.lower() == "bearer" and _same(given, self._token)
        # without http.cookies, whose time is quadratic in the backslashes of a value (CVE-2024-7592)
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == self._cookie and _same(value, self._secret) for name, _, value in pairs)

    def _given_token(self, scope: Scope) -> str | None:
        query = scope["query_string"]
        if scope["path"] != "/" or len(query) > LINK_BYTES:
            return None
        return next(iter(parse_qs(query.decode("latin-1")).get("token", [])), None)

    @property
    def _too_large(self) -> str:
        return f"A request may have {self.limit} bytes at most."


def _refused(text: str, status: int) -> ASGIApp:
    """An answer that also closes the connection, so that the server does not read the body."""
    return PlainTextResponse(text, status, {"connection": "close"})


def _without_port(host: str) -> str:
    """The host without its port: ``127.0.0.1`` for ``127.0.0.1:80``, ``::1`` for ``[::1]:80``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on where the texts differ."""
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
