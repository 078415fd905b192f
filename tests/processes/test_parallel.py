"""Workers give their results in order, and are gone when the process that started them is, however it ends."""

import signal
import sys

import pytest

from nnunet_ext.processes.parallel import for_every_case
from tests.killing import at_work, children, running, start, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SCRIPT = """
import sys, time
from nnunet_ext.processes import orphans
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.processes.signals import exit_code, like_ctrl_c

def work(seconds):
    time.sleep(seconds)

if __name__ == "__mp_main__":  # in a worker
    {worker}

if __name__ == "__main__":
    try:
        with like_ctrl_c():
            list(for_every_case(work, [(60,), (60,), (60,)], 2, "work"))
    except KeyboardInterrupt as error:
        sys.exit(exit_code(error))
"""


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> int:
    if number == 1:
        raise KeyError(number)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_cases(processes):
    assert list(for_every_case(double, [(3,), (1,), (2,)], processes, "double")) == [6, 2, 4]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_case_is_raised_here(processes):
    with pytest.raises(KeyError):
        list(for_every_case(fail, [(0,), (1,), (2,)], processes, "fail"))


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_worker_is_left_after_a_signal_and_no_pipe_open(tmp_path, number):
    process, ours = started(tmp_path, "pass")
    process.send_signal(number)
    process.communicate(timeout=20)  # returns when everybody has closed the pipes
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert wait_until(lambda: not any(map(running, ours)))


@linux
@pytest.mark.parametrize(
    "without", ["orphans.threading.Thread.start = lambda self: None", "orphans._PR_SET_PDEATHSIG = 0"]
)
def test_the_kernel_alone_and_the_pipe_alone_end_the_workers_of_a_killed_process(tmp_path, without):
    process, ours = started(tmp_path, without)
    process.kill()
    process.communicate(timeout=20)
    assert wait_until(lambda: not any(map(running, ours)))


def started(folder, worker):
    """The script at work, and the processes that it has started."""
    (folder / "script.py").write_text(SCRIPT.format(worker=worker))
    process = start(folder / "script.py", preexec_fn=hear_signals)
    assert wait_until(lambda: sum(map(at_work, children(process.pid))) == 2, 60)
    return process, children(process.pid)


def hear_signals():
    """They are ignored where pytest runs in the background, and what is ignored stays so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
