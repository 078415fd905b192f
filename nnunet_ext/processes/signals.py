"""The signals that mean "stop": Ctrl-C, a lost terminal, and the signal of a scheduler or ``kill``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

Handler = Callable[[int, "FrameType | None"], None]


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived. As a KeyboardInterrupt it runs the same clean-up as Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Stopped` in the main thread, as SIGINT raises ``KeyboardInterrupt``."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with handled(stop, "SIGTERM", "SIGHUP"):
        yield


def interrupt(number: int) -> KeyboardInterrupt:
    """The exception to raise for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


def exit_code(error: KeyboardInterrupt) -> int:
    """Exit code of a command ended by a signal, as in shells: 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP)."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


_earlier: list[dict[int, Any]] = []
"""Handlers before each context that is open, outermost first."""

_mask = threading.local()


@contextmanager
def handled(handler: Handler, *names: str) -> Iterator[None]:
    """Context in which ``handler`` is called for these signals; a signal that is ignored on purpose (nohup) stays so.

    Outside the main thread, where Python allows no handlers, the context does nothing. In a fork the signals have their
    earlier handlers, and one that arrives while the fork starts waits until then. Otherwise Python would forget it, and
    ``multiprocessing.Pool.terminate``, which may send one so early, would wait for ever.
    """
    previous: dict[int, Any] = {}
    for name in names:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):
                previous[number] = signal.signal(number, handler)
    _earlier.append(previous)
    try:
        yield
    finally:
        _restore(previous)
        _earlier[:] = [one for one in _earlier if one is not previous]


def _restore(previous: dict[int, Any]) -> None:
    for number, before in previous.items():
        signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not set by Python


def _hold() -> None:
    """Before a fork: let the handled signals wait."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, {number for one in _earlier for number in one})


def _release() -> None:
    """After a fork, in the parent."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _release_child() -> None:
    """After a fork, in the child."""
    while _earlier:
        _restore(_earlier.pop())
    _release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_child)
