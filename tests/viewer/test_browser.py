"""The page in a real browser, in front of the command: see, click, undo, save, and the same file without a screen.

Needs Chromium, node and ``npm ci`` in ``viewer/``; skipped otherwise. With ``NNUNET_EXT_BROWSER=1`` they must be there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("fastapi", reason="the extra viewer is not installed")

from benchmarks import viewer_times
from nnunet_ext import cli
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.viewer.display import Display
from tests import tiny
from tests.s2vnet.test_trainer import trained  # noqa: F401 (a fixture)
from tests.viewer.cases import write_image

ROOT = Path(__file__).parents[2]
PLAYWRIGHT = ROOT / "viewer" / "node_modules" / "playwright-core"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MISSING = [
    what
    for what, there in {
        "node": shutil.which("node"),
        "Chromium": CHROMIUM,
        "playwright-core (npm ci in viewer/)": PLAYWRIGHT.is_dir(),
    }.items()
    if not there
]
SHAPE = (18, 20, 22)
BRIGHT = (11, 6, 15)
"""z, y, x of the voxel that the browser looks for in the picture."""


def require_browser():
    if MISSING and os.environ.get("NNUNET_EXT_BROWSER") == "1":
        pytest.fail(f"NNUNET_EXT_BROWSER=1, but missing are: {', '.join(MISSING)}")
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")


@pytest.fixture
def model(trained):  # noqa: F811
    """After a training of two steps, in which clicks became strong, so that all of them change something."""
    require_browser()
    _, folder, root = trained(inference_clip=8)
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["prompting.clicked"] *= 50
    torch.save(checkpoint, file)
    return folder, root


@pytest.fixture
def image(model, tmp_path):
    """One case of the data, but oblique and anisotropic, with one bright voxel."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(model[1] / "raw" / tiny.DATASET / "imagesTr/tiny_0_0000.nii.gz")))
    array = array.astype(np.float32)
    assert array.shape == SHAPE
    array[BRIGHT] = array.max() + 15 * np.ptp(array)
    return write_image(tmp_path, array)


@pytest.fixture
def link(model, image, tmp_path):
    """Link of ``nnunet-ext s2v serve`` in a process of its own."""
    command = [sys.executable, "-m", "nnunet_ext", "s2v", "serve", "-i", str(image), "-m", str(model[0]), "--port", "0"]
    command += ["-o", str(tmp_path / "saved.nii.gz"), "--prompts-out", str(tmp_path / "prompts.json")]
    command += ["-device", "cpu", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            lines = iter(server.stdout.readline, "")
            found = next(filter(None, (re.search(r"http://\S+", line) for line in lines)), None)
            assert found, "the server has ended"
            yield found.group()
        finally:
            server.terminate()
            assert server.wait(30) == 143


def test_a_user_sees_clicks_undoes_and_saves(link, model, image, tmp_path):
    out = tmp_path / "seen"
    out.mkdir()
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("browse.mjs")), str(PLAYWRIGHT), CHROMIUM, link, str(out)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    # the page: nothing from elsewhere, no error, and a token that is used up
    assert (seen["errors"], seen["elsewhere"]) == ([], [])
    assert "token" not in seen["address"]
    assert seen["title"].startswith("case ")
    assert seen["cookies"] == [{"httpOnly": True, "sameSite": "Lax"}]
    assert (seen["scripts"], seen["again"]) == ("", 401)
    assert seen["help"]

    # a voxel that was found in the picture is that of the file, in all three views, zoomed and moved
    assert seen["dragged"] == pytest.approx([-60, -45], abs=3)
    for view in ("large", "above", "below", "zoomed"):
        found = re.match(r"x (\d+) +y (\d+) +z (\d+)", seen["bright"][view])
        assert tuple(map(int, found.groups()))[::-1] == BRIGHT, view
    prompts = json.loads((tmp_path / "prompts.json").read_text())["prompts"]
    kinds = ["automatic", "point", "point", "scribble", "lasso", "box", "brush", "undo", "undo", "undo"]
    assert [prompt["type"] for prompt in prompts] == [*kinds, "automatic", "undo", "point", "undo"]
    assert prompts[1] == {"type": "point", "label": 2, "at": list(BRIGHT)}
    assert prompts[2]["include"] is False
    assert prompts[6]["include"] is False
    assert {position[0] for position in prompts[3]["line"]} == {BRIGHT[0]}  # the slice that is shown
    start, right, there = np.array(seen["crosshair"])
    assert np.abs(right - start).tolist() == [0, 0, 1]
    assert np.abs(there - right).tolist() == [1, 1, 0]
    assert prompts[12] == {"type": "point", "label": 1, "at": there.tolist()}
    assert prompts[5]["box"][0] == [BRIGHT[0], BRIGHT[0] + 1]

    # what the page showed after every step
    volume = sitk.ReadImage(str(image))
    properties = {"sitk_stuff": {"spacing": volume.GetSpacing(), "origin": volume.GetOrigin()}}
    properties["sitk_stuff"]["direction"] = volume.GetDirection()
    properties["spacing"] = volume.GetSpacing()[::-1]
    display = Display.of(Geometry.from_properties(properties), SHAPE)
    size = display.turned(np.empty(SHAPE)).shape
    where = display.turned(np.arange(np.prod(SHAPE)).reshape(SHAPE))

    def labels(name):
        turned = np.frombuffer((out / name).read_bytes(), np.uint8).reshape(size, order="F")
        array = np.empty(np.prod(SHAPE), np.uint8)
        array[where.ravel()] = turned.ravel()
        return array.reshape(SHAPE)

    assert (seen["coloured"] > 1000) == labels("automatic").any()  # two steps of training may find nothing
    assert seen["hidden"] == 0
    changed = (labels("clicked") != labels("automatic")).any((1, 2))
    assert changed[BRIGHT[0]]
    # where background was clicked no structure appears; on background it agrees, and changes nothing
    assert not labels("removed")[labels("clicked") == 0].any()
    assert not np.array_equal(labels("scribbled"), labels("removed"))
    assert not np.array_equal(labels("erased"), labels("scribbled"))
    assert np.array_equal(labels("undone"), labels("scribbled"))
    assert np.array_equal(labels("automatic again"), labels("automatic"))
    assert np.array_equal(labels("reloaded"), labels("scribbled"))
    assert seen["undo"]

    # the file: what was shown, where the image is, and the same bytes without a screen
    saved = sitk.ReadImage(str(tmp_path / "saved.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(saved), labels("reloaded"))
    assert saved.GetDirection() == pytest.approx(volume.GetDirection(), abs=1e-6)
    assert saved.GetOrigin() == pytest.approx(volume.GetOrigin(), abs=1e-4)
    again = tmp_path / "again.nii.gz"
    command = ["s2v", "interact", "-i", str(image), "-m", str(model[0]), "--prompts", str(tmp_path / "prompts.json")]
    assert cli.main([*command, "-o", str(again), "-device", "cpu", "--threads", "1"]) == 0
    assert again.read_bytes() == (tmp_path / "saved.nii.gz").read_bytes()
    assert (seen["download"], (out / "downloaded.nii.gz").read_bytes()) == ("saved.nii.gz", again.read_bytes())


def test_the_waiting_times_of_a_user_are_measured(capfd):
    require_browser()
    viewer_times.main(["--clicks", "2"])
    title, _, _, *rows = [line for line in capfd.readouterr().out.splitlines() if "voxels" in line or "|" in line]
    assert title == "14×80×80 voxels, 2 clicks, 1 threads"
    seconds = [float(row.split("|")[2]) for row in rows]
    assert all(0 < one < 600 for one in seconds)
    assert seconds[1] <= seconds[2]  # the image comes first
    assert [bool(row.split("|")[3].strip()) for row in rows] == [False, False, True, True]
