"""Locks: one holder at a time, and nobody after the holder was killed."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from nnunet_ext.processes.lock import held, is_held

HOLDER = """
import os, sys, time
from pathlib import Path
from nnunet_ext.processes.lock import held
with held(Path(sys.argv[1]), inherited=sys.argv[2] == "True") as free:
    child = os.fork()  # as a worker that loads data, which may outlive its parent
    if child:
        print(free, child, flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.mark.parametrize("inherited", [True, False])
def test_after_kill_9_a_lock_is_free_unless_it_was_inherited_by_a_child(tmp_path, inherited):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), str(inherited)], stdout=subprocess.PIPE)
    worker = None
    try:
        free, child = holder.stdout.readline().split()
        worker = int(child)
        assert free == b"True"
        with held(path, inherited=inherited) as second:
            assert not second
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(worker, 0)  # still there
        with held(path, inherited=inherited) as third:
            assert third is not inherited
    finally:
        holder.kill()
        holder.stdout.close()
        if worker is not None:
            os.kill(worker, signal.SIGKILL)


def test_a_process_may_hold_a_lock_that_is_not_inherited_twice(tmp_path):
    with held(tmp_path / "lock", inherited=False) as first, held(tmp_path / "lock", inherited=False) as second:
        assert first
        assert second


def test_a_drive_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with held(tmp_path / "lock", inherited=False) as free:
        assert free


def test_what_was_never_held_is_not_held(tmp_path):
    assert not is_held(tmp_path / "lock")
    with held(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")
