"""Who may talk to the server: whoever has the link, from this machine's address, and with requests of sane size.

A page on any web site can send requests to ``127.0.0.1``, and a rebound DNS name can even read the answers. Therefore
the address that a browser believes to talk to is checked (``Host``), a request of another site is refused (``Origin``,
``Sec-Fetch-Site``), and everything needs a secret: the token of the link, which works once and is exchanged for a
cookie that no script can read, or a bearer token for programs.
"""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
"""Of every answer. NiiVue carries its font as a ``data:`` URL; nothing comes from another site."""


class Doorkeeper:
    """ASGI middleware; see the module's docstring.

    Args:
        app: what is behind the door.
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
                raise HTTPException(413, self._too_large)  # a body without a length, or with a wrong one
            return message

        await self.app(scope, receive_limited, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        """The answer to who may not come in, or a link's redirection; None for everybody else."""
        host = headers.get("host", "")
        if _without_port(host) not in self.hosts:
            return PlainTextResponse(f"This server is not called {host}.", 421)
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        foreign = foreign or (origin is not None and origin.partition("://")[2] != host)
        # a link that was clicked in a mail or a chat may come from another site, but only to the front door
        if foreign and not (scope["path"] == "/" and scope["method"] == "GET"):
            return PlainTextResponse("Requests of other sites are refused.", 403)
        if not self._known(headers):
            return self._unknown(scope)
        if self._given_token(scope) is not None and not self.bearer:
            return RedirectResponse("/", 303)  # so that the token does not stay in the address bar
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limit:
            return PlainTextResponse(self._too_large, 413)
        return None

    def _unknown(self, scope: Scope) -> ASGIApp:
        given = self._given_token(scope)
        if self._unused and scope["path"] == "/" and given is not None and _same(given, self._token):
            self._unused = False
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._secret, httponly=True, samesite="strict", path="/")
            return answer
        if self.bearer:
            return PlainTextResponse("Send the token that was printed, as Authorization: Bearer TOKEN.", 401)
        return PlainTextResponse(
            "Open the link that was printed when the server started. It works once, in one browser; start the server "
            "again for another.",
            401,
        )

    def _known(self, headers: Headers) -> bool:
        if self.bearer:
            kind, _, given = headers.get("authorization", "").partition(" ")
            return kind.lower() == "bearer" and _same(given, self._token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._secret)

    def _given_token(self, scope: Scope) -> str | None:
        return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("token", [])), None)

    @property
    def _too_large(self) -> str:
        return f"A request may have {self.limit} bytes at most."


def _without_port(host: str) -> str:
    """``127.0.0.1:80`` → ``127.0.0.1``; ``[::1]:80`` → ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same(given: str, expected: str) -> bool:
    """In a time that tells nothing about where they differ."""
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
