"""Brush, eraser, redo, locks, two tabs, and a server that is killed, in a real browser, in front of the demo.

Needs what ``test_browser`` needs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra viewer is not installed")

from nnunet_ext.interactive.drawing import widened
from nnunet_ext.interactive.saved import read_notes
from nnunet_ext.viewer.demo import SIZE, SLICES, SPACING_MM
from tests.viewer.test_browser import CHROMIUM, PLAYWRIGHT, ROOT, require_browser

SHAPE = (SLICES, SIZE, SIZE)


@contextmanager
def demo(folder):
    """Link of ``nnunet-ext s2v serve --demo`` in a process of its own, which is killed in the end."""
    command = [sys.executable, "-m", "nnunet_ext", "s2v", "serve", "--demo", "-o", str(folder), "--port", "0"]
    command += ["--device", "cpu", "--threads", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as server:
        try:
            found = next(
                filter(None, (re.search(r"http://\S+", line) for line in iter(server.stdout.readline, ""))), None
            )
            assert found, "the server has ended"
            yield found.group()
        finally:
            server.send_signal(signal.SIGKILL)


def browsing(link, out, which):
    command = ["node", str(Path(__file__).with_name("correct.mjs")), str(PLAYWRIGHT), CHROMIUM, link, str(out), which]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def seen_by(browser):
    said, errors = browser.communicate(timeout=1500)
    assert browser.returncode == 0, errors
    return json.loads(said.splitlines()[-1])


def browsed(link, out, which):
    with browsing(link, out, which) as browser:
        return seen_by(browser)


def labels_in(folder, name):
    """The phantom's axes are those of the screen, but for a flip of both in-plane ones."""
    return np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(SHAPE)[:, ::-1, ::-1]


def test_what_is_drawn_by_hand_is_so_and_outlives_the_server(tmp_path):
    require_browser()
    out, kept = tmp_path / "seen", tmp_path / "demo"
    out.mkdir()
    with demo(kept) as link:
        seen = browsed(link, out, "first")
    print({key: value for key, value in seen.items() if "seconds" in key})
    assert seen["errors"] == []

    labels = partial(labels_in, out)

    prompts = read_notes(kept / "phantom.session")["prompts"]
    brushes = [prompt for prompt in prompts if prompt["type"] == "brush"]

    def under(prompt):
        line = np.array(prompt["line"])
        mask = np.zeros(SHAPE, bool)
        mask[tuple(widened(line, prompt["width"], 0, SPACING_MM, SHAPE).T)] = True
        return mask

    # the voxels under the pen, and no other one
    painted, erased = under(brushes[0]), under(brushes[1])
    assert (seen["size"], brushes[0]["width"], brushes[1]["width"], brushes[0]["across"]) == ("7 px", 7, 5, "z")
    assert np.array_equal(labels("painted"), np.where(painted, 4, labels("opened")))
    assert np.array_equal(labels("painting"), labels("painted"))
    assert np.array_equal(labels("erased"), np.where(erased, 0, labels("painted")))
    assert np.array_equal(labels("given up"), labels("erased"))
    assert np.array_equal(labels("undone"), labels("painted"))
    assert np.array_equal(labels("done again"), labels("erased"))
    assert (seen["compared"], seen["compared_no_more"]) == (True, True)

    # what is locked stays
    held = labels("erased") == 4
    around = under(brushes[2]) & ~held
    assert seen["locked"] == "true"
    assert (under(brushes[2]) & held).any()
    assert np.array_equal(labels("painted around"), np.where(around, 1, labels("erased")))
    assert np.array_equal(labels("painting around"), labels("painted around"))
    assert seen["nothing"] == "Nothing has changed: these voxels had this label already."

    # a click has its label, and by hand stays by hand
    click = next(prompt for prompt in prompts if prompt["type"] == "point")
    assert labels("clicked")[tuple(click["at"])] == 3
    assert np.array_equal(labels("clicked")[around | held & painted], labels("painted around")[around | held & painted])

    # windows
    assert np.mean(seen["level"]) == pytest.approx(500)
    assert seen["dragged"] < 500
    assert seen["window"] == "Automatic"
    # in space
    assert seen["turned"][0] != 110
    assert seen["prompts_in_space"] == 0
    assert seen["slices_again"] == 3
    assert np.array_equal(labels("in space"), labels("clicked"))
    shown = [np.asarray(Image.open(out / name).convert("HSV"))[..., 1] > 120 for name in ("space.png", "turned.png")]
    assert all(coloured.mean() > 0.01 for coloured in shown)
    assert (shown[0] != shown[1]).mean() > 0.005

    assert np.array_equal(labels("first"), labels("other"))
    assert not np.array_equal(labels("other"), labels("clicked"))

    # the server was killed, and the browser too
    with demo(kept) as link:
        again = browsed(link, out, "again")
    assert again["errors"] == []
    assert again["resumed"] == f"This case goes on where it ended, after {len(prompts)} prompts"
    assert np.array_equal(labels("opened"), labels("other"))


def test_a_click_that_the_server_is_killed_over_is_computed_when_the_case_is_opened_again(tmp_path):
    require_browser()
    out, kept = tmp_path / "seen", tmp_path / "demo"
    out.mkdir()
    waiting = kept / "phantom.session.waiting"
    with demo(kept) as link:
        browser = browsing(link, out, "killed")
        asked_for = ""
        while '"point"' not in asked_for:
            assert browser.poll() is None, browser.communicate()
            time.sleep(0.001)
            with suppress(FileNotFoundError):
                asked_for = waiting.read_text()
    with browser:
        seen = seen_by(browser)
    assert seen["said"] == "The server does not answer. Was it stopped?"
    assert seen["errors"] == []

    with demo(kept) as link:
        again = browsed(link, out, "again")
    assert again["errors"] == []
    assert again["resumed"] == "This case goes on where it ended, after 3 prompts"
    kinds = [prompt["type"] for prompt in read_notes(kept / "phantom.session")["prompts"]]
    assert kinds == ["automatic", "brush", "point"]
    assert not waiting.exists()
    before, after = labels_in(out, "painted before"), labels_in(out, "opened")
    assert (before[seen["slice"], 38, 34], after[seen["slice"], 38, 34]) == (2, 3)
    assert np.array_equal(before[:, 69:], after[:, 69:])
