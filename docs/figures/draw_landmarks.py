"""Draws ``what_to_mark.png`` and ``one_landmark.png`` from synthetic organs, with the package's rules and its loss.

python docs/figures/draw_landmarks.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.ndimage import distance_transform_edt, gaussian_filter

from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.rules import Kind, Rule

SIZE = 96
COLOURS = ("#4c78a8", "#e07b39")
IN_PLANE = ("right", "left", "anterior", "posterior")
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


def round_organ() -> np.ndarray:
    return np.hypot((X - 48) / 1.15, Y - 48) < 26


def crescent() -> np.ndarray:
    """Hollow on the side of the larger x, as a right ventricle is towards the septum."""
    return (np.hypot(X - 45, Y - 48) < 31) & (np.hypot(X - 66, Y - 49) > 30)


def two_organs() -> tuple[np.ndarray, np.ndarray]:
    """A long organ of two parts."""
    turned, across = 0.92 * (X - 48) + 0.38 * (Y - 48), -0.38 * (X - 48) + 0.92 * (Y - 48)
    whole = (turned / 41) ** 2 + ((across - 0.004 * turned**2 + 2) / (15 - 0.12 * turned)) ** 2 < 1
    first = turned + 0.15 * across < 4
    return whole & first, whole & ~first


def by_rule(kind: Kind, organs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Landmarks (y, x) as ``nnunet-ext landmarks derive`` finds them, in one slice."""
    geometry = Geometry(np.eye(3)[:, ::-1], np.zeros(3))
    found = Rule.of(kind, list(organs), IN_PLANE, 2).points({k: v[None] for k, v in organs.items()}, geometry)
    return {name: point[1:] for name, point in found.items() if point is not None}


def show(axis: Axes, title: str, *masks: np.ndarray) -> None:
    for mask, colour in zip(masks, COLOURS, strict=False):
        axis.contourf(mask, [0.5, 1.5], colors=[colour], alpha=0.35)
        outline(axis, mask, colour, "-")
    axis.set(xlim=(0, SIZE - 1), ylim=(SIZE - 14, 14), aspect="equal")
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def outline(axis: Axes, mask: np.ndarray, colour: str = "k", style: str = "--") -> None:
    """A little smoother than the voxels are."""
    axis.contour(gaussian_filter(mask.astype(float), 0.7), [0.5], colors=[colour], linewidths=1, linestyles=style)


def mark(axis: Axes, points: list[np.ndarray], colour: str = "k") -> None:
    y, x = np.transpose(points)
    axis.plot(x, y, "o", color=colour, markersize=7, markeredgecolor="w", zorder=3)


def second_horn(organ: np.ndarray, extreme: np.ndarray) -> np.ndarray:
    """The end of a crescent's other half, in its row of voxels that reaches farthest."""
    other = organ & ((Y > 48) != (extreme[0] > 48))
    farthest = X[other].max()
    return np.array([Y[other & (farthest == X)].mean(), farthest])


def what_to_mark() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(13.5, 3.3), layout="constrained")
    organ = round_organ()
    show(axes[0], "round organ: extreme points", organ)
    mark(axes[0], list(by_rule("extreme-points", {"organ": organ}).values()))
    organ = crescent()
    points = by_rule("extreme-points", {"organ": organ})
    show(axes[1], "crescent: three sure points;\non the hollow side either horn may reach farther", organ)
    doubtful = points.pop("organ_left")
    mark(axes[1], list(points.values()))
    for number, point in enumerate([doubtful, second_horn(organ, doubtful)]):
        axes[1].plot(*point[::-1], "o", color="w", markeredgecolor="r", markersize=8)
        axes[1].annotate("?", (point[1] + 4, point[0] + 2 + number), color="r", fontsize=13)
    first, second = two_organs()
    show(axes[2], "two organs that touch: contact points,\nthe ends of their interface", first, second)
    contact = by_rule("interface", {"one": first, "other": second})
    mark(axes[2], [contact["one-other_anterior"], contact["one-other_posterior"]])
    show(axes[3], "long organ: its two tips", first | second)
    tips = by_rule("extreme-points", {"organ": first | second})
    mark(axes[3], [tips["organ_right"], tips["organ_left"]])
    figure.savefig(Path(__file__).with_name("what_to_mark.png"), dpi=80)


def pulled(predicted: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Voxels on which direction A has a gradient, at its default options."""
    organ = torch.from_numpy(distance_transform_edt(predicted) - distance_transform_edt(~predicted)).clamp(-3, 3)
    logits = torch.stack([torch.zeros_like(organ), organ])[None].requires_grad_()
    bridge = BridgeLoss([[(1,)]], (1.0, 1.0), **BaBLossOptions().of_the_bridge())
    yes = torch.ones(1, 1, dtype=torch.bool)
    where = torch.tensor(point)[None, None]
    bridge.landmark_pulls_boundary(logits, where, torch.tensor([[State.PRESENT]]), yes).loss.backward()
    assert logits.grad is not None
    return (logits.grad[0, 1].abs() > 0).numpy()


def one_landmark() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained")
    truth = round_organ()
    points = by_rule("extreme-points", {"organ": truth})
    left = points["organ_left"]
    show(axes[0], "one landmark: all three outlines\npass through it", truth)
    for radius_x, radius_y in [(18, 30), (38, 17)]:
        other = ((X - left[1] + radius_x) / radius_x) ** 2 + ((Y - left[0]) / radius_y) ** 2 < 1
        outline(axes[0], other)
    mark(axes[0], [left])
    show(axes[1], "four extreme points: the reach in two directions\nis known, and not the shape", truth)
    diamond = (np.abs(X - 48) / 30) ** 1.2 + (np.abs(Y - 48) / 26) ** 1.2 < 1
    outline(axes[1], diamond)
    mark(axes[1], list(points.values()))
    predicted = np.hypot((X - 45) / 1.15, Y - 48) < 23
    show(
        axes[2],
        "the bridge (red): the voxels that it changes\nin one step, where the dashed outline is predicted",
        truth,
    )
    outline(axes[2], predicted)
    axes[2].contourf(pulled(predicted, left), [0.5, 1.5], colors=["r"], alpha=0.6)
    mark(axes[2], [left])
    figure.savefig(Path(__file__).with_name("one_landmark.png"), dpi=80)


if __name__ == "__main__":
    what_to_mark()
    one_landmark()
