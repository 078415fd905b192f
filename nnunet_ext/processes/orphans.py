"""Processes end with the one that started them, even if that was killed with SIGKILL and could not say so."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h

# waits for the end of its input, which is that of whoever holds the other end, then kills a process group
_GUARD = "import os, sys; sys.stdin.buffer.read(); os.killpg(int(sys.argv[1]), 9)"


def end_with_parent() -> None:
    """Let this worker of ``multiprocessing`` end when its parent does; to be its initializer.

    Linux is asked to do it. A thread that watches multiprocessing's pipe from the parent does it everywhere, unless
    the worker never gives Python time. Ctrl-C, which a terminal sends to all processes, is left to the parent.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def group_ends_with_us(leader: int) -> Iterator[None]:
    """Context in which the process group of ``leader`` is killed if this process is; on Windows it stays.

    A small process of its own does it, which nothing that is sent to our terminal or group reaches.
    """
    if sys.platform == "win32":
        yield
        return
    guard = subprocess.Popen(
        [sys.executable, "-ISc", _GUARD, str(leader)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()  # before its input ends
        guard.communicate()
