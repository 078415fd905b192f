"""Draws docs/figures/viewer_….jpg: python docs/figures/draw_viewer.py, in a minute.

The page in a headless Chromium, with the demo's model and four of its phantoms, one of which is corrected as
viewer_story.mjs does it: automatic result, click, scribble, eraser, saved. Needs what tests/viewer/test_browser.py
needs.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nnunet_ext.viewer.cases import LEDGER, Ledger
from nnunet_ext.viewer.demo import MODEL, write_phantom

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SEEDS = {"phantom_1": 77, "phantom_2": 86, "phantom_3": 78, "phantom_4": 79}
"""Of the images; the second one is corrected, because the model errs in it."""

PLACES = {
    "lesion": (7, 43, 25),
    "error": [(0, 48, 47), (0, 52, 45), (0, 55, 44)],
    "rest": [(0, 46, 46), (0, 48, 45), (0, 50, 44), (0, 52, 42), (0, 53, 48), (0, 56, 46)],
}
"""What is clicked as a tumour, scribbled over as background, and erased: positions z, y, x."""


def main() -> None:
    playwright = (ROOT / "viewer" / "node_modules" / "playwright-core" / "index.mjs").as_uri()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as temporary:
        images, out = Path(temporary) / "images", Path(temporary) / "corrected"
        images.mkdir()
        out.mkdir()
        for name, seed in SEEDS.items():
            write_phantom(images, seed).rename(images / f"{name}_0000.nii.gz")
        Ledger(out / LEDGER).accept("phantom_1", True)
        serve = [sys.executable, "-m", "nnunet_ext", "s2v", "serve", "-i", str(images), "-m", str(MODEL)]
        serve += ["-o", str(out), "--port", "0", "--device", "cpu"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
            try:
                assert server.stdout is not None
                lines = iter(server.stdout.readline, "")
                link = next(found.group() for line in lines if (found := re.search(r"http://\S+", line)))
                story = ["node", str(HERE / "viewer_story.mjs"), playwright, chromium, link, str(HERE)]
                subprocess.run([*story, json.dumps(PLACES)], check=True)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
