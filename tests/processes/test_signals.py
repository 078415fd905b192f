"""SIGTERM and SIGHUP are handled like Ctrl-C."""

import os
import signal
import subprocess
import sys

import pytest

from nnunet_ext import cli
from nnunet_ext.processes.signals import Stopped, exit_code, handled, interrupt, like_ctrl_c

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _heard():
    """They are ignored where pytest runs in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_every_command_ends_as_after_ctrl_c_and_says_by_which_signal(monkeypatch, capsys, number, code):
    cleaned = []

    def command(_):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(number)

    monkeypatch.setattr("nnunet_ext.cli.trainers._trainers", command)
    assert cli.main(["trainers"]) == code
    assert cleaned == [number]
    assert capsys.readouterr().err == "nnunet-ext: interrupted\n"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_on_purpose_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with like_ctrl_c():
        os.kill(os.getpid(), signal.SIGHUP)  # nohup
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_was_noted_is_raised_as_what_it_is():
    seen = []
    with handled(lambda number, _: seen.append(number), "SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert exit_code(interrupt(seen[0])) == 143
    assert exit_code(interrupt(signal.SIGINT)) == exit_code(KeyboardInterrupt()) == 130


FORK = """
import multiprocessing, os, signal, time
from nnunet_ext.processes.signals import like_ctrl_c

os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # exceptions in it are ignored
with like_ctrl_c():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.join(30)
print(child.exitcode)
child.kill()
"""


def test_a_fork_that_is_ended_while_it_starts_ends():
    shown = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{-signal.SIGTERM}\n", shown.stderr


FORKS = """
import os, signal, time
from nnunet_ext.processes.signals import like_ctrl_c

ends = set()
with like_ctrl_c():
    for _ in range(300):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)  # often before the child has run its first line
        until = time.monotonic() + 20
        while not (found := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
            time.sleep(0.001)
        ends.add(os.WTERMSIG(found[1]) if found[0] else "lives on")
        if not found[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
print(ends)
"""


def test_no_fork_outlives_a_signal_that_comes_at_once():
    shown = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{{{int(signal.SIGTERM)}}}\n", shown.stderr


def test_after_a_fork_the_parent_still_handles_its_signals():
    seen = []
    with handled(lambda number, _: seen.append(number), "SIGTERM"):
        child = os.fork()
        if not child:
            os._exit(signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)
        assert os.waitpid(child, 0)[1] == 0
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
