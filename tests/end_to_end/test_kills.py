"""Every command that starts workers or writes is killed: no worker is left, nothing is half there, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.landmarks.formats import write_markups
from nnunet_ext.landmarks.points import present
from tests import tiny
from tests.killing import at_work, children, contents, left_over, running, start, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MOMENTS = 25

COMMANDS = {
    "scribbles generate": "scribbles generate 901 --new-dataset 905",
    "scribbles check": "scribbles check 901 -o {out}",
    "evaluate": "evaluate {labels} {labels} --dataset-json {raw}/dataset.json -o {out}",
    "landmarks check": "landmarks check 901 -o {out}",
    "landmarks evaluate": "landmarks evaluate {raw}/landmarksTr {raw}/landmarksTr --labels {labels} -o {out}",
    "landmarks pseudo-label": "landmarks pseudo-label 901 --new-dataset 906",
    "splits --check": "splits 901 --check",
}
"""Every command of ours that works in several processes."""

WRITERS = {
    **{name: command for name, command in COMMANDS.items() if "splits" not in name},
    "landmarks convert": "landmarks convert {raw}/landmarksTr --to csv -o {out} --force",
    "plans": "plans 901 --epochs 3 --name new --force",
    "splits": "splits 901 --by case --force",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set with masks, an ignore label and landmarks, in which every command finds something to do."""
    root = tmp_path_factory.mktemp("killed")
    tiny.write_preprocessed(root / "raw", root / "preprocessed", "ignore")
    names = ["tip", "end"]
    landmarks = {"names": names, "surface_of": {"tip": ["left"]}, "spans": {"left": [names]}}
    tiny.declare(root, {"landmarks": landmarks})
    raw = root / "raw" / tiny.DATASET
    positions = {"tip": present((4.0, 8.0, 9.0)), "end": present((12.0, 8.0, 9.0))}
    for file in (raw / "landmarksTr").iterdir():
        write_markups(file, positions)
    return root


@pytest.fixture
def workplace(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "all")
    for name in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "all" / name))
    return tmp_path / "all"


def words(command, root):
    raw = root / "raw" / tiny.DATASET
    return command.format(raw=raw, labels=raw / "labelsTr", out=root / "out").split()


def more_cases(raw):
    """So many that every command is at work for a while."""
    for file in [*(raw / "imagesTr").iterdir(), *(raw / "labelsTr").iterdir(), *(raw / "landmarksTr").iterdir()]:
        for copy in range(1, 5):
            shutil.copyfile(file, file.with_name(file.name.replace("tiny_", f"tiny_{copy}")))
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "numTraining": 30}))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_worker_outlives_a_command(workplace, name, number):
    more_cases(workplace / "raw" / tiny.DATASET)
    process = start("-m", "nnunet_ext", *words(COMMANDS[name], workplace), "--processes", "2")
    assert wait_until(lambda: any(map(at_work, children(process.pid))) or process.poll() is not None, 120)
    assert process.poll() is None, process.communicate()
    ours = children(process.pid)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)  # returns when everybody has closed the pipes
    assert process.returncode == (143 if number == signal.SIGTERM else -9)
    assert wait_until(lambda: not any(map(running, ours)), 5)
    if number == signal.SIGTERM:
        assert "Traceback" not in errors
        assert errors.endswith("nnunet-ext: interrupted\n")
        assert not left_over(workplace)


# forks after everything is imported, so that every moment is one of the command's own work
FORKS = """
import os, sys
from importlib import import_module
for name in {modules}:
    import_module(name)
from nnunet_ext.cli import main
print("ready", flush=True)
while line := sys.stdin.readline():
    pid = os.fork()
    if pid == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os._exit(main(line.split()))
    print(pid, flush=True)
    sys.stdin.readline()  # until then its number stays its own
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
MODULES = [
    *(
        "SimpleITK",
        "matplotlib.backends.backend_agg",
        "nnunetv2.imageio.simpleitk_reader_writer",
        "nnunet_ext.planning",
    ),
    *("nnunet_ext.scribbles.generate", "nnunet_ext.scribbles.check", "nnunet_ext.evaluation.folders", "jinja2"),
    *("nnunet_ext.landmarks.check", "nnunet_ext.landmarks.evaluate", "nnunet_ext.landmarks.formats"),
    *("nnunet_ext.landmarks.pseudo.generate", "nnunet_ext.splits.write"),
]


@pytest.fixture
def forks(workplace):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS.format(modules=MODULES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate()


def run(forks, command, seconds=None):
    """The exit code of one fork, which is killed after ``seconds``."""
    forks.stdin.write(" ".join(command) + "\n")
    pid = int(forks.stdout.readline())
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    forks.stdin.write("collect it\n")
    return int(forks.stdout.readline())


@pytest.mark.parametrize("name", WRITERS)
def test_killed_at_any_moment_a_command_leaves_the_old_or_the_new_and_the_next_start_nothing_else(
    workplace, forks, name
):
    command = words(WRITERS[name], workplace)
    if name in COMMANDS:
        command += ["--processes", "1"]
    if "pseudo-label" in name:
        only_landmarks(workplace / "raw" / tiny.DATASET / "labelsTr" / "tiny_5.nii.gz")
    before = contents(workplace)
    begin = time.monotonic()
    code = run(forks, command)
    assert code == 0 or (code, name) == (1, "scribbles check")  # which finds something fatal here
    duration = time.monotonic() - begin
    after = contents(workplace)
    written = {path for path in after if after[path] != before.get(path)}
    assert written
    whole_folder = "--new-dataset" in command
    if not whole_folder:
        # an older file of the same kind, as some commands replace no other
        before |= {path: before.get(path, after[path] + b"\n") for path in written if "splits" not in path}
    moments = random.Random(name)
    killed = 0
    while killed < MOMENTS:
        restore(workplace, before)
        in_time = run(forks, command, moments.uniform(0, duration)) == -signal.SIGKILL
        killed += in_time
        duration *= 1.03 if in_time else 0.9  # other processes make it faster or slower
        there = contents(workplace)
        assert before.keys() <= there.keys()
        for path, content in there.items():
            assert content in (before.get(path), after[path]), path
        if whole_folder:
            assert len(written & there.keys()) in (0, len(written))
    restore(workplace, before)
    assert run(forks, command) == code
    assert contents(workplace) == after
    assert not left_over(workplace)


def only_landmarks(label):
    """Make it a label map in which nothing is annotated."""
    image = sitk.ReadImage(str(label))
    everything = sitk.GetImageFromArray(np.full_like(sitk.GetArrayFromImage(image), 3))
    everything.CopyInformation(image)
    sitk.WriteImage(everything, str(label))


def restore(folder, before):
    """Put back what was there; nothing else is left but what is temporary."""
    for path, content in contents(folder).items():
        if path not in before:
            (folder / path).unlink()
        elif content != before[path]:
            (folder / path).write_bytes(before[path])
    for path, content in before.items():
        if not (folder / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    for dataset in (folder / "raw").glob("Dataset90[2-9]*"):
        shutil.rmtree(dataset)
