"""Preprocessed images without labels: their folder, their plans, and their sources.

They lie beside the labelled data, in the format of nnU-Net's preprocessor::

    <nnUNet_preprocessed>/Dataset004_Hippocampus/
        nnUNetPlans_3d_fullres/                 labelled data, nnU-Net's own
        unlabelled/nnUNetPlans_3d_fullres/      case.b2nd, case_seg.b2nd (the outside of the body), case.pkl

A case exists if its ``.pkl`` exists, which is written last. The ``.pkl`` holds our notes beside nnU-Net's properties.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from nnunet_ext.data.spacing_files import known_spacing
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import resolved

FOLDER = "unlabelled"
NOTES = "nnunet_ext"
"""Key of our notes in the properties of a case."""

_INTENSITIES = "foreground_intensity_properties_per_channel"
_OLD_INTENSITIES = "foreground_intensity_properties_by_modality"
"""Their key in older plans, which nnU-Net reads as well."""

_OF_PLANS = ("image_reader_writer", "transpose_forward", _INTENSITIES)
_OF_CONFIGURATION = (
    *("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm"),
    *("resampling_fn_data", "resampling_fn_data_kwargs"),
)


@dataclass(frozen=True)
class Notes:
    """Notes on a preprocessed case.

    Attributes:
        recipe: digest from :func:`recipe`.
        sources: name, size in bytes and time of change (ns) of every source file.
        same_as: labelled cases with the same voxels.
    """

    recipe: str
    sources: tuple[tuple[str, int, int], ...]
    same_as: tuple[str, ...] = ()

    @classmethod
    def for_files(cls, recipe: str, files: Sequence[Path], same_as: Sequence[str]) -> Notes:
        """Return the notes of a case that is preprocessed from these files, and of the spacing beside a 3D tif."""
        beside = known_spacing(files[0], image=True)
        stats = [(file, file.stat()) for file in [*files, *([beside] if beside else [])]]
        sources = tuple((str(file.absolute()), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
        return cls(recipe, sources, tuple(same_as))

    def to_dict(self) -> dict[str, Any]:
        """Return the notes as they are stored."""
        return asdict(self)


def prepared_folder(preprocessed: Path, data_identifier: str) -> Path:
    """Return the folder of a configuration's preprocessed images without labels.

    Args:
        preprocessed: folder of the data set in ``nnUNet_preprocessed``.
        data_identifier: ``data_identifier`` of the configuration.
    """
    return preprocessed / FOLDER / data_identifier


def recipe(plans: Mapping[str, Any], configuration: str) -> str:
    """Return a digest of all settings on which a preprocessed image depends.

    Args:
        plans: content of the plans file.
        configuration: name of the configuration.
    """
    settings = resolved(dict(plans), configuration)
    plans = {_INTENSITIES: plans.get(_OLD_INTENSITIES), **plans}
    parts = {key: plans.get(key) for key in _OF_PLANS} | {key: settings.get(key) for key in _OF_CONFIGURATION}
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_prepared(folder: Path) -> dict[str, Notes]:
    """Read the notes of all preprocessed cases of a folder, by case; half-written cases do not count.

    Raises:
        InputError: a file is damaged, or was not written by this package.
    """
    found = {}
    for file in sorted(folder.glob("*.pkl")):
        try:
            stored = pickle.loads(file.read_bytes())[NOTES]
            found[file.stem] = Notes(stored["recipe"], tuple(map(tuple, stored["sources"])), tuple(stored["same_as"]))
        except Exception:  # a damaged pickle may raise anything
            raise InputError(
                f"{file} is damaged, or was not written by nnunet-ext unlabelled; delete it and run that command again."
            ) from None
    return found
