"""Ends a training after an epoch, with everything that ``--c`` needs, on request or when its time is up.

A file ``STOP`` in the folder of the fold ends it after the current epoch. ``NNUNET_EXT_STOP_AFTER=11h`` ends it before
the first epoch that no longer fits into 11 hours since its start, for jobs with a time limit.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from nnunet_ext.errors import InputError

FILE = "STOP"
VARIABLE = "NNUNET_EXT_STOP_AFTER"

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


class Stopped(SystemExit):
    """Leaves ``nnUNetv2_train``, whose exit code is then 0; the training is not over."""

    def __init__(self) -> None:
        super().__init__(0)


def seconds_of(text: str) -> float:
    """Seconds of a duration such as ``11h``, ``1h30m`` or ``90s``.

    Raises:
        InputError: it is none.
    """
    match = _PARTS.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise InputError(f"{VARIABLE} is {text!r}, which is no duration; write hours, minutes or seconds: 11h, 1h30m.")
    return sum(float(number) * unit for number, unit in zip(match.groups("0"), (3600, 60, 1), strict=True))


def limit_from_environment() -> float | None:
    """Seconds that a training may take; None without :data:`VARIABLE`.

    Raises:
        InputError: the variable is no duration.
    """
    text = os.environ.get(VARIABLE)
    return seconds_of(text) if text else None


class StopRule:
    """Reasons to end a training, and the time that it took since this object was made.

    Attributes:
        folder: of the fold.
        limit: in seconds; None if only the file ends it.
    """

    def __init__(self, folder: Path, limit: float | None = None) -> None:
        self.folder, self.limit = folder, limit
        self.begin = self.last = time.monotonic()
        self.longest, self.epochs = 0.0, 0

    def epoch_ended(self) -> float:
        """Note the time; returns the mean seconds of an epoch so far."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self.last)
        self.last = now
        self.epochs += 1
        return (now - self.begin) / self.epochs

    def reason(self) -> str | None:
        """Return why the training has to end now; None if it continues. The file is removed, because it counts once."""
        file = self.folder / FILE
        if file.exists():
            self.forget()
            return f"{file} was there (it is removed now)"
        if self.limit is not None and self.last - self.begin + self.longest > self.limit:
            return f"{VARIABLE} allows {self.limit:g} seconds, into which another epoch may not fit"
        return None

    def forget(self) -> None:
        """Remove the file, if it is there."""
        (self.folder / FILE).unlink(missing_ok=True)
