"""Access to the server: for whoever has the link, from this machine's address, and with requests of sane size.

A page on any web site can send requests to ``127.0.0.1``, and a rebound DNS name can even read the answers. Therefore
the address that a browser believes to talk to is checked (``Host``), a request of another site is refused (``Origin``,
``Sec-Fetch-Site``), and everything needs a secret: the token of the link, which works once and is exchanged for a
cookie that no script can read, or a bearer token for programs.

The cookie is ``SameSite=Lax``. A link that is clicked in webmail or a chat is a navigation that another site began, and
a browser sends no ``Strict`` cookie with it, not even after the redirection to ``/``: the token would be used up, and
the page refused. With ``Lax`` another site can only navigate a browser to us, and gets nothing there but the page.

Whoever has no key costs nothing: refusals come from the headers alone, in a time that is linear in their length, the
body is not read, and the connection is closed.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINK_BYTES = 1024
"""Bytes of a query at most: a mail program may add its own to the token."""

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
"""Headers of every answer. NiiVue carries its font as a ``data:`` URL; nothing comes from another site."""


class AccessMiddleware:
    """Middleware that refuses whoever may not talk to the server; see the module's docstring.

    Args:
        app: that is protected.
        hosts: names, without a port, by which the server may be addressed.
        token: of the link or of the ``Authorization`` header.
        port: part of the cookie's name, since cookies do not tell ports apart.
        limit: bytes of a request's body.
        bearer: programs: the token comes with every request, as ``Authorization: Bearer``; there is no cookie.
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
        """Return the answer to a request that is refused, or a link's redirection; None for every other one."""
        host = headers.get("host", "")
        if _without_port(host) not in self.hosts:
            return _refused(f"This server is not called {host[:80]}.", 421)
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        foreign = foreign or (origin is not None and origin.partition("://")[2] != host)
        # a link that was clicked in a mail or a chat may come from another site, but only to the front door
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
        # a mail program that looks at its links, and a browser that fetches pages before a click, do not use it up
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
        # not with http.cookies, whose time is quadratic in the backslashes of a value (CVE-2024-7592)
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
    """Close the connection, so that the server does not read a body that nobody wants."""
    return PlainTextResponse(text, status, {"connection": "close"})


def _without_port(host: str) -> str:
    """``127.0.0.1:80`` → ``127.0.0.1``; ``[::1]:80`` → ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing about where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
