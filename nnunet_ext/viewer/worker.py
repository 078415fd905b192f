"""The one thread that works with a session: what is asked for meanwhile waits."""

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
"""Why a prompt of this type changed nothing."""

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
        changed: is told the prompts after every change, in the thread that works.

    Attributes:
        session: see :meth:`use`, which comes before anything else.
        resumed: so many prompts were there when the session was opened.
        prompts: what was done so far, as :mod:`nnunet_ext.interactive.prompt_list` has it; the same prompts give
            the same label map.
        progress: slices that are done, and how many there are at most; None while nothing is computed.
        failure: why the last call that nobody waited for did not work.
    """

    session: S2VSession

    def __init__(self, changed: Callable[[list[dict[str, Any]]], None] = lambda prompts: None) -> None:
        self.progress: tuple[int, int] | None = None
        self.failure: str | None = None
        self._changed = changed
        self._version = -1
        self._cancelled = threading.Event()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "session")

    def use(
        self, session: S2VSession, autosave: Autosave | None = None, touched: Callable[[], Any] = lambda: None
    ) -> None:
        """Work with this session from now on; to be called in the thread, or before it works.

        Args:
            session: nobody else may use it from now on.
            autosave: brings the session to where it ended, and keeps it from now on.
            touched: is told of every change of this session, in the thread.

        Raises:
            InputError: what was saved belongs to something else; the session before stays in use.
        """
        prompts, unanswered = ([], []) if autosave is None else autosave.restore(session)
        self.session, self._autosave, self._touched = session, autosave, touched
        self.prompts: list[dict[str, Any]] = prompts
        self._unanswered = unanswered
        self.resumed = len(prompts) + len(unanswered)
        self.failure = None
        self._undoable = 0
        self._version += 1
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
        """Start with the automatic result, or with what a killed server left undone; returns at once.

        :attr:`failure` says if it does not work.
        """

        def work() -> None:
            try:
                if not self.prompts:
                    self._called(lambda: self._apply({"type": "automatic"}, at_start=True))
                    self._undoable = 0  # nobody wants to go back to before
                for prompt in self._unanswered:
                    self._called(partial(self._apply, prompt))
            except Cancelled:
                pass  # prompts follow without it
            except Exception as error:
                self.failure = str(error) or type(error).__name__

        self._thread.submit(work)

    async def apply(self, prompt: Any, check: Callable[[], None] = lambda: None) -> Change:
        """Give a prompt, an entry of the list, to the session.

        Args:
            prompt: see :mod:`nnunet_ext.interactive.prompt_list`.
            check: is called in the thread before, and may raise what it wants.

        Raises:
            InputError: it is wrong, or there is nothing to undo; nothing has changed.
            Busy, Cancelled: see :meth:`do`.
        """
        autosave = self._autosave
        number = 0 if autosave is None else autosave.begin(prompt)

        def work() -> Change:
            check()
            return self._apply(prompt, number)

        try:
            return await self.do(work)
        finally:
            if autosave is not None:
                autosave.end(number)

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

    def _report(self, done: int, of: int) -> None:
        if self._cancelled.is_set():
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
        else:  # the session knows what was a step: a prediction with nothing new is none
            self._undoable = max(0, self._undoable + self.session.undo_steps - before)
            if box is None and not prompt.waits and kind in UNCHANGED:
                notices.append(f"Nothing has changed: {UNCHANGED[kind]}.")
        self.prompts.append(dict(prompt.content))
        self._version += 1
        try:
            if not at_start:  # a case that was only looked at is untouched
                if self._autosave is not None:
                    self._autosave.save(self.session, self.prompts, number)
                self._touched()
            self._changed(self.prompts)
        except OSError as error:  # the label map has changed all the same
            notices.append(f"The prompts could not be written: {error}.")
        labels = None if box is None else np.array(self.session.target_buffer[tuple(slice(*ends) for ends in box)])
        return Change(self._version, box, labels, tuple(notices))


def _no_file(name: str) -> NDArray:
    raise InputError("files are not read here; send a line.")
