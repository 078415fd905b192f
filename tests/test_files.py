"""Files and folders are there as a whole or not at all, whenever their writer is killed, and nothing is left behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext import beside
from nnunet_ext.errors import InputError
from nnunet_ext.files import (
    refusal_of,
    replacing,
    require_folder,
    write_json,
    write_rows,
    write_text,
    written_as_a_whole,
)
from nnunet_ext.processes.lock import held
from tests.killing import contents, left_over

ROOT = Path(__file__).parent.parent

posix = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")

# a light process, because it forks for every line
AT_EVERY_LINE = """
import json, shutil, sys
from pathlib import Path
from nnunet_ext import beside
from nnunet_ext.files import write_text, written_as_a_whole
from tests.killing import contents, killed_at_line
from tests.test_files import write_folder

path, states, killed = Path(sys.argv[1]), [], True
{start}
while killed:
    {before}
    killed = killed_at_line(lambda: {write}, len(states) + 1, {files})
    {again}
    states.append({state})
print(json.dumps(states))
"""


def killed_at_every_line(folder, **parts):
    """The states of ``folder / "f"`` after ``write`` was killed at every line of ours and of what it is made of."""
    files = {"beside.py", "files.py", "lock.py", "shutil.py", "tempfile.py"}
    code = AT_EVERY_LINE.format(files=files, **{"start": "", "again": "", **parts})
    done = subprocess.run([sys.executable, "-c", code, str(folder / "f")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    assert len(states) > 100
    return states


@pytest.fixture(params=["swap", "two steps"])
def ways(request, monkeypatch):
    """Linux swaps two names in one step; other systems and some drives cannot."""
    if request.param == "two steps":
        monkeypatch.setattr(beside, "_exchange", lambda one, other: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux swaps names")
    return request.param


def forget_sweeps() -> None:
    """As in a process that has just started."""
    beside._swept.clear()


def write_folder(target, text, **options):
    with written_as_a_whole(target, **options) as folder:
        (folder / "a").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "b").write_text(text)


def fail_in(writing, work):
    with writing as place:
        work(place)
        raise KeyError


def whole(text):
    return {"a": text.encode(), "deep/b": text.encode()}


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_a_writer_adds_beside_a_file_comes_along(tmp_path):
    with replacing(tmp_path / "a.tif") as temporary:
        temporary.write_text("voxels")
        temporary.with_suffix(".json").write_text("spacing")
        assert contents(tmp_path).keys() & {"a.tif", "a.json"} == set()
    assert contents(tmp_path) == {"a.tif": b"voxels", "a.json": b"spacing"}
    assert left_over(tmp_path) == []


def test_a_file_is_replaced_at_the_end_and_not_after_an_error(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"ä": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'
    with pytest.raises(KeyError):
        fail_in(replacing(path), lambda temporary: temporary.write_text("half"))
    assert path.read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'
    write_text(path, "a\r\nb\n")
    assert path.read_bytes() == b"a\r\nb\n"
    write_rows(path, ["x", "y"], [{"x": 1, "y": float("nan")}])
    assert path.read_bytes() == b"x,y\n1,\n"
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_a_file_is_the_old_or_the_new_one_at_whatever_line_its_writer_is_killed(tmp_path):
    states = killed_at_every_line(
        tmp_path,
        before="path.write_text('old')",
        write="write_text(path, 'new')",
        state="path.read_text()",
    )
    assert set(states) == {"old", "new"}
    write_text(tmp_path / "f", "newer")
    assert contents(tmp_path) == {"f": b"newer"}
    assert not left_over(tmp_path)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_there_at_the_end_and_not_after_an_error(tmp_path):
    with pytest.raises(KeyError):
        fail_in(written_as_a_whole(tmp_path / "f"), lambda folder: (folder / "a").write_text("half"))
    assert not list(tmp_path.iterdir())
    write_folder(tmp_path / "f", "new")
    assert contents(tmp_path / "f") == whole("new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert os.stat(tmp_path / "f").st_mode == os.stat(tmp_path / "f" / "deep").st_mode  # not only for its owner


def test_a_folder_that_is_there_is_replaced_only_on_purpose(tmp_path, ways):
    write_folder(tmp_path / "f", "old")
    with pytest.raises(InputError, match=r"/f is there already; choose another name"):
        write_folder(tmp_path / "f", "new")
    assert contents(tmp_path / "f") == whole("old")
    with pytest.raises(KeyError):
        fail_in(written_as_a_whole(tmp_path / "f", replace=True), lambda folder: (folder / "a").write_text("half"))
    assert contents(tmp_path / "f") == whole("old")
    write_folder(tmp_path / "f", "new", replace=True)
    assert contents(tmp_path) == {f"f/{name}": text for name, text in whole("new").items()}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "_exchange", lambda one, other: False)
    write_folder(tmp_path / "f", "old")
    with pytest.raises(FileNotFoundError), written_as_a_whole(tmp_path / "f", replace=True) as folder:
        folder.rmdir()  # so that it cannot be renamed
    assert contents(tmp_path / "f") == whole("old")
    assert not left_over(tmp_path)


@posix
def test_a_new_folder_is_whole_or_missing_at_whatever_line_its_writer_is_killed(tmp_path):
    states = killed_at_every_line(
        tmp_path,
        before="shutil.rmtree(path, ignore_errors=True)",
        write="write_folder(path, 'new')",
        state="''.join(text.decode() for text in contents(path).values())",
    )
    assert set(states) == {"", "newnew"}
    write_folder(tmp_path / "g", "new")
    assert not left_over(tmp_path)


@posix
@pytest.mark.parametrize("swap", [True, False])
def test_a_folder_is_the_old_or_the_new_one_at_whatever_line_its_replacement_is_killed(tmp_path, swap):
    """Where two names cannot be swapped: at the latest when the next one has started to write there."""
    if swap and sys.platform != "linux":
        pytest.skip("only Linux swaps names")
    states = killed_at_every_line(
        tmp_path,
        before="write_folder(path, 'old', replace=True)",
        write="write_folder(path, 'new', replace=True)",
        state="''.join(text.decode() for text in contents(path).values())",
        start="" if swap else "beside._exchange = lambda one, other: False",
        again="" if swap else "beside.sweep(path.parent)",
    )
    assert set(states) == {"oldold", "newnew"}
    write_folder(tmp_path / "f", "newer", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# --- what is left over ------------------------------------------------------------------------------------------------

SAME_NUMBER = """
import os, sys
from pathlib import Path
os.getpid = lambda: 7  # as in containers, where every process may be the first
from nnunet_ext.files import written_as_a_whole
with written_as_a_whole(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("half" if sys.argv[2] == "killed" else "whole")
    if sys.argv[2] == "killed":
        print("at work", flush=True)
        sys.stdin.read()
"""


@posix
def test_in_a_container_in_which_every_process_has_the_same_number_a_killed_one_blocks_nobody(tmp_path):
    target = tmp_path / "f"
    command = [sys.executable, "-c", SAME_NUMBER, str(target)]
    first = subprocess.Popen([*command, "killed"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"at work\n"
        # while it works, a second one neither fails nor takes away what it writes
        other = [*command[:-1], str(tmp_path / "g"), "whole"]
        assert subprocess.run(other, capture_output=True).returncode == 0
        assert len(left_over(tmp_path)) == 1
    finally:
        first.kill()
        first.communicate()
    for _ in range(2):
        done = subprocess.run([*command, "whole"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (target / "a").read_text() == "whole"
        assert not left_over(tmp_path)
        shutil.rmtree(target)


def test_what_another_thread_or_process_writes_is_not_swept(tmp_path):
    with replacing(tmp_path / "f") as temporary:
        temporary.write_text("new")
        beside.sweep(tmp_path)
        forget_sweeps()
        write_text(tmp_path / "g", "")
        assert temporary.exists()
    assert (tmp_path / "f").read_text() == "new"


def test_a_drive_without_locks_keeps_what_is_left_over(tmp_path, monkeypatch):
    import errno

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    half = tmp_path / ".nnunet-ext-abc.tmp" / "new"
    half.mkdir(parents=True)
    beside.sweep(tmp_path)
    assert half.exists()
    write_text(tmp_path / "f", "written all the same")
    monkeypatch.undo()
    beside.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_only_folders_of_ours_are_swept(tmp_path):
    (tmp_path / ".mine.tmp").mkdir()
    (tmp_path / "nnunet-ext-mine.tmp").mkdir()
    beside.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_was_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    made = []

    def mkdtemp(**options):
        from tempfile import mkdtemp

        made.append(mkdtemp(**options))
        if len(made) == 1:  # somebody else, between two lines of ours
            lock = held(beside.Path(made[0]) / "lock")
            assert lock.__enter__()
            made.append(lock)
        return made[0] if len(made) == 2 else made[-1]

    monkeypatch.setattr(beside, "mkdtemp", mkdtemp)
    write_text(tmp_path / "f", "new")
    assert len(made) == 3
    made[1].__exit__(None, None, None)
    assert (tmp_path / "f").read_text() == "new"


# --- places that cannot be written to ---------------------------------------------------------------------------------


def test_a_folder_to_write_to_may_be_missing_but_its_parents_must_allow_it(tmp_path, monkeypatch):
    require_folder(tmp_path / "new" / "newer")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file, but a folder to write to is expected"):
        require_folder(tmp_path / "file")
    with pytest.raises(InputError, match=r"file/new cannot be a folder, because .*file is a file"):
        require_folder(tmp_path / "file" / "new")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    with pytest.raises(InputError, match=f"You must not write in {tmp_path}; choose another folder"):
        require_folder(tmp_path / "new" / "newer")


def test_only_errors_of_places_become_a_sentence():
    assert refusal_of(PermissionError(13, "Permission denied", "/a/b")).startswith("/a/b is refused by the system")
    assert refusal_of(OSError(30, "Read-only file system", "/a/b")).endswith("choose another place, or allow it.")
    assert refusal_of(OSError(28, "No space left on device")).startswith("There is no room left on the disk; free")
    assert refusal_of(OSError(28, "No space left on device", "/a")).startswith(
        "There is no room left on the disk of /a"
    )
    assert refusal_of(FileNotFoundError(2, "No such file", "/a/b")) is None
    assert refusal_of(BrokenPipeError(32, "Broken pipe")) is None
