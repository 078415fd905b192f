"""Draws docs/figures/viewer_automatic.png and viewer_click.png: python docs/figures/draw_viewer.py, in a minute.

The demo of the viewer in a headless Chromium, before and after one click that says that the lesion is a tumour. Needs
what tests/viewer/test_browser.py needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

BROWSE = """
const [playwright, executablePath, link, before, after] = process.argv.slice(1)
const { chromium } = await import(playwright)
const browser = await chromium.launch({ executablePath, args: [
  '--no-sandbox', '--disable-gpu', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'] })
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
page.setDefaultTimeout(600000)
await page.goto(link)
await page.waitForSelector('body[data-ready]', { timeout: 600000 })
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


def main() -> None:
    playwright = (ROOT / "viewer" / "node_modules" / "playwright-core" / "index.mjs").as_uri()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    pictures = [str(Path(__file__).with_name(f"viewer_{name}.png")) for name in ("automatic", "click")]
    with tempfile.TemporaryDirectory() as folder:
        demo = [sys.executable, "-m", "nnunet_ext", "s2v", "serve", "--demo", "-o", folder, "--port", "0"]
        with subprocess.Popen(demo, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
            try:
                assert server.stdout is not None
                lines = iter(server.stdout.readline, "")
                link = next(found.group() for line in lines if (found := re.search(r"http://\S+", line)))
                command = ["node", "--input-type=module", "--eval", BROWSE, "--", playwright, chromium, link, *pictures]
                subprocess.run(command, check=True)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
