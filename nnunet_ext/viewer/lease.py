"""Lease of the session of nnInteractive's server: one client has it at a time, as long as it gives signs of life."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

LIVENESS_SECONDS = 60.0
"""Without a sign of life for so long, a client has gone, and the next one can come."""


class Gone(Exception):
    """The lease is unknown, or has ended."""


class Full(Exception):
    """Another client has the lease."""


@dataclass(eq=False)
class Client:
    """A client that has, or had, the lease.

    Attributes:
        token: of the lease.
        label: that its prompts are for.
        seen: when it last asked for something, monotonic seconds.
        dtype: of its target buffer; None before it has one.
    """

    token: str
    label: int
    seen: float
    dtype: str | None = None


class Lease:
    """The lease of one session; see the module's docstring."""

    def __init__(self) -> None:
        self._client: Client | None = None

    def claim(self, label: int) -> Client:
        """Give the lease to a new client; raise Full while another one is alive."""
        if self._client and time.monotonic() - self._client.seen < LIVENESS_SECONDS:
            raise Full("Another client is connected; close it, or wait a minute after it was closed.")
        self._client = Client(secrets.token_hex(16), label, time.monotonic())
        return self._client

    def of(self, token: str) -> Client:
        """Return the client with this token, which is a sign of life; raise Gone if the lease is not its own."""
        if self._client is None or not secrets.compare_digest(self._client.token.encode(), token.encode()):
            raise Gone("The lease is unknown or has ended; connect again.")
        self._client.seen = time.monotonic()
        return self._client

    def require(self, client: Client) -> None:
        """Raise Gone if the lease has ended since this client was asked for."""
        if self._client is not client:
            raise Gone("The lease ended before the request was done; connect again.")

    def end(self, client: Client) -> None:
        """Let the next client come."""
        self.require(client)
        self._client = None
