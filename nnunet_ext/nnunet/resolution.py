"""One configuration at another spacing, as nnU-Net's planner would make it, by nnU-Net's own functions.

Strides, kernel sizes and the number of stages come from ``get_pool_and_conv_props``, image sizes from
``compute_new_shape``; with the spacing and patch of existing plans they give these plans again. The rest follows three
rules:

* patch: the planned one, but no larger than the median image at the new spacing, as nnU-Net clips it, and padded by
  nnU-Net so that the strides divide it;
* batch size: the planned one, but no more voxels than 5 % of the data set, nnU-Net's own limit, and at least 2;
* channels: the planned ones; further stages double them up to nnU-Net's limit.

Patches that are no larger, in batches that are no larger, need no more memory than was planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_ext.errors import InputError

# of ExperimentPlanner: UNet_featuremap_min_edge_length, UNet_min_batch_size, max_dataset_covered, UNet_max_features_…
SMALLEST_EDGE = 4
SMALLEST_BATCH = 2
SHARE_OF_DATA = 0.05
MOST_CHANNELS = {2: 512, 3: 320}


def at_spacing(
    settings: dict[str, Any],
    spacing: Sequence[float],
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    configuration: str,
    *,
    patch_size: Sequence[int] | None = None,
    stages: int | None = None,
) -> None:
    """Change one resolved configuration to ``spacing``; its data gets an identifier that names the spacing.

    The identifier begins with that of the configuration, whose data is left alone; plans that start from the same
    configuration share the data of a spacing.

    Args:
        settings: of the configuration; changed.
        spacing: mm, in the order of ``spacing`` in the plans: the axes of the data as nnU-Net transposes them, of
            which ``2d`` lacks the first.
        plans: that it is from.
        fingerprint: content of ``dataset_fingerprint.json``.
        configuration: name.
        patch_size: voxels, in the same order; not padded here.
        stages: of the network; fewer than nnU-Net's rule gives are its first ones.

    Raises:
        InputError: the spacing does not fit the configuration, or the stages do not fit the patch.
    """
    _check(settings, spacing, patch_size, configuration)
    shapes = _shapes(spacing, plans, fingerprint)
    median = np.median(shapes, axis=0)
    axes = len(spacing)
    if shapes[:, -axes:].min() < 1:
        raise InputError(
            f"--spacing {_shown(spacing)} leaves the smallest image without a voxel along an axis (the median image is "
            f"{_shown(median)}); choose a smaller one."
        )
    wanted = patch_size or np.minimum(median[-axes:], settings["patch_size"])
    # with as many poolings as the patch allows, as in ExperimentPlanner.get_plans_for_configuration
    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, wanted, SMALLEST_EDGE, 999999)
    _check_stages(stages, len(strides), spacing, wanted, configuration)
    count = stages or len(strides)
    settings["spacing"] = [float(mm) for mm in spacing]
    settings["median_image_size_in_voxels"] = [float(size) for size in median[-axes:]]
    settings["patch_size"] = [int(size) for size in (patch_size or padded)]
    settings["data_identifier"] += f"_{'x'.join(f'{mm:.15g}' for mm in spacing)}mm"
    covered = round(SHARE_OF_DATA * len(shapes) * float(np.prod(median)) / math.prod(settings["patch_size"]))
    settings["batch_size"] = max(SMALLEST_BATCH, min(settings["batch_size"], covered))
    _change_network(
        settings["architecture"]["arch_kwargs"],
        [list(stride) for stride in strides[:count]],
        [*(list(kernel) for kernel in kernels[: count - 1]), [3] * axes],  # the last one is 3 everywhere, as planned
    )


def turn(plans: dict[str, Any], axis: int) -> None:
    """Let the slices of ``2d`` lie across another axis of the images.

    nnU-Net's preprocessing transposes images so that the slice axis comes first, and its export transposes back. The
    planner takes the axis with the coarsest resolution; of isotropic images that is the first.

    Args:
        plans: changed.
        axis: of the images as nnU-Net reads them; for most readers 0 is z, 1 is y and 2 is x.

    Raises:
        InputError: there is no such axis.
    """
    before = plans["transpose_forward"]
    if axis not in before:
        raise InputError(f"--slice-axis is {axis}, but must be 0, 1 or 2, for slices across z, y or x.")
    forward = [axis, *(other for other in range(len(before)) if other != axis)]
    for key in ("original_median_shape_after_transp", "original_median_spacing_after_transp"):
        of_axis = dict(zip(before, plans[key], strict=True))
        plans[key] = [of_axis[one] for one in forward]
    plans["transpose_forward"] = forward
    plans["transpose_backward"] = [forward.index(one) for one in range(len(forward))]


def median_spacing(plans: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> list[float]:
    """Median mm of a voxel of all images, in the order of the plans."""
    return [float(mm) for mm in np.median(fingerprint["spacings"], axis=0)[plans["transpose_forward"]]]


def _check(
    settings: Mapping[str, Any], spacing: Sequence[float], patch_size: Sequence[int] | None, configuration: str
) -> None:
    for stage in ("previous_stage", "next_stage"):
        if settings.get(stage):
            raise InputError(
                f"--spacing cannot change {configuration}, which belongs to a cascade with {settings[stage]}; choose "
                "2d or 3d_fullres with --configuration."
            )
    axes = len(settings["spacing"])
    for flag, numbers in {"--spacing": spacing, "--patch-size": patch_size}.items():
        if numbers is not None and len(numbers) != axes:
            raise InputError(
                f"{flag} gives {len(numbers)} number{'s' * (len(numbers) > 1)} ({_shown(numbers)}), but configuration "
                f"{configuration} has {axes} axes; choose what is meant with --configuration."
            )
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"--spacing is {_shown(spacing)}, but must be positive numbers of millimetres.")
    if "no_resampling" in settings["resampling_fn_data"]:
        raise InputError(
            f"--spacing cannot change {configuration} of plans that do not resample "
            f"({settings['resampling_fn_data']}); start from others with --plans."
        )


def _shapes(spacing: Sequence[float], plans: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> np.ndarray:
    """``(cases, 3)``: voxels of every image at the new spacing, axes as in the plans; ``2d`` keeps the first axis."""
    forward = plans["transpose_forward"]
    shapes = []
    for shape, old in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        before = [old[axis] for axis in forward]
        after = [*before[: len(before) - len(spacing)], *spacing]
        shapes.append(compute_new_shape([shape[axis] for axis in forward], before, after))
    return np.array(shapes)


def _check_stages(
    asked: int | None, allowed: int, spacing: Sequence[float], patch_size: Sequence[float], configuration: str
) -> None:
    where = f"a patch of {_shown(patch_size)} voxels at {_shown(spacing)} mm has {allowed} stage{'s' * (allowed > 1)}"
    if asked is not None and not 2 <= asked <= allowed:
        raise InputError(
            f"--features gives {asked} number{'s' * (asked > 1)}, but {where} by nnU-Net's rule (configuration "
            f"{configuration}); give between 2 and {allowed}, or a larger --patch-size."
            if allowed > 1
            else _too_small(where, configuration)
        )
    if allowed < 2:
        raise InputError(_too_small(where, configuration))


def _too_small(where: str, configuration: str) -> str:
    return (
        f"Configuration {configuration}: {where} by nnU-Net's rule, and a U-Net needs two; give a larger --patch-size "
        f"(at least {2 * SMALLEST_EDGE} voxels along two axes) or a smaller --spacing."
    )


def _change_network(kwargs: dict[str, Any], strides: list[list[int]], kernels: list[list[int]]) -> None:
    count, most = len(strides), MOST_CHANNELS[len(strides[0])]
    channels = list(kwargs["features_per_stage"][:count])
    while len(channels) < count:
        channels.append(max(channels[-1], min(most, 2 * channels[-1])))
    kwargs.update(n_stages=count, strides=strides, kernel_sizes=kernels, features_per_stage=channels)
    lengths = {"n_conv_per_stage": count, "n_blocks_per_stage": count, "n_conv_per_stage_decoder": count - 1}
    for key, length in lengths.items():
        if isinstance(kwargs.get(key), list):
            kwargs[key] = [*kwargs[key], *[kwargs[key][-1]] * count][:length]


def _shown(numbers: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{number:g}" for number in numbers)
