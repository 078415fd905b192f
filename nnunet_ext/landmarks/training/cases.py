"""The cases of a training with landmarks: the annotation of each, batches, folds, and the preprocessed data set.

Landmarks are read once at the start of a training and passed on with every case. They come from ``landmarksTr`` in
``nnUNet_raw`` if it exists, because people correct them there. Each training leaves a copy in ``nnUNet_preprocessed``
for machines without raw data; the copy is read only if the original is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.data.geometry import Floats
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.landmarks.dataset import FOLDER
from nnunet_ext.landmarks.formats import landmark_files, read_files
from nnunet_ext.landmarks.points import Keypoints, State
from nnunet_ext.nnunet.annotated import is_segmented
from nnunet_ext.splits.folds import stratified

LANDMARKS = "landmarks"
"""Key of ``class_locations``, beside nnU-Net's labels and regions."""

LOCATIONS = 32
"""Number of voxels per landmark that a patch may be centred on."""

# --- annotation -------------------------------------------------------------------------------------------------------


class Annotation(Enum):
    """The parts of a case that are annotated. The order matters: ``BOTH`` stands between the two parts that it has."""

    SEGMENTATION = "segmentation"
    BOTH = "segmentation and landmarks"
    LANDMARKS = "landmarks"
    NOTHING = "nothing"

    @classmethod
    def of(cls, segmentation: bool, landmarks: bool) -> Annotation:
        if segmentation:
            return cls.BOTH if landmarks else cls.SEGMENTATION
        return cls.LANDMARKS if landmarks else cls.NOTHING

    @property
    def segmentation(self) -> bool:
        return self in (Annotation.SEGMENTATION, Annotation.BOTH)

    @property
    def landmarks(self) -> bool:
        return self in (Annotation.LANDMARKS, Annotation.BOTH)


def has_landmarks(states: ArrayLike) -> bool:
    """Whether the state of any landmark of a case is known; ``states``: ``(K,)``."""
    return bool((np.asarray(states) != State.UNKNOWN).any())


@dataclass(frozen=True, eq=False)
class LandmarkCase:
    """One case of a training.

    Attributes:
        keypoints: landmarks in voxels of the preprocessed array.
        annotation: the annotated parts of the case.
        matrix: :attr:`nnunet_ext.data.geometry.Geometry.matrix` of its image, ``(3, 3)``.
        slice_mm: distance of the preprocessed array's slices, mm; a 2D patch is one slice, an index of the first axis.
    """

    keypoints: Keypoints
    annotation: Annotation
    matrix: Floats
    slice_mm: float


ByAnnotation = Mapping[Annotation, Sequence[str]]
"""Names of cases by annotation."""


def by_annotation(cases: Mapping[str, LandmarkCase], names: Iterable[str] | None = None) -> dict[Annotation, list[str]]:
    """Group names of cases, all by default, by annotation, in the order of :class:`Annotation`."""
    chosen = cases if names is None else list(names)
    return {kind: [name for name in chosen if cases[name].annotation is kind] for kind in Annotation}


# --- files ------------------------------------------------------------------------------------------------------------


def find_landmarks(dataset: str, preprocessed: Path) -> Path:
    """The folder to read landmarks from.

    Args:
        dataset: full name.
        preprocessed: folder of the data set in ``nnUNet_preprocessed``.

    Raises:
        InputError: the folder is neither in ``nnUNet_raw`` nor in ``preprocessed``.
    """
    raw = os.environ.get("nnUNet_raw")
    original, copy = Path(raw) / dataset / FOLDER if raw else None, preprocessed / FOLDER
    if original is not None and original.is_dir():
        return original
    if copy.is_dir():
        return copy
    state = f"there is no folder {original}" if original else "nnUNet_raw is not set"
    raise InputError(
        f"{dataset} has no landmarks: {state}, and no copy in {copy}; put them there, one file per case "
        "(nnunet-ext landmarks check tells more)."
    )


def keep_copy(source: Path, preprocessed: Path) -> str | None:
    """Make ``landmarksTr`` in the preprocessed data set the same as ``source``; other files are removed.

    Returns:
        One sentence if that was not possible, otherwise None.
    """
    target = preprocessed / FOLDER
    if source == target:
        return None
    try:
        target.mkdir(exist_ok=True)
        files = landmark_files(source)
        for file in files:
            content, there = file.read_bytes(), target / file.name
            if not there.is_file() or there.read_bytes() != content:
                with replacing(there) as temporary:
                    temporary.write_bytes(content)
        for gone in {file.name for file in landmark_files(target)} - {file.name for file in files}:
            (target / gone).unlink(missing_ok=True)
    except OSError as error:
        return f"There is no copy of the landmarks in {target} ({error}); elsewhere they are needed in nnUNet_raw."
    return None


def read_cases(
    dataset: nnUNetBaseDataset,
    landmarks: Path,
    names: Sequence[str],
    plans: Mapping[str, Any],
    annotated: Mapping[str, Collection[str]],
) -> dict[str, LandmarkCase]:
    """Read all cases of a preprocessed data set, with the landmarks called ``names``; unknown in a case without a file.

    Args:
        dataset: data set of the configuration.
        landmarks: folder of the files of landmarks.
        names: names of the K landmarks, in this order.
        plans: content of the plans file.
        annotated: by case, the labels that were annotated in it; a case without an entry has all.

    Raises:
        InputError: a file cannot be read, or these landmarks are unknown in all cases.
    """
    known = read_files(landmark_files(landmarks))
    cases = {}
    for name in sorted(dataset.identifiers):
        data, _, _, properties = dataset.load_case(name)
        grid = PreprocessedGrid.from_properties(properties, plans, data.shape[1:])
        keypoints = Keypoints.of(known.get(name, {}), names, grid)
        segmented = is_segmented(properties["class_locations"], annotated.get(name))
        annotation = Annotation.of(segmented, has_landmarks(keypoints.states))
        slice_mm = float(np.linalg.norm(np.diff(grid.to_mm([[0, 0, 0], [1, 0, 0]]), axis=0)))
        cases[name] = LandmarkCase(keypoints, annotation, grid.geometry.matrix, slice_mm)
    if not any(case.annotation.landmarks for case in cases.values()):
        raise InputError(
            f"{landmarks} says nothing about the landmarks {', '.join(names)} of dataset.json in any of the "
            f"{len(cases)} preprocessed cases; correct the names of landmarks or cases."
        )
    return cases


def outside_of_crop(cases: Mapping[str, LandmarkCase]) -> str | None:
    """One sentence if landmarks lie outside the region that nnU-Net's preprocessing keeps, otherwise None."""
    lost = [f"{', '.join(case.keypoints.outside)} of {name}" for name, case in cases.items() if case.keypoints.outside]
    if not lost:
        return None
    return f"Landmarks outside of the preprocessed image count as unknown: {'; '.join(lost)}."


# --- the preprocessed data set ----------------------------------------------------------------------------------------


class Locations(dict):
    """``class_locations`` of one case, with the case itself; nnU-Net's loader passes nothing else of a case on."""

    def __init__(self, locations: Mapping[Any, Sequence], case: LandmarkCase) -> None:
        super().__init__(locations)
        self.case = case


class DatasetWithLandmarks:
    """nnU-Net's data set, with cases that can be sampled at their landmarks.

    Args:
        dataset: data set of a fold.
        cases: cases by name; at least those of the fold.
        patch_size: patch size of the network.
    """

    def __init__(
        self, dataset: nnUNetBaseDataset, cases: Mapping[str, LandmarkCase], patch_size: Sequence[int]
    ) -> None:
        self.dataset = dataset
        self.identifiers = dataset.identifiers
        self.cases = {name: cases[name] for name in dataset.identifiers}
        self.reach = np.array([0] * (3 - len(patch_size)) + [size // 4 for size in patch_size])

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case like nnU-Net, with voxels near the landmarks as one additional class.

        All landmarks are one class: nnU-Net picks the class before the voxel, and many classes of landmarks would crowd
        out the organs. The voxels are up to a quarter of a patch away from the landmark: if it were always in the
        middle of its patch, a network could find it by its place.
        """
        data, seg, previous, properties = self.dataset.load_case(identifier)
        case = self.cases[identifier]
        locations = Locations(properties["class_locations"], case)
        near = self._near(case.keypoints, np.asarray(data.shape[1:]))
        if len(near):
            locations[LANDMARKS] = near
        return data, seg, previous, {**properties, "class_locations": locations}

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def _near(self, keypoints: Keypoints, shape: NDArray) -> NDArray[np.int64]:
        """Voxels near the present landmarks, ``(N, 4)``: channel 0 and the voxel, nnU-Net's format."""
        present = np.rint(keypoints.voxels[keypoints.states == State.PRESENT]).astype(int)
        offsets = np.random.randint(-self.reach, self.reach + 1, (LOCATIONS, len(present), 3))
        voxels = np.clip(present + offsets, 0, shape - 1).reshape(-1, 3)
        return np.pad(voxels, ((0, 0), (1, 0)))


# --- batches and folds ------------------------------------------------------------------------------------------------


def systematic_sample(
    annotations: Sequence[Annotation], number: int, probabilities: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Draw the indices of the cases of one batch, ``(number,)``, in random order.

    This is systematic sampling: all cases are put on a line, grouped by annotation and shuffled within each group, and
    equally spaced points with a random start pick from the line. So every case is expected equally often, as in
    nnU-Net. Each annotation gets its share of the batch, rounded up or down; independent draws would miss one much more
    often.

    Args:
        annotations: annotations of the N cases.
        number: number of cases in the batch.
        probabilities: ``(N,)``; the same for all cases by default.
    """
    kinds = np.array([list(Annotation).index(annotation) for annotation in annotations])
    # numpy's global random state, as in nnU-Net, which seeds it in every worker
    line = np.lexsort((np.random.random(len(kinds)), kinds))
    shares = np.ones(len(kinds)) if probabilities is None else np.asarray(probabilities, float)
    ends = np.cumsum(shares[line])
    points = (np.random.random() + np.arange(number)) / number * ends[-1]
    chosen = line[np.searchsorted(ends[:-1], points, side="right")]
    np.random.shuffle(chosen)
    return chosen


def with_segmented_share(
    annotations: Sequence[Annotation], share: float, probabilities: ArrayLike | None = None
) -> NDArray[np.float64] | None:
    """Probabilities that give at least this share of the samples to segmented cases.

    If few cases have masks, most samples would otherwise teach nothing about the segmentation.

    Args:
        annotations: annotations of the N cases.
        share: 0 to 1. It changes nothing if segmented cases have this share already, or if there are none.
        probabilities: probabilities to change, ``(N,)``; the same for all cases by default.

    Returns:
        ``(N,)``, which add up to 1; None if nothing changes and ``probabilities`` is None.
    """
    segmented = np.array([annotation.segmentation for annotation in annotations])
    known = np.ones(len(segmented)) if probabilities is None else np.asarray(probabilities, float)
    known = known / known.sum()
    has = known[segmented].sum()
    if not 0 < has < share:
        return None if probabilities is None else known
    return np.where(segmented, known * share / has, known * (1 - share) / (1 - has))


def write_stratified_folds(path: Path, cases: ByAnnotation) -> None:
    """Write nnU-Net's ``splits_final.json`` with 5 folds that all validate on every kind of case.

    No ``.about.json`` is written beside it: as in nnU-Net's own folds, the subjects are not known.

    Args:
        path: file to write.
        cases: all cases of the data set.

    Raises:
        InputError: fewer cases than folds.
    """
    ordered = [cases.get(kind, ()) for kind in Annotation]
    folds = [{"train": fold.train, "val": fold.val} for fold in stratified(ordered)]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(folds, indent=4), encoding="utf-8")


def not_validated(validation: ByAnnotation, training: ByAnnotation) -> str | None:
    """One sentence if a fold trains on an annotation that none of its validation cases has, otherwise None.

    Args:
        validation: validation cases of the fold.
        training: training cases of the fold.
    """

    def any_with(cases: ByAnnotation, what: str) -> bool:
        return any(names and getattr(kind, what) for kind, names in cases.items())

    missing = [
        what for what in ("segmentation", "landmarks") if any_with(training, what) and not any_with(validation, what)
    ]
    if not missing:
        return None
    return (
        f"No validation case of this fold has {' or '.join(missing)}, so nothing will be known about how well "
        f"{'both are' if len(missing) > 1 else 'that is'} predicted; remove splits_final.json to get folds with both."
    )
