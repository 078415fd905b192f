"""Draws ``pnpnet.png``: what the pulling branch adds to the planned logits at a confused border.

The network is that of the toy ``touching`` (docs/mechanisms.md), trained at default options; minutes on one core.

python docs/figures/draw_pnpnet.py
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/

from benchmarks.mechanisms import touching
from benchmarks.mechanisms.training import predictor
from nnunet_ext.pnpnet.predictor import without

CASE = 1000
"""Seed of the image; the toy is scored with this one and those that follow."""


def main() -> None:
    network = touching.network_of(touching.ARMS["PnPNet"], seed=0)
    image, _, truth = (np.asarray(array)[0] for array in touching.batch_of(range(CASE, CASE + 1)))
    given = torch.from_numpy(image)[None]
    with torch.no_grad():
        whole = predictor(network)(given)[0].numpy()
        with without(network, "pull"):
            planned = predictor(network)(given)[0].numpy()
    difference = {
        name: logits[2] - logits[1] for name, logits in (("S", planned), ("T", whole - planned), ("sum", whole))
    }
    largest = np.abs(difference["sum"]).max()

    figure, axes = plt.subplots(1, 5, figsize=(17, 4.1), layout="constrained")
    panels = [
        ("image: a blurred border;\nlines: the true one", image[0], "gray"),
        ("planned logits S:\nbright minus dark structure", difference["S"], "coolwarm"),
        ("pulling branch γ · T:\nnearer to the centre of which class?", difference["T"], "coolwarm"),
        ("logits S + γ · T", difference["sum"], "coolwarm"),
        ("segmentation", whole.argmax(0), "viridis"),
    ]
    for axis, (title, panel, colours) in zip(axes, panels, strict=True):
        limits = {"vmin": -largest, "vmax": largest} if colours == "coolwarm" else {}
        axis.imshow(panel, cmap=colours, **limits)
        for value in (1, 2):
            axis.contour(truth == value, [0.5], colors="w" if colours in ("gray", "viridis") else "k", linewidths=0.8)
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(Path(__file__).with_name("pnpnet.png"), dpi=80)


if __name__ == "__main__":
    main()
