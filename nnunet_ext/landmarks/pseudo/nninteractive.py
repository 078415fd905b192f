"""The engine ``nninteractive``: Isensee et al., *nnInteractive: Redefining 3D Promptable Segmentation*, 2025.

Written after the README of version 1.1.2. It needs a GPU and a model of 400 MB, whose licence is non-commercial, and
was **never run here**: the tests replace it by a stand-in with the same interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.pseudo.engines import Engine


def load(model: str | None) -> Engine:
    """Args:
    model: the folder ``nnInteractive_v1.0`` that its README says how to download.

    Raises:
        InputError: it is not installed, or there is no such folder.
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
