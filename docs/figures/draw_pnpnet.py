"""Draws ``pnpnet.png``: what the two branches do at a confused boundary, computed with the modules themselves.

python docs/figures/draw_pnpnet.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from nnunet_ext.pnpnet.class_clustering import assigned, evidence, moved
from nnunet_ext.pnpnet.semantic_difference import DifferentialConv

SIZE = 96


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two structures of almost equal brightness that touch along a curve: labels and noisy, blurred image."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    inside = x**2 / 0.16 + y**2 / 0.10 < 1
    border = 0.06 * np.sin(9 * y)
    labels = np.where(inside, np.where(x < border, 1, 2), 0)
    image = gaussian_filter(np.choose(labels, [0.0, 0.55, 0.7]).astype(float), 1.5)
    return labels, image + rng.normal(0, 0.06, image.shape)


def main() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    labels, image = scene(rng)
    skip = torch.from_numpy(image)[None, None].float()
    # the decoder's feature is smoother but knows the classes; here: the blurred label of one of them
    guide = torch.from_numpy(gaussian_filter((labels == 2).astype(float), 3))[None, None].float()

    kernels = 32
    conv = DifferentialConv(nn.Conv2d, kernels, [3, 3])
    with torch.no_grad():
        skip_difference = conv(skip.expand(-1, kernels, -1, -1))
        guide_difference = conv(guide.expand(-1, kernels, -1, -1))
        squared = guide_difference.square()
        pushed = (skip_difference * squared / (1 + squared)).abs().mean((0, 1))

    # features in which the classes are clouds around three directions, as after a few layers
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.2], [0.0, 0.2, 1.0]])
    soft = np.stack([gaussian_filter((labels == k).astype(float), 2) for k in range(3)])
    features = torch.from_numpy(soft).float().permute(1, 2, 0) @ directions
    features = features + torch.from_numpy(rng.normal(0, 0.25, features.shape)).float()
    feature = features.permute(2, 0, 1)[None]
    centers = directions[None] * 3 + torch.randn(1, 3, 3) * 0.5
    for _ in range(3):
        assignment = assigned(evidence(centers, feature, 0.5), exclusive=True)
        centers = moved(centers, assignment, feature)
    difference = (assignment[0, 2] - assignment[0, 1]).numpy()

    figure, axes = plt.subplots(1, 5, figsize=(17, 4), layout="constrained")
    panels = [
        ("image: a confused boundary", image, "gray"),
        ("reference", labels, "viridis"),
        ("differences in the skip feature\n|D(x)|: noise and every edge", skip_difference.abs().mean((0, 1)), "magma"),
        ("push: |D(x) · D(g)² / (1 + D(g)²)|\nonly where the decoder sees a difference", pushed, "magma"),
        ("pull: assignment to the centres\nof class 2 minus class 1", difference, "coolwarm"),
    ]
    for axis, (title, panel, colours) in zip(axes, panels, strict=True):
        axis.imshow(np.asarray(panel), cmap=colours)
        axis.contour(labels == 1, [0.5], colors="w" if colours in ("gray", "magma") else "k", linewidths=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(Path(__file__).with_name("pnpnet.png"), dpi=90)


if __name__ == "__main__":
    main()
