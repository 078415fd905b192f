"""Child processes are followed, continued and ended as a whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from nnunet_ext.discovery import discovery_folder
from nnunet_ext.processes import commands, progress
from nnunet_ext.processes.children import StepFailed, end_group, last_lines, run_step
from tests.killing import children, running, start, wait_until

posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")

# starts a child that ignores SIGTERM, says who it is, and waits
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print("child", child.pid, flush=True)
{end}
"""


def step(code: str, log: Path, **options: Any) -> None:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run_step("fake", command, shown="fake", log=log, env=os.environ, progress=options.get("progress", silent))


def silent(line: str) -> tuple[None, None]:
    """A command that takes no time."""
    return None, None


def grandchild(log: Path) -> int:
    [pid] = re.findall(r"^child (\d+)$", log.read_text(), re.MULTILINE)
    return int(pid)


# --- children ---------------------------------------------------------------------------------------------------------


@posix
def test_ending_a_group_kills_a_grandchild_that_ignores_the_request(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(end="time.sleep(60)")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    pid = int(process.stdout.readline().split()[1])
    assert running(pid)
    end_group(process, grace=0.3)
    assert process.returncode is not None
    assert wait_until(lambda: not running(pid))


@posix
@pytest.mark.parametrize("end", ["sys.exit(0)", "sys.exit(3)"])
def test_a_command_that_ends_leaves_no_grandchild(tmp_path, end):
    try:
        step(PARENT.format(end=end), tmp_path / "log")
    except StepFailed:
        assert end == "sys.exit(3)"
    assert wait_until(lambda: not running(grandchild(tmp_path / "log")))


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_whole_group(tmp_path, number):
    log = tmp_path / "log"
    code = f"""
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        from pathlib import Path
        from nnunet_ext.processes import children
        children.GRACE = 0.3
        command = [sys.executable, "-c", {PARENT.format(end="time.sleep(60)")!r}]
        try:
            log = Path({str(log)!r})
            children.run_step("fake", command, shown="fake", log=log, env=os.environ, progress=lambda _: (None, None))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    demo = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL)
    assert wait_until(lambda: log.is_file() and re.search(r"^child \d+$", log.read_text(), re.MULTILINE))
    assert running(grandchild(log))
    demo.send_signal(number)
    assert demo.wait(timeout=20) == 130
    assert wait_until(lambda: not running(grandchild(log)))


@posix
def test_a_command_ends_with_its_runner_even_if_that_is_killed_with_sigkill(tmp_path):
    log = tmp_path / "log"
    code = f"""
        import os, sys
        from pathlib import Path
        from nnunet_ext.processes import children
        command = [sys.executable, "-c", {PARENT.format(end="time.sleep(60)")!r}]
        log = Path({str(log)!r})
        children.run_step("fake", command, shown="fake", log=log, env=os.environ, progress=lambda _: (None, None))
    """
    runner = start("-c", textwrap.dedent(code))
    assert wait_until(lambda: log.is_file() and re.search(r"^child \d+$", log.read_text(), re.MULTILINE))
    ours = children(runner.pid)  # the command and its guard
    assert len(ours) == 2
    runner.kill()
    runner.communicate(timeout=20)  # nobody keeps its output open
    assert wait_until(lambda: not any(map(running, [*ours, grandchild(log)])))


def test_a_failed_command_names_its_log_and_shows_its_end(tmp_path):
    log = tmp_path / "logs" / "fake.log"
    with pytest.raises(StepFailed) as error:
        step("print('before'); raise ValueError('no such case')", log)
    assert str(log) in str(error.value)
    assert "exit code 1" in str(error.value)
    assert "ValueError: no such case" in str(error.value)


def test_the_log_is_appended_to_and_a_progress_bar_in_it_counts_as_one_line(tmp_path):
    log = tmp_path / "log"
    for number in (1, 2):
        step(f"print('run', {number}, end='\\n\\n'); print('a 0/2\\ra 1/2\\ra 2/2')", log)
    assert log.read_text().count("$ fake\nrun") == 2
    assert last_lines(log, 2) == "  run 2\n  a 2/2"


def test_the_progress_reader_gets_every_line_as_it_comes(tmp_path):
    seen = []

    def read(line: str) -> tuple[float | None, str | None]:
        seen.append(line)
        return None, None

    step("print('one\\rtwo'); print('ü')", tmp_path / "log", progress=read)
    assert [line for line in seen if line] == ["one", "two", "ü"]


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_of_a_training():
    read = progress.training(4)
    assert read("2026-01-01 10:00:00.000000: Epoch 0") == (0, "epoch 1/4")
    assert read("2026-01-01 10:00:00.000000: Epoch time: 4.5 s") == (None, None)
    assert read("2026-01-01 10:00:00.000000: Pseudo dice [np.float32(0.5), np.float32(nan)]") == (None, None)
    assert read("2026-01-01 10:00:00.000000: Epoch 3") == (0.75, "epoch 4/4, pseudo Dice 0.50 nan")
    assert read("2026-01-01 10:00:00.000000: Training done.") == (1, "validation")
    assert read("2026-01-01 10:00:00.000000: predicting case_7") == (1, "validation case_7")
    assert read("$ nnUNetv2_predict -i imagesTs -o predictions") == (1, "held-out cases")


def test_progress_of_preprocessing():
    read = progress.preprocessing()
    assert read("Extracting dataset fingerprint:  50%|█████     | 6/12 [00:13<00:06]") == (0.25, "fingerprint")
    assert read("Preprocessing cases:  50%|█████     | 6/12 [00:08<00:01]") == (0.75, "cases")


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "flag"),
    [
        ([], ""),
        (["checkpoint_latest.pth"], "--c"),
        (["checkpoint_best.pth"], "--c"),
        (["checkpoint_best.pth", "checkpoint_final.pth"], "--val"),
        (["checkpoint_final.pth", "validation/case.nii.gz"], "--val"),
        (["checkpoint_final.pth", "validation/summary.json"], None),
    ],
)
def test_a_training_goes_on_where_its_files_say(tmp_path, files, flag):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert commands.continuation(tmp_path) == flag


def test_a_console_command_runs_in_this_environment():
    result = subprocess.run(commands.console(["nnunet-ext", "--version"]), capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("nnunet-ext ")


def test_the_environment_of_commands_points_to_the_folders_and_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    own = commands.environment(raw="/r", preprocessed="/p", results="/s")
    assert (own["nnUNet_raw"], own["nnUNet_preprocessed"], own["nnUNet_results"]) == ("/r", "/p", "/s")
    assert own["nnUNet_n_proc_DA"] == "5"
    assert commands.for_planner(own) == own
    assert own["nnUNet_extTrainer"].split(os.pathsep) == ["/elsewhere", str(discovery_folder())]


def test_a_training_may_augment_itself_but_the_planner_gets_a_worker(monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    own = commands.environment(raw="/r", preprocessed="/p", results="/s", augmenting=0)
    assert own["nnUNet_n_proc_DA"] == "0"
    assert commands.for_planner(own) == {**own, "nnUNet_n_proc_DA": "1"}
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    own = commands.environment(raw="/r", preprocessed="/p", results="/s", augmenting=0)
    assert own["nnUNet_n_proc_DA"] == "3"
