"""The one thread that works with a session: what is asked for meanwhile waits."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.prompt_list import parse_prompts
from nnunet_ext.interactive.session import S2VSession

Result = TypeVar("Result")

QUEUE = 16
"""So many calls may wait. Nobody draws faster than that on purpose."""


class Cancelled(Exception):
    """The user did not want to wait; the session is what it was."""


class Busy(Exception):
    """Too many calls wait."""


@dataclass(frozen=True, eq=False)
class Change:
    """Result of a call.

    Attributes:
        version: of the label map, one more than before.
        box: where it has changed; None if nowhere.
        labels: what is there now, like the box.
        notices: what the user should know.
    """

    version: int
    box: Box | None
    labels: NDArray | None
    notices: tuple[str, ...] = ()


class SessionWorker:
    """Runs every call of a session in one thread; see the module's docstring.

    Args:
        session: nobody else may use it from now on.
        changed: is told the prompts after every change, in the thread that works.

    Attributes:
        prompts: what was done so far, as :mod:`nnunet_ext.interactive.prompt_list` has it; the same prompts give
            the same label map.
        progress: slices that are done, and how many there are at most; None while nothing is computed.
        failure: why the last call that nobody waited for did not work.
    """

    def __init__(
        self, session: S2VSession, changed: Callable[[list[dict[str, Any]]], None] = lambda prompts: None
    ) -> None:
        self.session = session
        self.prompts: list[dict[str, Any]] = []
        self.progress: tuple[int, int] | None = None
        self.failure: str | None = None
        self._changed = changed
        self._version = 0
        self._undoable = 0
        self._cancelled = threading.Event()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "session")
        session.progress = self._report

    async def do(self, call: Callable[[], Result]) -> Result:
        """Let the thread call something, after what waits already.

        Raises:
            Busy: too much waits.
            Cancelled: see :meth:`cancel`.
            Exception: what the call raises.
        """
        if self._waiting >= QUEUE:
            raise Busy("Too many prompts are waiting; wait for the first of them.")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(self._called, call))
        finally:
            self._waiting -= 1

    def open(self) -> None:
        """Start with the automatic result; returns at once, and :attr:`failure` says if it does not work."""

        def work() -> None:
            try:
                self._called(lambda: self._apply({"type": "automatic"}))
                self._undoable = 0  # nobody wants to go back to before
            except Cancelled:
                pass  # prompts follow without it
            except Exception as error:
                self.failure = str(error) or type(error).__name__

        self._thread.submit(work)

    async def apply(self, prompt: Any) -> Change:
        """Give a prompt, an entry of the list, to the session.

        Raises:
            InputError: it is wrong, or there is nothing to undo; nothing has changed.
            Busy, Cancelled: see :meth:`do`.
        """
        return await self.do(lambda: self._apply(prompt))

    async def look(self) -> Change:
        """Return all of the label map."""

        def work() -> Change:
            labels = self.session.target_buffer.copy()
            return Change(self._version, [[0, size] for size in labels.shape], labels)

        return await self.do(work)

    def cancel(self) -> None:
        """End what is being computed."""
        self._cancelled.set()

    def close(self) -> None:
        """End what is being computed, and the thread."""
        self.cancel()
        self._thread.shutdown(cancel_futures=True)

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the page shows beside the image."""
        return {
            "version": self._version,
            "busy": self._waiting > 0 or self.progress is not None,
            "progress": self.progress,
            "undo": self._undoable,
            "prompts": len(self.prompts),
            "failure": self.failure,
            "locked": self.session.locked_structures,
            "accepted": self.session.accepted_slices,
        }

    def _called(self, call: Callable[[], Result]) -> Result:
        self._cancelled.clear()
        self.progress = (0, 0)
        try:
            return call()
        finally:
            self.progress = None

    def _report(self, done: int, of: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        self.progress = (done, of)

    def _apply(self, entry: Any) -> Change:
        (prompt,) = parse_prompts({"prompts": [entry]}, "Request", _no_file)
        kind = prompt.content["type"]
        if kind == "undo" and not self._undoable:
            raise InputError("There is nothing to undo.")
        before = self.session.undo_steps
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            box = prompt.apply(self.session)
        if kind == "reset":
            box, self._undoable = [[0, size] for size in self.session.case.shape], 0
        else:  # the session knows what was a step: a prediction with nothing new is none
            self._undoable = max(0, self._undoable + self.session.undo_steps - before)
        self.prompts.append(dict(prompt.content))
        self._version += 1
        notices = [str(warning.message) for warning in caught]
        try:
            self._changed(self.prompts)
        except OSError as error:  # the label map has changed all the same
            notices.append(f"The prompts could not be written: {error}.")
        labels = None if box is None else np.array(self.session.target_buffer[tuple(slice(*ends) for ends in box)])
        return Change(self._version, box, labels, tuple(notices))


def _no_file(name: str) -> NDArray:
    raise InputError("files are not read here; send a line.")
