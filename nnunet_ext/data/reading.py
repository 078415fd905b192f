"""Reads label maps with nnU-Net's readers, and compares where in the world two of them lie."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

PSEUDO_2D = 900
"""nnU-Net makes a 2D image one slice, 999 times as thick as its pixels are wide."""


@dataclass(frozen=True)
class Volume:
    """An image or a label map, ``(z, y, x)`` or ``(y, x)``, with the spacing of these axes in mm.

    ``geometry``: spacing, origin, direction or affine as the reader gives them.
    """

    array: NDArray
    spacing_mm: tuple[float, ...]
    geometry: Mapping[str, NDArray]


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
            example: a file that it must be able to read.
            ending: with the dot, such as ``.nii.gz``.
            description: content of ``dataset.json``, which may name a reader.

        Raises:
            InputError: nnU-Net has no reader for this file.
        """
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        content = {**(description or {}), "file_ending": ending}
        try:
            with _quiet():
                found = determine_reader_writer_from_dataset_json(content, str(example), verbose=False)
        except RuntimeError:
            raise InputError(f"{example}: none of nnU-Net's readers can read it; is the file damaged?") from None
        return cls(found.__name__)

    def labels(self, path: Path) -> Volume:
        """A label map, as int32.

        Raises:
            InputError: the file cannot be read, or holds something else than whole numbers.
        """
        volume = self._read(path, lambda: self._reader.read_seg(str(path)))
        rounded = np.rint(volume.array)
        wrong = volume.array[~(np.abs(volume.array - rounded) < 1e-4)]  # nan is wrong too
        if wrong.size:
            raise InputError(
                f"{path}: {wrong.size} voxels hold no whole number (such as {wrong[0]:g}), but a segmentation holds "
                "labels; was it resampled with interpolation, or is it a probability map?"
            )
        return Volume(rounded.astype(np.int32), volume.spacing_mm, volume.geometry)

    def image(self, path: Path) -> Volume:
        """The first channel of an image."""
        return self._read(path, lambda: self._reader.read_images([str(path)]))

    def _read(self, path: Path, read: Any) -> Volume:
        if not path.is_file():
            raise InputError(f"There is no file {path}.")
        require_whole(path)
        try:
            with _quiet():
                array, properties = read()
        except Exception as error:  # every reader raises something else
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path} cannot be read with {self.name}: {reason[:200]}") from None
        array = np.asarray(array)[0]
        spacing = tuple(float(mm) for mm in properties["spacing"])
        geometry = {"spacing": np.asarray(spacing)}
        for group in properties.values():
            if isinstance(group, Mapping):
                # text: the name of an orientation, which SimpleITKIOWithReorient remembers
                numbers = {key: value for key, value in group.items() if not isinstance(value, str)}
                geometry |= {key: np.asarray(value, float) for key, value in numbers.items() if key != "spacing"}
        if array.ndim == 3 and array.shape[0] == 1 and spacing[0] > PSEUDO_2D * max(spacing[1:]):
            return Volume(array[0], spacing[1:], geometry)
        return Volume(array, spacing, geometry)


def require_whole(path: Path) -> None:
    """Raise InputError if a compressed file (``.gz``) is cut off or damaged.

    SimpleITK reads one that is cut off without a word, as if zeros followed.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or not complete ({error}); restore it, or write it again.") from None


def require_same_geometry(case: str, reference: Volume, prediction: Volume) -> None:
    """Raise InputError, naming the case, unless both lie on the same voxels.

    Spacing may differ by 0.01 %, origin and direction by a hundredth of a voxel: what file formats round.
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


@contextlib.contextmanager
def _quiet() -> Any:
    """nnU-Net's readers print; what matters of it is in our messages."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
