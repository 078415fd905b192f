"""Sessions with random tiny networks, for tests: what they find means nothing, but every prompt changes something."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.predictor import S2VPredictor
from tests import tiny
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.toy import discs, trained

SPACING = [3.0, 1.2, 0.9]


@cache
def model(kind="classes", transpose=(0, 1, 2), spacing=(1.0, 1.0), propagates=True, seed=0):
    """An initialised predictor of 16 × 16 patches, with plans that transpose and resample like this."""
    plans = tiny.plans(**{"2d": tiny.configuration(2)})
    plans["configurations"]["2d"]["spacing"] = list(spacing)
    plans["configurations"]["2d"]["patch_size"] = [8, 16, 16]
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [int(axis) for axis in np.argsort(transpose)]
    manager = PlansManager(plans)
    heads = LabelHeads(3, ((1, 2), (2,))) if "regions" in kind else LabelHeads(3)
    network = s2vnet(heads, seed=seed, deep_supervision=False, propagates=propagates)
    with torch.no_grad():  # so that random networks show all labels, and clicks are obeyed
        network.prompting.clicked.mul_(50)
    made = S2VPredictor(
        device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False, perform_everything_on_device=False
    )
    made.manual_initialization(
        network,
        manager,
        manager.get_configuration("2d"),
        [network.state_dict()],
        tiny.dataset_json(kind),
        "nnUNetTrainerS2VNet",
        None,
    )
    return made


def image(shape=(6, 16, 16), seed=0, border=0):
    """``(1, *shape)``; with a border of zeros that is cropped away."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(1, *shape)).astype(np.float32)
    for axis in range(1, 4):
        made = np.cumsum(made, axis) / 2
    made += 0.1 + 0.2 * rng.random(made.shape)
    if border:
        inner = (slice(None), *(slice(border, -border) for _ in shape))
        cropped = np.zeros_like(made)
        cropped[inner] = made[inner]
        return cropped
    return made


def session(shape=(6, 16, 16), border=0, spacing=SPACING, seed=0, **options):
    """With an image; ``options`` of the model or the session."""
    of_model = {key: options.pop(key) for key in ("kind", "transpose", "propagates") if key in options}
    if "resampled" in options:
        of_model["spacing"] = options.pop("resampled")
    else:
        of_model["spacing"] = tuple(spacing[a] for a in of_model.get("transpose", (0, 1, 2)))[1:]
    made = S2VSession("cpu", **options)
    made.initialize_from_predictor(model(**of_model))
    made.set_image(image(shape, seed, border), {"spacing": list(spacing)})
    return made


def quietly(call, *args, **kwargs):
    """Without the warning that a prompt was cropped away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return call(*args, **kwargs)


@cache
def trained_model():
    """A predictor that learned discs of two classes, and clicks, in 60 steps, and sees images as they are."""
    torch.set_num_threads(1)
    made = model.__wrapped__()
    made.network = trained(60, lambda step: step % 2 == 0, interactive=0.9)
    made.configuration_manager.configuration["normalization_schemes"] = ["NoNormalization"]
    return made


def trained_session(depth=8, seed=1, **options):
    """A session with that model on the volume of a disc, ``(depth, 16, 16)``; and the labels of the volume."""
    images, labels = discs(1, depth, True, seed)
    made = S2VSession("cpu", **options)
    made.initialize_from_predictor(trained_model())
    made.set_image(images[0].numpy(), {"spacing": [1.0, 1.0, 1.0]})
    return made, labels[0].numpy()
