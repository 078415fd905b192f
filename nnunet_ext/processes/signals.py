"""The signals that mean "stop": Ctrl-C, a lost terminal, and the signal of a scheduler or ``kill``."""

from __future__ import annotations

import os
import signal
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


@contextmanager
def handled(handler: Handler, *names: str) -> Iterator[None]:
    """Context in which ``handler`` is called for these signals; a signal that is ignored on purpose (nohup) stays so.

    Outside the main thread, where Python allows no handlers, the context does nothing. In a fork the signals keep their
    earlier handlers. An exception from ours would be lost if the signal arrived while Python starts the fork; a signal
    of ``multiprocessing.Pool.terminate`` may, and then ``terminate`` would wait for ever.
    """
    previous: dict[int, Any] = {}
    owner = os.getpid()

    def received(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:
            before = previous[number]
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: not set by Python
            os.kill(os.getpid(), number)

    for name in names:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(ValueError):
                previous[number] = signal.signal(number, received)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
