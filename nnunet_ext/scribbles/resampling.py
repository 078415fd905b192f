"""Resamples label maps with nnU-Net's own function, to see which labels are left.

nnU-Net first crops images to their nonzero region. That shifts the grid by less than a voxel and is left out here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.nnunet.plans import plans_in

DEFAULT_PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class Grid:
    """Target spacing of label maps.

    Attributes:
        name: name in messages, such as ``3d_fullres``.
        spacing_mm: spacing of the transposed axes; two numbers keep the slices as they are.
        transpose: order of the axes, as in the plans.
        function: nnU-Net's resampling function; by default that of new plans.
        options: arguments of the function; by default those of new plans.
    """

    name: str
    spacing_mm: tuple[float, ...]
    transpose: tuple[int, ...] = (0, 1, 2)
    function: str = "resample_data_or_seg_to_shape"
    options: Mapping[str, Any] = field(
        default_factory=lambda: {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    )

    @property
    def title(self) -> str:
        return f"{self.name} ({' × '.join(f'{mm:.3g}' for mm in self.spacing_mm)} mm)"


def planned(dataset: str, plans: str = DEFAULT_PLANS) -> dict[str, Any] | None:
    """Return the content of a plans file in ``nnUNet_preprocessed``, or None if the data set is not planned yet.

    Args:
        dataset: full name.
        plans: name of the plans.

    Raises:
        InputError: the file is missing, and the data set has other plans or the name is not the default.
    """
    root = os.environ.get("nnUNet_preprocessed")
    folder = Path(root) / dataset if root else None
    if folder is not None and (file := folder / f"{plans}.json").is_file():
        return read_json(file)
    there = plans_in(folder) if folder is not None else []
    if there or plans != DEFAULT_PLANS:
        fix = f"choose from {', '.join(there)} with -p" if there else "plan the data set first, or leave out -p"
        raise InputError(f"There is no {plans}.json in {folder or 'nnUNet_preprocessed, which is not set'}; {fix}.")
    return None


def planned_grids(dataset: str, plans: str = DEFAULT_PLANS) -> list[Grid]:
    """One grid for every spacing in the plans; none if the data set is not planned yet.

    Args:
        dataset: full name.
        plans: name of the plans.

    Raises:
        InputError: see :func:`planned`.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    content = planned(dataset, plans)
    if content is None:
        return []
    manager = PlansManager(content)
    grids: dict[tuple[float, ...], Grid] = {}
    for name in manager.available_configurations:
        settings = manager.get_configuration(name).configuration
        spacing = tuple(map(float, settings["spacing"]))
        grids.setdefault(
            spacing,
            Grid(
                name,
                spacing,
                tuple(content["transpose_forward"]),
                settings["resampling_fn_seg"],
                settings["resampling_fn_seg_kwargs"],
            ),
        )
    return list(grids.values())


def median_grid(spacings_mm: Sequence[Sequence[float]]) -> Grid:
    """The median spacing of the cases, which nnU-Net plans for most data sets."""
    if len({len(spacing) for spacing in spacings_mm}) > 1:
        raise InputError("Some cases are 2D and some are 3D, but all of a data set must have the same dimensions.")
    return Grid("median spacing", tuple(float(mm) for mm in np.median(np.asarray(spacings_mm), axis=0)))


def resampled(labels: NDArray, spacing_mm: Sequence[float], grid: Grid) -> NDArray:
    """Resample a label map.

    Args:
        labels: ``(z, y, x)`` or ``(y, x)``.
        spacing_mm: spacing of these axes.
        grid: target grid.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
    from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name

    if labels.ndim == 2:
        # one thick slice, as nnU-Net does
        labels, spacing_mm = labels[None], [999 * max(spacing_mm), *spacing_mm]
    labels = labels.transpose(grid.transpose)
    old = [spacing_mm[axis] for axis in grid.transpose]
    new = [*old[: len(old) - len(grid.spacing_mm)], *grid.spacing_mm]
    shape = compute_new_shape(labels.shape, old, new)
    function = recursive_find_resampling_fn_by_name(grid.function)
    return np.asarray(function(labels[None], shape, old, new, **grid.options))[0]
