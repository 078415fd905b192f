"""Runs something in children that are killed with SIGKILL, at every line or at random moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def killed_at_line(write: Callable[[], None], number: int, files: set[str]) -> bool:
    """Run ``write`` in a fork that kills itself before the ``number``-th line of ``files``; False if it ended before.

    Args:
        write: what to run.
        number: from 1.
        files: names of source files whose lines count.
    """
    pid = os.fork()
    if pid == 0:
        seen = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal seen
            if Path(frame.f_code.co_filename).name not in files:
                return None
            if event == "line":
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            write()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def left_over(folder: Path) -> list[Path]:
    """Temporary files and folders below ``folder``."""
    return [path for path in folder.rglob("*") if path.suffix in (".tmp", ".old")]


def contents(folder: Path) -> dict[str, bytes]:
    """The files below ``folder``, without what is temporary."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(".tmp") for part in path.relative_to(folder).parts)
    }


def running(pid: int) -> bool:
    """A zombie that nobody has collected yet does not run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def children(pid: int) -> set[int]:
    """The processes that ``pid`` has started; Linux."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(status.parent.name))
        except OSError:
            continue
    return found


def at_work(pid: int) -> bool:
    """Whether a worker of ours has got as far as to leave Ctrl-C to its parent; Linux."""
    try:
        [ignored] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")]
    except (OSError, ValueError):
        return False
    return bool(int(ignored.split()[1], 16) >> (signal.SIGINT - 1) & 1) and b"spawn_main" in _command(pid)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen:
    """A Python process whose output is a pipe to us."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
