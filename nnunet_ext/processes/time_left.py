"""Text for the remaining time of a run."""

from __future__ import annotations

import time


def time_left(seconds: float | None) -> str:
    """The text ``about 2 h 05 min left, until Mon 14:10``; empty if the time is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(1, minutes)} min"
    return f"about {hours} left, until {time.strftime('%a %H:%M', time.localtime(time.time() + seconds))}"
