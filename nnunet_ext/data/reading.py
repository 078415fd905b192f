"""Reads images and label maps with nnU-Net's readers, and checks that two of them have the same geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.headers import Values, quiet, require_one_value, require_whole, values_of
from nnunet_ext.errors import InputError

EXACT = 2**24
"""Limit of labels. nnU-Net's readers return single precision, which rounds larger whole numbers."""

PSEUDO_2D = 900
"""Ratio of slice thickness to pixel width above which a volume is a 2D image; nnU-Net's readers set it to 999."""


@dataclass(frozen=True)
class Volume:
    """An image or a label map.

    Attributes:
        array: ``(z, y, x)`` or ``(y, x)``; with channels ``(C, z, y, x)``.
        spacing_mm: spacing of the spatial axes of the array.
        geometry: spacing, origin, direction or affine, as the reader returns them.
    """

    array: NDArray
    spacing_mm: tuple[float, ...]
    geometry: Mapping[str, NDArray]

    def first(self) -> Volume:
        """The first channel of ``(C, z, y, x)``: ``(z, y, x)``, or ``(y, x)`` if the image is 2D."""
        array, spacing = self.array[0], self.spacing_mm
        if array.shape[0] == 1 and spacing[0] > PSEUDO_2D * max(spacing[1:]):
            return Volume(array[0], spacing[1:], self.geometry)
        return Volume(array, spacing, self.geometry)


class Reader:
    """One of nnU-Net's readers, by the name of its class."""

    def __init__(self, name: str) -> None:
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

        self.name = name
        try:
            self._reader = recursive_find_reader_writer_by_name(name)()
        except RuntimeError:
            raise InputError(f"nnU-Net has no reader called {name!r}.") from None

    @classmethod
    def for_file(cls, example: Path, ending: str, description: Mapping[str, Any] | None = None) -> Reader:
        """The reader that nnU-Net would choose.

        Args:
            example: a file that the reader must be able to read.
            ending: with the dot, such as ``.nii.gz``.
            description: content of ``dataset.json``, which may name a reader.

        Raises:
            InputError: nnU-Net has no reader for this file.
        """
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        content = {**(description or {}), "file_ending": ending}
        if example.is_file():
            require_whole(example)
        try:
            with quiet():
                found = determine_reader_writer_from_dataset_json(content, str(example), verbose=False)
        except RuntimeError:
            held = values_of(example, "") if example.is_file() else Values(1, "")
            what = f"it holds {held.count} {held.kind}" if held.count > 1 else "is the file damaged?"
            raise InputError(f"{example}: none of nnU-Net's readers can read it; {what}.".replace("?.", "?")) from None
        return cls(found.__name__)

    def labels(self, path: Path) -> Volume:
        """Read a label map, as int32.

        Raises:
            InputError: the file cannot be read, holds more than one value per voxel, or values that are not whole
                numbers.
        """
        self._require_there([path])
        require_one_value(path, self.name)
        volume = self._read(path, lambda: self._reader.read_seg(str(path)))
        if (count := len(volume.array)) != 1:
            raise InputError(f"{path} holds {count} values per voxel, but a label map has one; export a label map.")
        rounded = np.rint(volume.array[0])
        # nan is wrong too
        wrong = volume.array[0][~((np.abs(volume.array[0] - rounded) < 1e-4) & (np.abs(rounded) < EXACT))]
        if wrong.size:
            raise InputError(
                f"{path}: {wrong.size} voxels hold no whole number of a label (such as {wrong[0]:g}), but a "
                "segmentation holds labels; was it resampled with interpolation, or is it a probability map?"
            )
        return replace(volume, array=rounded.astype(np.int32)[None]).first()

    def image(self, path: Path) -> Volume:
        """Read the first channel of an image."""
        return self.channels([path]).first()

    def channels(self, paths: Sequence[Path]) -> Volume:
        """Read all channels of an image, ``(C, z, y, x)``; a 2D image is one slice.

        Args:
            paths: image files in the order of the channels; one file may hold several channels, as png does.

        Raises:
            InputError: a file cannot be read, or the files do not lie on the same voxels.
        """
        self._require_there(paths)
        for path in paths:
            if "SimpleITK" in self.name and (found := values_of(path, self.name)).kind.startswith(("layer", "colour")):
                raise InputError(
                    f"{path} holds {found.count} {found.kind}, whose axis nnU-Net takes for one of the image; write "
                    "one file per channel."
                )
        return self._read(paths[0], lambda: self._reader.read_images([str(path) for path in paths]))

    def _require_there(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not path.is_file():
                raise InputError(f"There is no file {path}.")
            require_whole(path)

    def _read(self, path: Path, read: Callable[[], tuple[NDArray, dict[str, Any]]]) -> Volume:
        """Call a reader of nnU-Net and return its volume, ``(C, z, y, x)``; ``path`` is named in messages."""
        try:
            with quiet():
                array, properties = read()
        except Exception as error:  # every reader raises its own type of error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path} cannot be read with {self.name}: {reason[:200]}") from None
        array = np.asarray(array)
        spacing = tuple(float(mm) for mm in properties["spacing"])
        geometry = {"spacing": np.asarray(spacing)}
        for group in properties.values():
            if isinstance(group, Mapping):
                # SimpleITKIOWithReorient also stores the name of an orientation, a string
                numbers = {key: value for key, value in group.items() if not isinstance(value, str)}
                geometry |= {key: np.asarray(value, float) for key, value in numbers.items() if key != "spacing"}
        if len(geometry.get("origin", ())) == 4:  # the fourth axis holds the channels
            geometry["origin"] = geometry["origin"][:3]
            geometry["direction"] = geometry["direction"].reshape(4, 4)[:3, :3].ravel()
        return Volume(array, spacing, geometry)


def require_same_geometry(case: str, reference: Volume, prediction: Volume) -> None:
    """Raise InputError, naming the case, unless both lie on the same voxels.

    File formats round: spacing may differ by 0.01 %, direction by 0.001, origin by a hundredth of a voxel.
    """

    def refuse(what: str, expected: Any, found: Any) -> None:
        raise InputError(
            f"Case {case}: {what} of the prediction is {found}, of the reference {expected}; both must lie on the same "
            "voxels, so export the prediction on the grid of the original image (nnUNetv2_predict does)."
        )

    if reference.array.shape != prediction.array.shape:
        refuse("the shape", reference.array.shape, prediction.array.shape)
    ours, theirs = np.asarray(reference.spacing_mm), np.asarray(prediction.spacing_mm)
    if not np.allclose(ours, theirs, rtol=1e-4, atol=0):
        refuse("the spacing (mm)", _shown(ours), _shown(theirs))
    for key, expected in reference.geometry.items():
        found = prediction.geometry.get(key)
        if key == "spacing" or found is None:
            continue
        tolerance = 1e-3 if key == "direction" else 0.01 * float(ours.min())
        if expected.shape != found.shape or not np.allclose(expected, found, rtol=0, atol=tolerance):
            refuse(f"the {key.replace('_', ' ')}", _shown(expected), _shown(found))


def _shown(values: NDArray) -> str:
    return str(np.round(values, 4).tolist())
