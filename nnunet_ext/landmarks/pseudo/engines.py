"""Engines by name: what turns an image and point prompts into the mask of one organ.

An engine is any function ``engine(image, spacing_mm, foreground, background) → mask``::

    image        (z, y, x), the first channel as the file has it
    spacing_mm   of these axes
    foreground   (N, 3), N ≥ 1, continuous indices (z, y, x) of points inside of the organ
    background   (M, 3), M ≥ 0, of points outside
    mask         (z, y, x) bool

Besides the names below, ``module:function`` names a function of your own that can be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError

Engine = Callable[[NDArray, Sequence[float], Floats, Floats], NDArray[np.bool_]]


class EngineEntry(NamedTuple):
    """``location``: ``module:function``, called with the path of a model, returns the engine; ``parallel``: several
    processes at once make sense, because the engine needs no GPU."""

    location: str
    description: str
    parallel: bool


_HERE = "nnunet_ext.landmarks.pseudo"
ENGINES: dict[str, EngineEntry] = {
    "random-walker": EngineEntry(f"{_HERE}.random_walker:load", "edges of the image; no model, runs everywhere", True),
    "nninteractive": EngineEntry(f"{_HERE}.nninteractive:load", "nnInteractive; --model is its folder", False),
    "sam": EngineEntry(f"{_HERE}.sam:load", "Segment Anything, slice by slice; --model is its checkpoint", False),
}


def load_engine(name: str, model: str | None = None) -> Engine:
    """The engine of this name, ready to be called.

    Args:
        name: a key of :data:`ENGINES`, or ``module:function``, an engine itself.
        model: folder or file of its weights.

    Raises:
        InputError: there is no such engine, what it needs is not installed, or it needs a model.
    """
    location = ENGINES[name].location if name in ENGINES else name
    module, colon, function = location.partition(":")
    if not colon:
        raise InputError(f"There is no engine {name!r}; there are {', '.join(ENGINES)}, or module:function of yours.")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The engine {name!r} cannot be imported ({error}); is it on PYTHONPATH?") from None
    return found(model) if name in ENGINES else found


def runs_in_parallel(name: str) -> bool:
    """Whether several processes at once make sense."""
    return ENGINES[name].parallel if name in ENGINES else False
