"""Ends child processes together with their parent, even if the parent was killed with SIGKILL."""

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

# waits until its input closes, which happens when its parent ends, then kills a process group
_GUARD = "import os, sys; sys.stdin.buffer.read(); os.killpg(int(sys.argv[1]), 9)"


def end_with_parent() -> None:
    """Make this worker of ``multiprocessing`` end when its parent does; meant as the pool's initializer.

    On Linux the kernel does it. Everywhere, a thread watches multiprocessing's pipe from the parent, which works unless
    the worker never gives Python time. The worker leaves Ctrl-C, which a terminal sends to all processes, to the
    parent.
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
    """Context in which the process group of ``leader`` is killed if this process is killed; on Windows it is not.

    A small process does it. It has its own session, so signals to our terminal or group do not reach it.
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
