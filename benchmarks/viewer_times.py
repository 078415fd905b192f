"""How long a user of ``s2v serve`` waits: for the page, the image, the automatic result, and the mask after a click.

::

    python benchmarks/viewer_times.py                                     # the demo's model and image
    python benchmarks/viewer_times.py --model MODEL_FOLDER --image case_0000.nii.gz

In a headless Chromium, with what tests/viewer/test_browser.py needs. The same clicks are given to a session without a
page in the same run, so that a ratio says what page and server add. A click gives a random voxel a random other label.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.demo import MODEL, write_phantom

HERE = Path(__file__).parent
PLAYWRIGHT = HERE.parent / "viewer" / "node_modules" / "playwright-core" / "index.mjs"


def clicks_on(session: S2VSession, number: int) -> list[dict[str, Any]]:
    """Random voxels, each with a random structure that it does not show."""
    draw, shape = np.random.default_rng(0), session.target_buffer.shape
    labels = [label for label in session.labels.values() if label]
    found: list[dict[str, Any]] = []
    while len(found) < number:
        at = [int(draw.integers(size // 4, size - size // 4)) for size in shape]
        label = int(draw.choice(labels))
        if session.target_buffer[tuple(at)] != label and at not in [one["at"] for one in found]:
            found.append({"at": at, "label": label})
    return found


def without_page(session: S2VSession, clicks: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each click in a session."""
    taken = []
    for click in clicks:
        begin = time.perf_counter()
        session.add_point_interaction(click["at"], label=click["label"])
        taken.append(time.perf_counter() - begin)
    return taken


def with_page(serve: Sequence[str], clicks: Sequence[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Seconds until the link is printed, and what viewer_times.mjs prints."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    begin = time.perf_counter()
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            link = next(found.group() for line in lines if (found := re.search(r"http://\S+", line)))
            started = time.perf_counter() - begin
            node = ["node", str(HERE / "viewer_times.mjs"), PLAYWRIGHT.as_uri(), chromium, link, json.dumps(clicks)]
            return started, json.loads(subprocess.run(node, check=True, capture_output=True, text=True).stdout)
        finally:
            server.terminate()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument(
        "--image", type=Path, help="one file, of a model with one channel; a phantom of the demo by default"
    )
    parser.add_argument("--clicks", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        image = arguments.image or write_phantom(Path(folder), 86)
        session = S2VSession("cpu", torch_n_threads=arguments.threads)
        session.initialize_from_trained_model_folder(arguments.model)
        begin = time.perf_counter()
        session.set_image_from_files([image])
        session.predict_automatic()
        alone = time.perf_counter() - begin
        clicks = clicks_on(session, arguments.clicks)
        own = statistics.median(without_page(session, clicks))
        serve = [sys.executable, "-m", "nnunet_ext", "s2v", "serve", "-i", str(image), "-m", str(arguments.model)]
        serve += ["-o", str(Path(folder) / "out.nii.gz"), "--port", "0", "--device", "cpu"]
        serve += ["--threads", str(arguments.threads)]
        started, page = with_page(serve, clicks)
    shape = "×".join(map(str, session.target_buffer.shape))
    mask = statistics.median(page["masks"])
    print(f"{shape} voxels, {len(clicks)} clicks, {arguments.threads} threads")
    print("| | seconds | by a session without a page |\n|---|---:|---:|")
    print(f"| command → link | {started:.2f} | |")
    print(f"| link → image | {page['image']:.2f} | |")
    print(f"| link → automatic result | {page['automatic']:.2f} | {page['automatic'] / alone:.2f} |")
    print(f"| click → mask, median | {mask:.2f} | {mask / own:.2f} |")


if __name__ == "__main__":
    main()
