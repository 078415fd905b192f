"""The one thread that uses a session; calls wait for each other."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.prompt_list import parse_prompts
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.autosave import Autosave

Result = TypeVar("Result")

_DRAWN = "what you drew had this label already, and the network's answer is the same"
UNCHANGED = {
    **dict.fromkeys(("point", "scribble", "lasso"), _DRAWN),
    "box": "the network's answer is the same",
    "brush": "these voxels had this label already",
    "automatic": "this is the automatic result",
}
"""Reasons why a prompt changed nothing, by its type."""

QUEUE = 16
"""Largest number of waiting calls. Nobody draws faster than that on purpose."""


class Cancelled(Exception):
    """The user cancelled the call; the session has not changed."""


class Busy(Exception):
    """Too many calls are waiting."""


@dataclass(frozen=True, eq=False)
class Change:
    """Result of a call.

    Attributes:
        version: version of the label map, one higher than before.
        box: the changed part of the label map; None if nothing changed.
        labels: the new labels in the box.
        notices: sentences for the user.
    """

    version: int
    box: Box | None
    labels: NDArray | None
    notices: tuple[str, ...] = ()


class SessionWorker:
    """Runs every call of a session in one thread; see the module's docstring.

    Args:
        changed: called with the prompts after every change, in the worker's thread.

    Attributes:
        session: the session; :meth:`use` must be called first.
        resumed: number of prompts in the session when it was opened.
        prompts: all prompts so far, in the format of :mod:`nnunet_ext.interactive.prompt_list`; the same prompts give
            the same label map.
        progress: numbers of finished slices and, at most, of all slices; None while nothing is computed.
        failure: reason why the last call in the background failed.
    """

    session: S2VSession

    def __init__(self, changed: Callable[[list[dict[str, Any]]], None] = lambda prompts: None) -> None:
        self.progress: tuple[int, int] | None = None
        self.failure: str | None = None
        self._changed = changed
        self._version = -1
        self._cancelled = threading.Event()
        self._closing = False
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "session")

    def use(
        self, session: S2VSession, autosave: Autosave | None = None, touched: Callable[[], Any] = lambda: None
    ) -> None:
        """Use this session from now on; call this in the worker's thread, or before the first call.

        Args:
            session: a session that nobody else uses.
            autosave: restores the session, and saves it from now on.
            touched: called after every change of this session, in the worker's thread.

        Raises:
            InputError: the saved session belongs to another image or model; the previous session stays in use.
        """
        prompts, unanswered = ([], []) if autosave is None else autosave.restore(session)
        self.session, self._autosave, self._touched = session, autosave, touched
        self.prompts: list[dict[str, Any]] = prompts
        self._unanswered = unanswered  # with their numbers
        self.resumed = len(prompts) + len(unanswered)
        self.failure = None
        self._undoable = 0
        self._version += 1
        session.progress = self._report

    async def do(self, call: Callable[[], Result]) -> Result:
        """Run a function in the worker's thread, after the calls that wait already.

        Raises:
            Busy: too many calls are waiting.
            Cancelled: see :meth:`cancel`.
            Exception: any exception of the function.
        """
        if self._waiting >= QUEUE:
            raise Busy("Too many prompts are waiting; wait for the first of them.")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(self._called, call))
        finally:
            self._waiting -= 1

    def open(self) -> None:
        """Start the automatic result, and the prompts that a killed server left unanswered, in the background.

        If one of them fails, :attr:`failure` has the reason. Each can be cancelled on its own; those that are not
        computed when the worker is closed still wait.
        """

        def work() -> None:
            if not self.prompts:
                self._in_background(lambda: self._apply({"type": "automatic"}, at_start=True))
                self._undoable = 0  # undo must not remove the automatic result
            while self._unanswered and self._autosave is not None and not self._closing:
                number, prompt = self._unanswered.pop(0)
                self._autosave.end(number)
                answered = self._in_background(partial(self._apply, prompt, number))
                if self._closing and not answered:
                    self._autosave.begin(prompt, number)

        self._thread.submit(work)

    async def apply(self, prompt: Any, check: Callable[[], None] = lambda: None) -> Change:
        """Give a prompt to the session.

        Args:
            prompt: an entry of the list in :mod:`nnunet_ext.interactive.prompt_list`.
            check: called first, in the worker's thread; it may raise any exception.

        Raises:
            InputError: the prompt is wrong, or there is nothing to undo; nothing has changed.
            Busy, Cancelled: see :meth:`do`.
        """
        autosave = self._autosave
        number = 0 if autosave is None else autosave.begin(prompt)

        def work() -> Change:
            check()
            return self._apply(prompt, number)

        lost = False
        try:
            return await self.do(work)
        except (asyncio.CancelledError, Cancelled) as error:
            lost = self._closing or isinstance(error, asyncio.CancelledError)  # the server ends before the answer
            raise
        finally:
            if autosave is not None and not lost:
                autosave.end(number)

    async def look(self) -> Change:
        """Return the whole label map."""

        def work() -> Change:
            labels = self.session.target_buffer.copy()
            return Change(self._version, [[0, size] for size in labels.shape], labels)

        return await self.do(work)

    def cancel(self) -> None:
        """Cancel the running call."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel the running call and end the thread."""
        self._closing = True
        self._thread.shutdown(cancel_futures=True)

    @property
    def state(self) -> dict[str, Any]:
        """The state that the page shows beside the image."""
        return {
            "version": self._version,
            "busy": self._waiting > 0 or self.progress is not None,
            "progress": self.progress,
            "undo": self._undoable,
            "redo": self.session.redo_steps,
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

    def _in_background(self, call: Callable[[], Any]) -> bool:
        """Call a function for which nobody waits; returns whether it ended well."""
        try:
            self._called(call)
        except Cancelled:
            return False
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            return False
        return True

    def _report(self, done: int, of: int) -> None:
        if self._cancelled.is_set() or self._closing:
            raise Cancelled
        self.progress = (done, of)

    def _apply(self, entry: Any, number: int = 0, at_start: bool = False) -> Change:
        (prompt,) = parse_prompts({"prompts": [entry]}, "Request", _no_file)
        kind = prompt.content["type"]
        if kind == "undo" and not self._undoable:
            raise InputError("There is nothing to undo.")
        if kind == "redo" and not self.session.redo_steps:
            raise InputError("There is nothing to do again.")
        before = self.session.undo_steps
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            box = prompt.apply(self.session)
        notices = [str(warning.message) for warning in caught]
        if kind == "reset":
            box, self._undoable = [[0, size] for size in self.session.case.shape], 0
        else:  # the session counts the steps: a prediction without new prompts is none
            self._undoable = max(0, self._undoable + self.session.undo_steps - before)
            if box is None and not prompt.waits and kind in UNCHANGED:
                notices.append(f"Nothing has changed: {UNCHANGED[kind]}.")
        self.prompts.append(dict(prompt.content))
        self._version += 1
        try:
            if not at_start:  # opening a case does not count as touching it
                if self._autosave is not None:
                    self._autosave.save(self.session, self.prompts, number)
                self._touched()
                self._changed(self.prompts)
        except OSError as error:  # the label map has changed nevertheless
            notices.append(f"The prompts could not be written: {error}.")
        labels = None if box is None else np.array(self.session.target_buffer[tuple(slice(*ends) for ends in box)])
        return Change(self._version, box, labels, tuple(notices))


def _no_file(name: str) -> NDArray:
    raise InputError("files are not read here; send a line.")
