"""Engine ``s2vnet``: a model of ``nnUNetTrainerS2VNet`` that prompts correct, in an interactive session.

Train it on the segmented cases of the data set, then let the landmarks of the other cases prompt it::

    nnunet-ext landmarks pseudo-label 204 --new-dataset 304 --engine s2vnet --model MODEL_FOLDER

The model segments every organ by itself first; foreground points then say "this is the organ", background points "this
is not". Unlike the other engines it knows organs by name and reads all channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.landmarks.pseudo.engines import Engine


class S2VNetEngine:
    """An engine for every organ that a model knows.

    Args:
        session: with a model.
        model: its folder, for messages.
    """

    def __init__(self, session: S2VSession, model: str) -> None:
        self.session = session
        self.model = model
        self._channels: NDArray | None = None

    def of_organ(self, organ: str, channels: NDArray) -> Engine:
        """Return the engine for one organ of one image.

        Args:
            organ: name of a label of the model.
            channels: ``(C, z, y, x)``, grey values as in the files.

        Raises:
            InputError: the model has no such label.
        """
        labels = self.session.labels
        if organ not in labels:
            known = [name for name, value in labels.items() if value]
            raise InputError(
                f"--model {self.model} segments {', '.join(known)}, but the landmarks mark {organ}; train "
                "nnUNetTrainerS2VNet on cases with this label."
            )

        def engine(
            image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
        ) -> NDArray[np.bool_]:
            if self._channels is not channels:
                self.session.set_image(channels, {"spacing": list(spacing_mm)})
                self._channels = channels
            self.session.reset_interactions()
            for points, include in ((foreground, True), (background, False)):
                for point in points.tolist():
                    self.session.add_point_interaction(point, include, run_prediction=False, label=organ)
            self.session.predict()
            return self.session.target_buffer == labels[organ]

        return engine


def load(model: str | None) -> S2VNetEngine:
    """Load a trained model.

    Args:
        model: the folder with ``plans.json`` and ``fold_…``.

    Raises:
        InputError: there is no such folder, or it holds no model of S2VNet.
    """
    if model is None or not Path(model).is_dir():
        raise InputError(
            f"--model is {model}, but s2vnet needs the folder of a model that nnUNetTrainerS2VNet trained (with "
            "plans.json and fold_…)."
        )
    session = S2VSession()
    session.initialize_from_trained_model_folder(model)
    return S2VNetEngine(session, model)
