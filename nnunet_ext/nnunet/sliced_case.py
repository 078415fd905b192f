"""One image as configuration ``2d`` sees it: its slices, the place of a voxel in them, and the way back for logits.

nnU-Net transposes the axes, crops to what is not zero, and resamples within slices. ``2d`` never resamples across them
(``default_preprocessor.py``, 2.8.1), so slice z of the preprocessed image is one slice of the original one, and its
logits are resampled on their own. Within slices the network sees tiles of the patch size, with nnU-Net's steps and
Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.geometry import Floats, inside
from nnunet_ext.data.headers import require_whole
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing, require_folder_of
from nnunet_ext.nnunet.slice_export import label_type, labels_of_slice
from nnunet_ext.nnunet.slice_tiles import SliceTiles

MAX_VALUES = 2**31
"""Values of a preprocessed image at most, all channels: 8 GiB."""


@dataclass(frozen=True, eq=False)
class SlicedCase:
    """A preprocessed image. Voxels are indices of the array that was given, ``(z, y, x)`` as nnU-Net's readers deliver.

    Attributes:
        model: an initialised predictor, which knows plans, configuration and labels.
        shape: of the original array without its channels, ``(3,)``.
        properties: of the reader, with what preprocessing added.
        grid: where voxels are.
        image: preprocessed and padded to at least a patch, ``(C, D, h, w)`` float32.
        tiling: of the slices of :attr:`image`.
        files: that the image was read from; none if it was given as an array.
    """

    model: nnUNetPredictor
    shape: tuple[int, int, int]
    properties: dict[str, Any]
    grid: PreprocessedGrid
    image: Tensor
    tiling: SliceTiles
    files: tuple[Path, ...] = ()

    @classmethod
    def from_array(cls, image: NDArray, properties: Mapping[str, Any], model: nnUNetPredictor) -> SlicedCase:
        """Preprocess an image.

        Args:
            image: ``(C, z, y, x)``.
            properties: at least ``spacing``, mm of the three axes; to write files, all that nnU-Net's reader returned.
            model: initialised, of configuration ``2d``.

        Raises:
            InputError: the image has another number of channels or axes, holds no numbers or only zeros, or its spacing
                is missing or wrong.
        """
        settings = model.configuration_manager
        _check(image, properties, len(channel_names(model.dataset_json)))
        _check_size(image.shape, properties["spacing"], model.plans_manager.transpose_forward, settings.spacing)
        known = dict(properties)
        preprocessor = settings.preprocessor_class(verbose=False)
        data, _, known = preprocessor.run_case_npy(
            image, None, known, model.plans_manager, settings, model.dataset_json
        )
        grid = PreprocessedGrid.from_properties(known, model.plans_manager.plans, data.shape[1:])
        tiling = SliceTiles.of(data.shape[2:], settings.patch_size[-2:], model.tile_step_size)
        depth, height, width = image.shape[1:]
        return cls(model, (depth, height, width), known, grid, tiling.padded(torch.from_numpy(data)), tiling)

    @classmethod
    def from_files(cls, files: Sequence[str | Path], model: nnUNetPredictor) -> SlicedCase:
        """Read the channels of one image, in their order, and preprocess them.

        Raises:
            InputError: a file is missing or cannot be read; see :meth:`from_array`.
        """
        paths = [Path(file) for file in files]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise InputError(f"There is no image file {missing[0]}.")
        for path in paths:
            require_whole(path)
        reader = model.plans_manager.image_reader_writer_class()
        try:
            image, properties = reader.read_images([str(path) for path in paths])
        except Exception as error:  # every reader raises something else
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{paths[0]} cannot be read with {type(reader).__name__}: {reason}") from None
        return replace(cls.from_array(image, properties, model), files=tuple(paths))

    def write(self, labels: NDArray, target: str | Path) -> None:
        """Write a label map like the original array as a file with its geometry, as a whole or not at all.

        Raises:
            InputError: see :meth:`require_writable`; the image came from no file.
        """
        target = Path(target)
        self.require_writable(target)
        writer = self.model.plans_manager.image_reader_writer_class()
        try:
            with replacing(target) as temporary:
                writer.write_seg(labels.astype(self.label_type), str(temporary), self.properties)
        except KeyError:
            raise InputError(
                "The image was given as an array without the geometry of a file; read it with set_image_from_files to "
                "write segmentations."
            ) from None

    def require_writable(self, target: str | Path) -> None:
        """Check that a label map can be written to a file.

        Raises:
            InputError: the folder is missing, the model's writer does not know the ending, or the file is the image.
        """
        target = Path(target)
        writer = self.model.plans_manager.image_reader_writer_class()
        if not target.name.endswith(tuple(writer.supported_file_endings)):
            raise InputError(
                f"{target} cannot be written with {type(writer).__name__}; choose one of the endings "
                f"{', '.join(writer.supported_file_endings)}."
            )
        require_folder_of(target)
        if any(file.exists() and target.exists() and file.samefile(target) for file in self.files):
            raise InputError(f"{target} is the image itself; choose another name for the segmentation.")

    @property
    def is_reoriented(self) -> bool:
        """Whether the reader turned the image, so that indices of the array are not those of the file."""
        groups = [group for group in self.properties.values() if isinstance(group, Mapping)]
        parts = {key: value for group in groups for key, value in group.items()}
        if "reoriented_affine" in parts:
            return not np.allclose(parts["original_affine"], parts["reoriented_affine"])
        return parts.get("original_orientation", "RAS") != "RAS"  # to which SimpleITKIOWithReorient turns

    @property
    def slice_axis(self) -> int:
        """Axis of the original array across which slices lie."""
        return self.grid.transpose[0]

    @property
    def gap(self) -> float:
        """Distance of two slices, in mm."""
        return float(self.properties["spacing"][self.slice_axis])

    @property
    def in_plane(self) -> tuple[float, float]:
        """Distance of two rows and of two columns of the original array, in mm."""
        rows, columns = (float(self.properties["spacing"][axis]) for axis in self.grid.transpose[1:])
        return rows, columns

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of :attr:`image` that are no padding."""
        return self.tiling.inside

    @property
    def tiles(self) -> tuple[tuple[slice, slice], ...]:
        """Rows and columns of :attr:`image` that the network sees together."""
        return self.tiling.places

    @property
    def depth(self) -> int:
        """Number of slices within the crop."""
        return self.grid.cropped[0]

    def to_pixels(self, voxels: NDArray) -> Floats:
        """``(P, 3)``, continuous indices of the original array → slice, row and column of :attr:`image`."""
        offset = [0, *(part.start for part in self.inside)]
        return self.grid.from_index(voxels) + offset

    def to_voxels(self, pixels: NDArray) -> Floats:
        """``(P, 3)``, slice, row and column of :attr:`image` → continuous indices of the original array."""
        offset = [0, *(part.start for part in self.inside)]
        return self.grid.to_index(np.asarray(pixels, float) - offset)

    def in_crop(self, voxels: NDArray) -> NDArray[np.bool_]:
        """``(P,)``: which of the voxels ``(P, 3)`` were not cropped away; the others are never segmented."""
        transposed = np.asarray(voxels, float)[:, list(self.grid.transpose)] - self.grid.start
        return inside(transposed, self.grid.cropped)

    def cropped_view(self, array: NDArray) -> NDArray:
        """Return the segmented part of an array like the original image, ``(D, H, W)`` as transposed; no copy."""
        box = tuple(slice(a, a + n) for a, n in zip(self.grid.start, self.grid.cropped, strict=True))
        return array.transpose(self.grid.transpose)[box]

    def uncropped(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(P, 3)``, indices of :meth:`cropped_view` → voxels of the original array."""
        return (indices + self.grid.start)[:, np.argsort(self.grid.transpose)]

    def labels_of(self, logits: Tensor) -> NDArray:
        """Labels of one slice on the grid of the original image.

        Args:
            logits: ``(heads, h, w)``, on the grid of :attr:`image` without its padding.

        Returns:
            ``(H, W)``, a slice of :meth:`cropped_view`; uint8, or uint16 if there are many labels.
        """
        return labels_of_slice(logits, self.properties, self.model)

    @property
    def label_type(self) -> type[np.unsignedinteger]:
        """Return the type of label maps, as nnU-Net chooses it."""
        return label_type(self.model.label_manager)


def _check(image: NDArray, properties: Mapping[str, Any], channels: int) -> None:
    if image.ndim != 4 or image.shape[0] != channels or 0 in image.shape:
        raise InputError(
            f"The image has shape {image.shape}, but the model expects (channels, z, y, x) with {channels} channels; a "
            "2D image has one slice."
        )
    given = properties.get("spacing")
    try:
        spacing = np.array(given, float)
        wrong = spacing.shape != (3,) or not ((spacing > 0) & np.isfinite(spacing)).all()
    except (TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise InputError(
            f"The spacing of the image is {repr(given)[:80]}; give image_properties={{'spacing': [z, y, x]}} in mm, in "
            "the order of the axes of the array."
        )
    if not np.issubdtype(image.dtype, np.number) or not np.isfinite(image).all():
        raise InputError("The image holds values that are no finite numbers; repair it.")
    if not image.any():
        raise InputError("The image holds nothing but zeros; is it the right file?")


def _check_size(
    shape: Sequence[int], spacing: Sequence[float], transpose: Sequence[int], wanted: Sequence[float]
) -> None:
    """Raise InputError if resampling would leave nothing of the image, or more than :data:`MAX_VALUES`.

    Args:
        shape: ``(C, z, y, x)``.
        spacing: mm of z, y, x.
        transpose: nnU-Net's order of the axes; slices lie across the first one.
        wanted: mm within slices, of the plans.
    """
    sizes, mm = (np.array(values, float)[list(transpose)] for values in (shape[1:], spacing))
    with np.errstate(over="ignore"):
        sizes[1:] = np.rint(sizes[1:] * mm[1:] / np.array(wanted[-2:], float))
        values = shape[0] * sizes.prod()
    if not (sizes >= 1).all() or values > MAX_VALUES:
        slices = " × ".join(f"{size:.0f}" if size < 10**9 else f"{size:.0e}" for size in sizes[1:])
        raise InputError(
            f"With a spacing of {[float(value) for value in spacing]} mm a slice would have {slices} pixels on the "
            f"grid of the model; images up to {MAX_VALUES} values fit. Is the spacing in mm?"
        )
