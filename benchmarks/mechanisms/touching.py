"""PnPNet where two structures touch and nobody drew their border well.

An ellipse is two structures, of which one is a little brighter; the border between them is blurred, and in the training
labels it is moved and bent, by up to two pixels each. The true border is known. A fresh PnPNet must be the planned
network bit for bit. After equal steps at default options its border must be nearer to the true one than that of stock
nnU-Net in its worst places, and must be worse with its branch switched off. The pushing branch is off by default;
with both branches the border must be worse with either branch switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmarks.mechanisms.toy import Answer
from benchmarks.mechanisms.training import plans, predictor, trained
from nnunet_ext.catalogue import resolve
from nnunet_ext.evaluation.interfaces import interface_metrics
from nnunet_ext.pnpnet.predictor import BRANCHES, without

Arm = tuple[str, Mapping[str, Any]]
LABELS = {"background": 0, "dark": 1, "bright": 2}
ARMS: Mapping[str, Arm] = {
    "stock nnU-Net": ("nnUNetTrainerReference", {}),
    "PnPNet": ("nnUNetTrainerPnPNet", {}),
    "both branches": ("nnUNetTrainerPnPNet", {"push": True}),
}
"""Name → trainer, and its options of PnPNet. The second must be better than the first."""
SIZE = 40
FEATURES, BATCH_SIZE, STEPS = (8, 16, 32, 32), 4, 300
TRAINING, TEST = 24, 32
GREY, BLUR, NOISE = (0.0, 1.0, 1.5), 1.5, 0.3
JITTER = 2.0
"""Pixels by which the border is moved at most in the training labels, and bent at most."""

GAIN = 0.5
"""Pixels of HD95 that PnPNet must win."""

MEASURE = "HD95 of the border, pixels"


def run(arms: Mapping[str, Arm] = ARMS, *, seed: int = 0) -> list[Answer]:
    """Train the arms, and compare the border that they find with the true one.

    Args:
        arms: as :data:`ARMS`.
        seed: of the weights.
    """
    networks = {name: network_of(arm, seed) for name, arm in arms.items()}
    worst = {name: border_error(network) for name, network in networks.items()}
    first, second, *_ = worst.values()
    fresh = {name: difference_at_the_start(arm, arms[next(iter(arms))]) for name, arm in list(arms.items())[1:]}
    return [
        Answer("step 0", "difference of logits to stock", fresh, "0", not any(fresh.values())),
        Answer("border", MEASURE, worst, f"the second lower by at least {GAIN}", first - second >= GAIN),
        *[switched_off(name, network, worst[name]) for name, network in list(networks.items())[1:]],
    ]


def switched_off(name: str, network: nn.Module, whole: float) -> Answer:
    """Whether the border is worse with any branch of a network switched off; ``whole`` is its error with all on."""
    has = {key.partition(".")[0] for key, _ in network.named_parameters()}
    off = {}
    for branch in BRANCHES:
        if branch in has:
            with without(network, branch):
                off[f"without {branch}"] = border_error(network)
    needed = bool(off) and all(error > whole for error in off.values())
    return Answer(f"branches of {name}", MEASURE, {name: whole, **off}, "more without any of them", needed)


def network_of(arm: Arm, seed: int) -> nn.Module:
    """The network of an arm after its training."""
    image, labels, _ = batch_of(range(TRAINING))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = np.random.default_rng(step).permutation(TRAINING)[:BATCH_SIZE]
        return image[drawn], labels[drawn]

    trainer, options = arm
    return trained(trainer, toy_plans(options), LABELS, batch, STEPS, seed=seed).network


def toy_plans(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plans with these options of PnPNet."""
    return plans((SIZE, SIZE), BATCH_SIZE, FEATURES, {"pnpnet": options} if options else None)


def difference_at_the_start(*arms: Arm) -> float:
    """Largest difference between the logits of two fresh networks, drawn with one seed."""
    image, logits = batch_of(range(2))[0], []
    for trainer, options in arms:
        torch.manual_seed(0)
        manager = PlansManager(toy_plans(options))
        network = resolve(trainer).build_network_architecture(manager, manager.get_configuration("2d"), 1, 3, False)
        logits.append(predictor(network.eval())(image))
    return float((logits[0] - logits[1]).abs().max())


def border_error(network: nn.Module) -> float:
    """Mean HD95 of the interface of both structures in the test images, pixels of 1 mm."""
    image, _, truths = batch_of(range(1000, 1000 + TEST))
    found = predictor(network)(image).argmax(1).numpy()
    structures = {name: value for name, value in LABELS.items() if value}
    errors = []
    for prediction, truth in zip(found, truths, strict=True):
        (border,) = interface_metrics(prediction, truth, (1.0, 1.0), structures).values()
        errors.append(border.hd95_mm)
    return float(np.mean(errors))


def batch_of(seeds: range) -> tuple[Tensor, Tensor, NDArray]:
    """Images ``(B, 1, H, W)``, labels of the same shape, and true labels ``(B, H, W)``."""
    images, labels, truths = (np.stack(arrays) for arrays in zip(*map(case, seeds), strict=True))
    return torch.from_numpy(images)[:, None].float(), torch.from_numpy(labels)[:, None].short(), truths


def case(seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """One image, its labels with a wrong border, and the true ones, ``(H, W)`` each.

    Args:
        seed: of place, size, direction, border, its error, and noise.
    """
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[np.arange(SIZE) - (SIZE - 1) / 2] * 2, indexing="ij")
    angle, (dy, dx) = rng.uniform(0, 2 * np.pi), rng.uniform(-3, 3, 2)
    across = (y - dy) * np.sin(angle) + (x - dx) * np.cos(angle)
    along = (y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)
    organ = np.hypot(across / rng.uniform(13, 16), along / rng.uniform(8, 11)) < 1
    border = wave(rng, along, rng.uniform(1, 2.5), (0.15, 0.3)) + rng.uniform(-3, 3)
    drawn = border + wave(rng, along, rng.uniform(0, JITTER), (0.2, 0.6)) + rng.uniform(-JITTER, JITTER)
    truth, labels = (np.where(organ, np.where(across > line, 2, 1), 0) for line in (border, drawn))
    image = gaussian_filter(np.array(GREY)[truth], BLUR) + rng.normal(0, NOISE, truth.shape)
    return (image - image.mean()) / image.std(), labels, truth


def wave(rng: np.random.Generator, along: NDArray, height: float, radians: tuple[float, float]) -> NDArray:
    """Return a wave of so many pixels along a border, with so many radians in each pixel."""
    return height * np.sin(rng.uniform(*radians) * along + rng.uniform(0, 2 * np.pi))
