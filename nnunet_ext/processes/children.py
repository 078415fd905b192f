"""Runs a command in its own process group, with a log file and a progress bar, and leaves no process behind.

nnU-Net starts data-loading and export workers. They outlive a parent that is only terminated. So a command and all
processes that it started are ended together, as one process group, however the command ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ext.processes.orphans import group_ends_with_us
from nnunet_ext.processes.signals import handled, interrupt

GRACE = 10.0
"""Seconds between asking a process group to end and killing it."""

Progress = Callable[[str], "tuple[float | None, str | None]"]
"""Function from a line of output to the finished fraction of the command and a note beside the bar.

``None`` leaves either as it is. The function may keep state: it gets every line, in order.
"""


class StepFailed(RuntimeError):
    """A command ended with an error; the message names it and its log, and quotes the log's last lines."""


def run_step(
    title: str, command: Sequence[str], *, shown: str, log: Path, env: Mapping[str, str], progress: Progress
) -> None:
    """Run ``command``. Its output is appended to ``log``, below the line ``shown``, and drives a progress bar.

    SIGINT, SIGTERM and SIGHUP end the whole process group before ``KeyboardInterrupt`` is raised. If this process is
    killed, so is the group.

    Raises:
        StepFailed: the exit code is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, signals_noted() as received:
        output.write(f"$ {shown}\n".encode())
        output.flush()
        start = output.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(env), **own_group()
        )
        try:
            with group_ends_with_us(process.pid):
                _follow(process, title, follow_lines(log, start), progress, received)
        finally:
            # after a normal end only stragglers may be left
            end_group(process, grace=1.0 if process.poll() is not None else GRACE, hurry=lambda: len(received) > 1)
    if received:
        raise interrupt(received[0])
    if process.returncode:
        code = process.returncode
        how = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}{', out of memory?' * (code == -9)}"
        raise StepFailed(f"the step '{title}' failed ({how}); the last lines of {log} are\n{last_lines(log)}")


def last_lines(log: Path, count: int = 8) -> str:
    """The last ``count`` non-empty lines of a log, indented; a progress bar counts as one line, its last state."""
    lines = [line.split("\r")[-1].rstrip() for line in log.read_bytes().decode(errors="replace").split("\n")]
    return "\n".join(f"  {line}" for line in [line for line in lines if line][-count:])


def _follow(
    process: subprocess.Popen, title: str, lines: Iterator[str | None], progress: Progress, received: list[int]
) -> None:
    """Move the bar until the process has ended and its last line is read, or until a signal arrives."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=1.0,
        desc=title,
        bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}{postfix}",
        dynamic_ncols=True,
        mininterval=0.2 if terminal else 15,
    ) as bar:
        moved = False
        while not received:
            ended = process.poll() is not None
            for line in lines:
                if line is None:  # nothing more for now
                    break
                fraction, note = progress(line)
                if fraction is not None:
                    if not moved:
                        moved, bar.initial = True, fraction  # earlier work took no time in this run
                    bar.update(min(fraction, 1.0) - bar.n)
                if note is not None:
                    bar.set_postfix_str(note, refresh=False)
            if ended:
                if process.returncode == 0:
                    bar.set_postfix_str("", refresh=False)
                    bar.update(1.0 - bar.n)
                return
            if terminal:
                bar.refresh()
            time.sleep(0.2)


def follow_lines(log: Path, start: int) -> Iterator[str | None]:
    """Yield complete lines of a growing file from byte ``start``, and ``None`` whenever there are no more for now.

    A carriage return also ends a line, so every state of a progress bar is a line.
    """
    rest = ""
    with log.open("rb") as file:
        file.seek(start)
        while True:
            block = file.read()
            if block:
                *complete, rest = re.split(r"[\r\n]", rest + block.decode(errors="replace"))
                yield from complete
            yield None


# --- process groups ---------------------------------------------------------------------------------------------------


def own_group() -> dict[str, Any]:
    """Arguments of ``Popen`` for a process group of its own: Ctrl-C then reaches only us, and we end the group."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def end_group(process: subprocess.Popen, *, grace: float = GRACE, hurry: Callable[[], bool] = lambda: False) -> None:
    """End ``process`` and all it started: terminate, wait up to ``grace`` seconds or until ``hurry()``, then kill.

    ``process`` must have its own process group (:func:`own_group`). Nothing happens if the group has no process left.
    """
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
            process.wait()
        return
    try:
        with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError when only zombies are left
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline and not hurry():
                process.poll()  # reaps the leader; the group exists until all members are reaped
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Context in which signals that mean "stop" are only appended to a list, so that they interrupt nothing."""
    received: list[int] = []
    with handled(lambda number, _: received.append(number), "SIGINT", "SIGTERM", "SIGHUP"):
        yield received


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
