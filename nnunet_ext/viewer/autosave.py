"""Autosave: the session of a case in a file, and beside it a file of the prompts that are not computed yet.

Both files are written as a whole or not at all, so a killed server loses nothing. The session holds the answered
prompts; the file beside it holds the others, which are computed when the case is opened again. There each leaves the
file before it is computed, so a prompt that crashes the server does not crash it at every start.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_text
from nnunet_ext.interactive.saved import read_notes
from nnunet_ext.interactive.session import S2VSession


class Autosave:
    """Keeps the session of one case.

    Args:
        file: file of the session; waiting prompts are in a file with ``.waiting`` appended to its name.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.waiting_file = file.with_name(file.name + ".waiting")
        self._waiting: dict[int, Any] = {}
        self._last = 0
        self._lock = threading.Lock()

    def begin(self, prompt: Any, number: int | None = None) -> int:
        """Note a requested prompt and return its number; with ``number``, one that keeps the number it had."""
        with self._lock:
            number = max([self._last, *self._waiting]) + 1 if number is None else number
            self._waiting[number] = prompt
            self._write()
        return number

    def end(self, number: int) -> None:
        """Forget a prompt that was answered or refused."""
        with self._lock:
            self._last = max(self._last, number)
            del self._waiting[number]
            self._write()

    def save(self, session: S2VSession, prompts: Sequence[Any], number: int) -> None:
        """Save a session; ``number`` is that of the prompt answered last.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            session.save(self.file, {"prompts": list(prompts), "last": number})
        except InputError as error:  # the folder does not exist any more
            raise OSError(str(error)) from None

    def restore(self, session: S2VSession) -> tuple[list[Any], list[tuple[int, Any]]]:
        """Restore a session, if it was saved.

        Returns:
            The prompts that it has answered, and the requested prompts that were never answered, with their numbers;
            they still wait.

        Raises:
            InputError: the session belongs to another image or model or was not saved by a page, or the file is broken.
        """
        prompts: list[Any] = []
        if self.file.is_file():
            notes = read_notes(self.file)
            if not isinstance(notes, dict) or not {"prompts", "last"} <= set(notes):
                raise InputError(
                    f"{self.file} is a session without the prompts that a page keeps in it, as S2VSession.save writes "
                    "it; move it away, or choose another --out."
                )
            session.restore(self.file)
            prompts, self._last = list(notes["prompts"]), int(notes["last"])
        self._waiting = {number: prompt for number, prompt in self._read() if number > self._last}
        with self._lock:
            self._write()
        return prompts, sorted(self._waiting.items())

    def _read(self) -> list[tuple[int, Any]]:
        try:
            return [(int(number), prompt) for number, prompt in json.loads(self.waiting_file.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def _write(self) -> None:
        """Write the waiting prompts. Errors are ignored here; saving the session reports them."""
        with suppress(OSError):
            if self._waiting:
                write_text(self.waiting_file, json.dumps(sorted(self._waiting.items())))
            else:
                self.waiting_file.unlink(missing_ok=True)
