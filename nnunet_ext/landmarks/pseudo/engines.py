"""Engines of pseudo-labels; the adapters to promptable models were **not run here with real weights**.

They are ``nninteractive`` and ``sam`` below, and the tests replace their models by stand-ins with the same interface.

An engine turns an image and point prompts into the mask of one organ. It is any function
``engine(image, spacing_mm, foreground, background) → mask``::

    image        (z, y, x), the first channel, grey values as in the file
    spacing_mm   spacing of these axes
    foreground   (N, 3), N ≥ 1, continuous indices (z, y, x) of points inside the organ
    background   (M, 3), M ≥ 0, continuous indices of points outside it
    mask         (z, y, x) bool

An engine may know organs by name and read all channels (:class:`OrganEngine`). Besides the names below,
``module:function`` names an importable function of your own.

``nninteractive`` is Isensee et al., *nnInteractive: Redefining 3D Promptable Segmentation*, 2025, written after the
README of version 1.1.2; its model of 400 MB has a non-commercial licence and needs a GPU. ``sam`` is Segment Anything
(Kirillov et al., ICCV 2023), written after the interface of ``segment_anything`` 1.0; checkpoints of MedSAM have the
same format, but were trained with boxes, not with points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.geometry import Floats, slice_axis
from nnunet_ext.errors import InputError

Engine = Callable[[NDArray, Sequence[float], Floats, Floats], NDArray[np.bool_]]


@runtime_checkable
class OrganEngine(Protocol):
    """Maker of engines, for a model that knows organs by name and reads all channels."""

    def of_organ(self, organ: str, channels: NDArray) -> Engine:
        """Return the engine for one organ of the image ``(C, z, y, x)``."""


class EngineEntry(NamedTuple):
    """An engine that has a name.

    Attributes:
        location: ``module:function`` of a function that takes the path of a model and returns the engine, or one that
            makes engines (:class:`OrganEngine`).
        description: one line for people.
        parallel: whether it may run in several processes, because it needs no GPU.
    """

    location: str
    description: str
    parallel: bool


_HERE = "nnunet_ext.landmarks.pseudo"
ENGINES: dict[str, EngineEntry] = {
    "random-walker": EngineEntry(f"{_HERE}.random_walker:load", "edges of the image; no model, runs everywhere", True),
    "s2vnet": EngineEntry(f"{_HERE}.s2vnet:load", "a model of nnUNetTrainerS2VNet; --model is its folder", False),
    "nninteractive": EngineEntry(f"{_HERE}.engines:load_nninteractive", "nnInteractive; --model is its folder", False),
    "sam": EngineEntry(f"{_HERE}.engines:load_sam", "Segment Anything by slices; --model is its checkpoint", False),
}

JUMP = 2.0
"""Largest factor by which the area may change from one slice to the next, for Segment Anything."""


def load_engine(name: str, model: str | None = None) -> Engine | OrganEngine:
    """The engine of this name, ready to be called.

    Args:
        name: a key of :data:`ENGINES`, or ``module:function``, an engine itself.
        model: folder or file of its weights.

    Raises:
        InputError: there is no such engine, its package is not installed, it needs a model, or it is a function, which
            takes none.
    """
    location = ENGINES[name].location if name in ENGINES else name
    if not re.fullmatch(r"\w[\w.]*:\w+", location):
        raise InputError(f"There is no engine {name!r}; there are {', '.join(ENGINES)}, or module:function of yours.")
    if name not in ENGINES and model is not None:
        raise InputError(f"--model is {model}, but the engine {name} loads its weights itself; leave it out.")
    module, _, function = location.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The engine {name!r} cannot be imported ({error}); is it on PYTHONPATH?") from None
    return found(model) if name in ENGINES else found


def runs_in_parallel(name: str) -> bool:
    """Whether the engine may run in several processes."""
    return ENGINES[name].parallel if name in ENGINES else False


# --- adapters of models -----------------------------------------------------------------------------------------------


def load_nninteractive(model: str | None) -> Engine:
    """Load nnInteractive.

    Args:
        model: the folder ``nnInteractive_v1.0``; nnInteractive's README says how to download it.

    Raises:
        InputError: nnInteractive is not installed, or there is no such folder.
    """
    try:
        from nnInteractive.inference.inference_session import nnInteractiveInferenceSession
    except ImportError:
        raise InputError("The engine nninteractive needs nnInteractive: pip install nninteractive.") from None
    if model is None or not Path(model).is_dir():
        raise InputError(f"--model is {model}, but nninteractive needs the folder of its weights (nnInteractive_v1.0).")
    import torch

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    session = nnInteractiveInferenceSession(device=device, use_torch_compile=False, verbose=False, do_autozoom=True)
    session.initialize_from_trained_model_folder(model)

    def engine(
        image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
    ) -> NDArray[np.bool_]:
        session.set_image(np.asarray(image)[None])
        buffer = torch.zeros(image.shape, dtype=torch.uint8)
        session.set_target_buffer(buffer)
        session.reset_interactions()
        for points, include in ((foreground, True), (background, False)):
            for point in np.rint(points).astype(int).tolist():
                session.add_point_interaction(tuple(point), include_interaction=include)
        return buffer.cpu().numpy() > 0

    return engine


def load_sam(model: str | None) -> Engine:
    """Load Segment Anything.

    Args:
        model: checkpoint, with ``vit_b``, ``vit_l`` or ``vit_h`` in its name.

    Raises:
        InputError: Segment Anything is not installed, or there is no such file.
    """
    try:
        from segment_anything import SamPredictor, sam_model_registry
    except ImportError:
        raise InputError("The engine sam needs segment_anything: pip install segment-anything.") from None
    kind = re.search(r"vit_[blh]", Path(model).name) if model else None
    if model is None or kind is None or not Path(model).is_file():
        raise InputError(f"--model is {model}, but sam needs a checkpoint file with vit_b, vit_l or vit_h in its name.")
    import torch

    network = sam_model_registry[kind[0]](checkpoint=model)
    predictor = SamPredictor(network.to("cuda:0" if torch.cuda.is_available() else "cpu"))

    def engine(
        image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
    ) -> NDArray[np.bool_]:
        return slice_by_slice(predictor, image, spacing_mm, foreground, background)

    return engine


def slice_by_slice(
    predictor: Any, image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
) -> NDArray[np.bool_]:
    """Segment 2D slices with a predictor that has the interface of ``SamPredictor``, and propagate to the others.

    First the slices with foreground points are segmented. From there propagation moves slice by slice, with the
    innermost point of the last mask as the prompt, until the mask vanishes or jumps in size.
    """
    axis = slice_axis(spacing_mm, image.shape)
    volume, mask = np.moveaxis(image, axis, 0), np.zeros(image.shape, bool)
    slices = np.moveaxis(mask, axis, 0)
    darkest, brightest = np.percentile(volume, [0.5, 99.5])
    grey = np.clip((volume - darkest) / max(brightest - darkest, 1e-9) * 255, 0, 255).astype(np.uint8)
    # the slice of each point, and its row and column in the slice
    inner, outer = (
        (np.rint(points[:, axis]).astype(int), np.delete(points, axis, 1)) for points in (foreground, background)
    )

    def segment(z: int, inside: Floats) -> NDArray[np.bool_]:
        outside = outer[1][outer[0] == z]
        predictor.set_image(np.repeat(grey[z][..., None], 3, -1))
        found, _, _ = predictor.predict(
            point_coords=np.concatenate([inside, outside])[:, ::-1],
            point_labels=np.array([1] * len(inside) + [0] * len(outside)),
            multimask_output=False,
        )
        return np.asarray(found[0], bool)

    prompted = sorted(set(inner[0].tolist()))
    for z in prompted:
        slices[z] = segment(z, inner[1][inner[0] == z])
    for start in prompted:
        for step in (-1, 1):
            last, z = slices[start], start + step
            while 0 <= z < len(slices) and z not in prompted and last.any():
                depth = distance_transform_edt(np.pad(last, 1))[1:-1, 1:-1]
                centre = np.array(np.unravel_index(depth.argmax(), depth.shape), float)
                found = segment(z, centre[None])
                if not last.sum() / JUMP <= found.sum() <= last.sum() * JUMP:
                    break
                slices[z] |= found
                last, z = found, z + step
    return mask
