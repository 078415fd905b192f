"""Autosave: the session of a case in a file, and beside it the prompts that are not computed yet.

Both are written as a whole or not at all, so a killed server loses nothing: what was answered is in the session, and
what was asked is in the file beside it and is computed when the case is opened again.
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
    """Keeps one case.

    Args:
        file: of the session; the prompts that wait are in a file of the same name with ``.waiting``.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.waiting_file = file.with_name(file.name + ".waiting")
        self._waiting: dict[int, Any] = {}
        self._last = 0
        self._lock = threading.Lock()

    def begin(self, prompt: Any) -> int:
        """Note a prompt that somebody asked for; returns its number."""
        with self._lock:
            number = max([self._last, *self._waiting]) + 1
            self._waiting[number] = prompt
            self._write()
        return number

    def end(self, number: int) -> None:
        """Forget a prompt that was answered, or refused."""
        with self._lock:
            self._last = max(self._last, number)
            del self._waiting[number]
            self._write()

    def save(self, session: S2VSession, prompts: Sequence[Any], number: int) -> None:
        """Save a session in which the prompt of this number was answered last.

        Raises:
            OSError: the disk refuses.
        """
        try:
            session.save(self.file, {"prompts": list(prompts), "last": max(number, self._last)})
        except InputError as error:  # the folder is gone
            raise OSError(str(error)) from None

    def restore(self, session: S2VSession) -> tuple[list[Any], list[Any]]:
        """Bring a session to where it ended, if it was saved.

        Returns:
            The prompts that made it, and those that were asked for and never answered.

        Raises:
            InputError: the session belongs to another image or model, or the file is broken.
        """
        prompts: list[Any] = []
        if self.file.is_file():
            session.restore(self.file)
            notes = read_notes(self.file)
            prompts, self._last = list(notes["prompts"]), int(notes["last"])
        unanswered = [prompt for number, prompt in self._read() if number > self._last]
        self.waiting_file.unlink(missing_ok=True)  # a prompt that ends the server must not end it again and again
        return prompts, unanswered

    def _read(self) -> list[tuple[int, Any]]:
        try:
            return [(int(number), prompt) for number, prompt in json.loads(self.waiting_file.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def _write(self) -> None:
        """Write what waits; a disk that refuses is said when the session is saved."""
        with suppress(OSError):
            if self._waiting:
                write_text(self.waiting_file, json.dumps(sorted(self._waiting.items())))
            else:
                self.waiting_file.unlink(missing_ok=True)
