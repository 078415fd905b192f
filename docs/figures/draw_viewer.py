"""Draws docs/figures/viewer_automatic.png and viewer_click.png: python docs/figures/draw_viewer.py, about five minutes.

A synthetic organ with a lesion that is a cyst or a tumour, which the image does not show; a small network that has seen
such phantoms, half of the time with clicks that say which; the page in a headless Chromium, before and after one click.
Needs what tests/viewer/test_browser.py needs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import uvicorn
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from nnunet_ext.interactive.session import S2VSession  # noqa: E402
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser  # noqa: E402
from nnunet_ext.s2vnet.labels import LabelHeads  # noqa: E402
from nnunet_ext.s2vnet.predictor import S2VPredictor  # noqa: E402
from nnunet_ext.viewer.access import AccessMiddleware  # noqa: E402
from nnunet_ext.viewer.app import create_app  # noqa: E402
from nnunet_ext.viewer.serve import listening, names_of  # noqa: E402
from nnunet_ext.viewer.worker import SessionWorker  # noqa: E402
from tests import tiny  # noqa: E402
from tests.s2vnet.test_network import s2vnet  # noqa: E402
from tests.s2vnet.toy import Batch, fit  # noqa: E402

SIZE, STEPS = 96, 420
LABELS = {"background": 0, "organ": 1, "cyst": 2, "tumour": 3, "vessel": 4}
NETWORK = {"features": (8, 16, 32), "options": {"width": 24, "layers": 1}}

BROWSE = """
const [playwright, executablePath, link, before, after] = process.argv.slice(1)
const { chromium } = await import(playwright)
const browser = await chromium.launch({ executablePath, args: [
  '--no-sandbox', '--disable-gpu', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'] })
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
await page.goto(link)
await page.waitForSelector('body[data-ready]', { timeout: 120000 })
await page.screenshot({ path: before })
await page.keyboard.press('3')
const version = await page.evaluate(() => window.viewer.version)
const [x, y] = await page.evaluate(() => {
  const { volume } = window.viewer
  const cyst = []
  volume.labels.forEach((label, at) => label === 2 && cyst.push(at))
  const [width, height] = volume.size
  const k = Math.floor(volume.size[2] / 2)
  const here = cyst.map((at) => [at % width, Math.floor(at / width) % height, Math.floor(at / width / height)])
    .filter((ijk) => ijk[2] === k)
  const middle = [0, 1].map((axis) => Math.round(here.reduce((sum, ijk) => sum + ijk[axis], 0) / here.length))
  const pixel = volume.pixelOf(volume.fromShown([...middle, k]), volume.plane)
  const frame = volume.canvas.getBoundingClientRect()
  const scale = volume.canvas.width / frame.width
  return [frame.left + pixel[0] / scale, frame.top + pixel[1] / scale]
})
await page.mouse.click(x, y)
await page.waitForFunction((before) => window.viewer.version > before, version)
await page.waitForFunction(() => document.getElementById('working').hidden)
await page.screenshot({ path: after })
await browser.close()
"""


def phantom(rng: np.random.Generator, slices: int, lesion_label: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels, ``(slices, SIZE, SIZE)``."""
    z = np.linspace(-1, 1, slices)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    image, labels = np.zeros((slices, SIZE, SIZE)), np.zeros((slices, SIZE, SIZE), np.uint8)
    texture = gaussian_filter(rng.normal(size=image.shape), (0.7, 2, 2))
    texture /= texture.std()
    cy, cx = SIZE * (0.5 + 0.03 * rng.normal()), SIZE * (0.40 + 0.03 * rng.normal())
    ly, lx = cy + SIZE * rng.uniform(-0.10, 0.10), cx + SIZE * rng.uniform(-0.10, 0.08)
    radius = SIZE * rng.uniform(0.055, 0.085)
    angle = np.arctan2(y - cy, x - cx)
    body = ((y - SIZE / 2) / (SIZE * 0.40)) ** 2 + ((x - SIZE / 2) / (SIZE * 0.47)) ** 2 < 1
    bone = np.hypot(y - SIZE * 0.80, x - SIZE * 0.5) < SIZE * 0.06
    for k in range(slices):
        outline = np.sqrt(max(0.15, 1 - (z[k] / 1.35) ** 2))
        outline = outline * (1 + 0.10 * np.sin(2 * angle + 0.5) + 0.06 * np.sin(3 * angle + z[k]))
        organ = np.hypot((y - cy) / (SIZE * 0.27), (x - cx) / (SIZE * 0.25)) < outline
        vessel = np.hypot(y - cy - SIZE * 0.05 - 4 * z[k], x - SIZE * 0.66) < SIZE * 0.05
        height = np.sqrt(max(0.0, 1.02 - (z[k] / 0.95) ** 2))
        lesion = np.hypot(y - ly - 2 * z[k], x - lx + 2 * z[k]) < radius * height
        image[k] = (0.24 + 0.04 * texture[k]) * body
        image[k][bone] = 0.95
        for mask, label, value in (
            (organ & body, 1, 0.58),
            (vessel, 4, 0.85),
            (lesion & organ, lesion_label, 0.36),
        ):
            image[k][mask] = value + 0.02 * texture[k][mask]
            labels[k][mask] = label
    image = gaussian_filter(image, (0, 0.7, 0.7)) + 0.03 * rng.normal(size=image.shape)
    return image.astype(np.float32), labels


def trained() -> torch.nn.Module:
    """Every other step with clicks; then the lesion is a tumour half of the time."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def batch(step: int) -> Batch:
        if step % 20 == 0:
            print(f"step {step} of {STEPS}", flush=True)
        clicks = step % 2 == 0
        pairs = [phantom(rng, 10, int(rng.choice([2, 3])) if clicks else 2) for _ in range(2)]
        starts = rng.integers(0, 7, 2)
        images, labels = (
            torch.tensor(np.stack([pair[part][at : at + 4] for pair, at in zip(pairs, starts, strict=True)]))
            for part in (0, 1)
        )
        images = ((images - images.mean()) / images.std())[:, None]
        return images, labels, SimulatedUser(labels.long(), 5, 0.9, 2, ClickRules(0.5, 0.0, 1)) if clicks else None

    return fit(s2vnet(LabelHeads(5), **NETWORK), STEPS, batch, [0.3, 0.6, 1.5, 1.5, 1.0])


def session(network: torch.nn.Module, file: Path) -> S2VSession:
    """On an image, with plans that do not resample it."""
    plans = tiny.plans(**{"2d": tiny.configuration(2)})
    plans["configurations"]["2d"].update(spacing=[1.8, 1.8], patch_size=[16, SIZE, SIZE])
    manager = PlansManager(plans)
    predictor = S2VPredictor(
        device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False, perform_everything_on_device=False
    )
    description = {**tiny.dataset_json("classes"), "labels": LABELS}
    configuration = manager.get_configuration("2d")
    weights = [network.state_dict()]
    predictor.manual_initialization(network, manager, configuration, weights, description, "nnUNetTrainerS2VNet", None)
    made = S2VSession("cpu")
    made.initialize_from_predictor(predictor)
    made.set_image_from_files([file])
    return made


def main() -> None:
    array, _ = phantom(np.random.default_rng(77), 14)
    image = sitk.GetImageFromArray((array * 1000).round())
    image.SetSpacing((1.8, 1.8, 8.0))
    image.SetOrigin((-80, -80, -40))
    network = trained()
    with tempfile.TemporaryDirectory() as folder, listening("127.0.0.1", 0) as listener:
        file = Path(folder) / "phantom_0000.nii.gz"
        sitk.WriteImage(image, str(file))
        app = create_app(SessionWorker(session(network, file)), [file], Path(folder) / "phantom.nii.gz")
        port = listener.getsockname()[1]
        app = AccessMiddleware(app, hosts=names_of("127.0.0.1"), token="figure", port=port, limit=2**20)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        playwright = (ROOT / "viewer" / "node_modules" / "playwright-core" / "index.mjs").as_uri()
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        pictures = [str(Path(__file__).with_name(f"viewer_{name}.png")) for name in ("automatic", "click")]
        link = f"http://127.0.0.1:{port}/?token=figure"
        command = ["node", "--input-type=module", "--eval", BROWSE, "--", playwright, chromium, link, *pictures]
        subprocess.run(command, check=True)
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
