"""Draws ``attenscribble.png``: what the two terms say about voxels without a scribble, computed with the modules.

python docs/figures/draw_attenscribble.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import cross_entropy

from nnunet_ext.attenscribble.attentive_similarity_loss import attentive_similarity_loss, averaged
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window
from nnunet_ext.attenscribble.similarity import AffinityHead, neighbours
from nnunet_ext.attenscribble.spatial_attention import QueriesAndKeys
from nnunet_ext.scribbles.label_map import Options, scribble_label_map

SIZE, STRIDE, IGNORE = 96, 4, 3
CHOSEN = (11, 8)
"""The token whose neighbours are shown."""


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A ventricle in its muscle, and beside them a bright structure that nobody has annotated: labels and image."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    radius = np.hypot(x + 0.08, 1.1 * (y - 0.02))
    labels = np.where(radius < 0.16, 2, np.where(radius < 0.27, 1, 0)).astype(np.uint8)
    brightness = np.choose(labels, [0.35, 0.1, 0.8]).astype(float)
    brightness[np.hypot(x - 0.34, y + 0.3) < 0.1] = 0.75
    return labels, gaussian_filter(brightness, 1.0) + rng.normal(0, 0.05, labels.shape)


def fitted(image: torch.Tensor, target: torch.Tensor, weight: float) -> np.ndarray:
    """The label of every pixel after fitting free logits to the scribbles, with the masked CRF loss or without it."""
    logits = torch.zeros(1, 3, SIZE, SIZE, requires_grad=True)  # undecided
    crf = MaskedCRFLoss(Window.gaussian((5, 5), 6.0))
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = cross_entropy(logits, target, ignore_index=IGNORE)
        (loss + weight * crf(logits, image, (target == IGNORE)[:, None])).backward()
        optimizer.step()
    return logits.detach().argmax(1)[0].numpy()


def similarity_of_one_token(image: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """S between one token and its neighbours, after queries and keys have learned from right predictions."""
    torch.manual_seed(0)
    window = Window.gaussian((5, 5), 6.0)
    probabilities = torch.from_numpy(np.eye(3)[labels]).permute(2, 0, 1)[None].float()
    tokens = averaged(probabilities, (SIZE // STRIDE,) * 2)
    brightness = averaged(image, tokens.shape[2:])
    features = torch.cat([torch.cos(k * torch.pi * brightness) for k in range(1, 9)], 1)
    projection, head = QueriesAndKeys(features.shape[1]), AffinityHead()
    optimizer = torch.optim.Adam([*projection.parameters(), *head.parameters()], 0.01)
    for _ in range(600):
        optimizer.zero_grad()
        attentive_similarity_loss(head(projection(features), window), tokens, window, torch.ones(1)).backward()
        optimizer.step()
    with torch.no_grad():
        similarity = head(projection(features), window).sigmoid()[0].flatten(1)
    grid = tuple(tokens.shape[2:])
    there, back = neighbours(window, grid)
    here = int(np.ravel_multi_index(CHOSEN, grid))
    shown = np.full(np.prod(grid), np.nan)
    shown[there[here]] = similarity[:, here]
    # the other half of the window is kept at the neighbours
    shown[back[here]] = similarity[torch.arange(len(window.offsets)), back[here]]
    shown[here] = 1
    return np.kron(shown.reshape(grid), np.ones((STRIDE, STRIDE)))


def main() -> None:
    rng = np.random.default_rng(0)
    labels, image = scene(rng)
    scribbles = scribble_label_map(
        labels, (1.0, 1.0), [0, 1, 2], IGNORE, "figure", Options(mode="skeleton", thickness=2)
    )
    pixels = torch.from_numpy(image)[None, None].float()
    target = torch.from_numpy(scribbles.astype(np.int64))[None]
    alone, with_crf = fitted(pixels, target, 0.0), fitted(pixels, target, 9.2)
    similar = similarity_of_one_token(pixels, labels)

    figure, axes = plt.subplots(1, 5, figsize=(17, 4), layout="constrained")
    drawn = np.ma.masked_equal(scribbles, IGNORE)
    panels = [
        (f"image and scribbles\n({np.mean(scribbles != IGNORE):.1%} of the pixels)", image, "gray"),
        ("reference, which nobody drew", labels, "viridis"),
        ("partial loss alone, free logits:\nundecided where nobody drew", alone, "viridis"),
        ("with the masked CRF loss:\nsimilar neighbours agree", with_crf, "viridis"),
        ("attentive similarity S of one token\nto the tokens in its window", similar, "magma"),
    ]
    for axis, (title, panel, colours) in zip(axes, panels, strict=True):
        axis.imshow(image, cmap="gray")
        axis.imshow(panel, cmap=colours, **({"vmin": 0, "vmax": 1} if colours == "magma" else {}))
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    axes[0].imshow(drawn, cmap="viridis", vmin=0, vmax=2)
    y, x = (STRIDE * place + STRIDE / 2 - 0.5 for place in CHOSEN)
    axes[4].plot(x, y, "c+", markersize=10)
    axes[4].contour(labels, [0.5, 1.5], colors="w", linewidths=0.6)
    figure.savefig(Path(__file__).with_name("attenscribble.png"), dpi=90)


if __name__ == "__main__":
    main()
