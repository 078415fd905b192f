"""Lease of the session of nnInteractive's server: one client has it at a time, as long as it shows signs of life."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

LIVENESS_SECONDS = 60.0
"""Time without a sign of life after which a client counts as gone, and the next one may connect."""


class Gone(Exception):
    """The lease is unknown or has ended."""


class Full(Exception):
    """Another client has the lease."""


@dataclass(eq=False)
class Client:
    """A client that has, or had, the lease.

    Attributes:
        token: token of the lease.
        label: label of its prompts.
        seen: time of its last request, in monotonic seconds.
        dtype: type of its target buffer; None before it has one.
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
        """Give the lease to a new client; raise Full while another client is alive."""
        if self._client and time.monotonic() - self._client.seen < LIVENESS_SECONDS:
            raise Full("Another client is connected; close it, or wait a minute after it was closed.")
        self._client = Client(secrets.token_hex(16), label, time.monotonic())
        return self._client

    def of(self, token: str) -> Client:
        """Return the client with this token, and note a sign of life; raise Gone if it does not hold the lease."""
        if self._client is None or not secrets.compare_digest(self._client.token.encode(), token.encode()):
            raise Gone("The lease is unknown or has ended; connect again.")
        self._client.seen = time.monotonic()
        return self._client

    def require(self, client: Client) -> None:
        """Raise Gone if this client does not hold the lease any more."""
        if self._client is not client:
            raise Gone("The lease ended before the request was done; connect again.")

    def end(self, client: Client) -> None:
        """End the lease, so that the next client may connect."""
        self.require(client)
        self._client = None
