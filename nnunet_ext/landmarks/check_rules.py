"""Rules that find mistakes in the landmarks of one case or of all cases.

Pure functions; every threshold has its reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from nnunet_ext.data.geometry import Floats, Geometry, apart_mm, inside, to_lps
from nnunet_ext.data.reading import Volume
from nnunet_ext.errors import InputError
from nnunet_ext.findings import Finding, some
from nnunet_ext.landmarks.dataset import Declaration, Organs
from nnunet_ext.landmarks.points import Landmarks, State, as_arrays

OUTSIDE_SHARE = 0.2
"""Share of a case's points outside the image above which a mix-up of RAS and LPS is considered. Below it, single points
are misplaced or the image was cropped."""

PRIOR_VOXELS, GAP_VOXELS = 8, 2
"""Largest median distances to the surface, in voxels of the finest axis.

A boundary loss reaches 8 voxels by default, so beyond that the prior teaches nothing or the wrong thing. A person and a
label map differ by less than two voxels."""

BETTER = 3
"""Factor by which the other coordinate system must fit better; anatomy varies by less."""

SAME_PLACE_MM = 0.01
"""Two landmarks closer than this are one point with two names; nobody clicks so precisely."""

ENOUGH = 5
"""Smallest number of cases whose median counts as usual."""


@dataclass(frozen=True, eq=False)
class PlacedLandmarks:
    """The landmarks of one case in its image; K in the order of the declaration.

    Attributes:
        states: ``(K,)``.
        points_mm: ``(K, 3)``, LPS; nan unless present.
        centre_mm: ``(3,)``, centre of the image.
        geometry: geometry of the image.
        shape: shape of the image, ``(z, y, x)``.
    """

    states: NDArray[np.int8]
    points_mm: Floats
    centre_mm: Floats
    geometry: Geometry
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, landmarks: Landmarks, names: Sequence[str], geometry: Geometry, shape: Sequence[int]
    ) -> PlacedLandmarks:
        """The landmarks called ``names`` in the image of their case.

        Args:
            landmarks: landmarks of the case.
            names: the declared landmarks.
            geometry: geometry of its image.
            shape: shape of its image.
        """
        points_mm, states = as_arrays(landmarks, names)
        centre = geometry.to_mm((np.asarray(shape) - 1) / 2)
        return cls(states, points_mm, centre, geometry, tuple(shape))

    def offsets_mm(self, *, flipped: bool = False) -> Floats:
        """Offsets ``(K, 3)`` from the centre of the image; ``flipped`` reads the positions as RAS."""
        return (to_lps(self.points_mm, "RAS") if flipped else self.points_mm) - self.centre_mm

    def outside(self, *, flipped: bool = False) -> NDArray[np.bool_]:
        """Whether each landmark is present but outside the image, ``(K,)``; ``flipped`` reads positions as RAS."""
        points = to_lps(self.points_mm, "RAS") if flipped else self.points_mm
        return (self.states == State.PRESENT) & ~inside(self.geometry.to_index(points), self.shape)


# --- of one case ------------------------------------------------------------------------------------------------------


def names_of(case: str, landmarks: Landmarks, declared: Sequence[str]) -> Iterator[Finding]:
    """Find names in a file that ``dataset.json`` does not declare, and two names for one point."""
    if unknown := sorted(set(landmarks) - set(declared)):
        text = f"the file names {unknown}, which dataset.json does not declare; they are not used"
        yield Finding("warning", "unknown name", text, case)
    points_mm, _ = as_arrays(landmarks, list(landmarks))
    names = list(landmarks)
    if len(names) < 2:
        return
    for one, other in np.argwhere(np.triu(squareform(pdist(points_mm)) < SAME_PLACE_MM, 1)):
        text = f"{names[one]} and {names[other]} are at the same place"
        yield Finding("warning", "same place", text, case, names[other])


def places(case: str, placed: PlacedLandmarks, names: Sequence[str]) -> Iterator[Finding]:
    """Find points outside the image, whether exchanging RAS and LPS brings them inside, and points without z."""
    present = placed.points_mm[placed.states == State.PRESENT]
    if len(present) > 1 and not present[:, 2].any() and placed.shape[0] > 1:
        text = f"all {len(present)} landmarks have z = 0 mm, in a volume; a table without a column z is read so"
        yield Finding("warning", "z = 0", text, case)
    outside = placed.outside()
    if not outside.any():
        return
    lost, n = (
        [name for name, is_out in zip(names, outside, strict=True) if is_out],
        int((placed.states == State.PRESENT).sum()),
    )
    if len(lost) > OUTSIDE_SHARE * n and not placed.outside(flipped=True).any():
        text = f"{len(lost)} of {n} landmarks are outside of the image, but none if x and y change their sign: {_MIXED}"
        yield Finding("fatal", "RAS/LPS", text, case)
    else:
        text = f"{', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}: outside of the image, so unknown in a training"
        yield Finding("warning", "outside", text, case, lost[0] if len(lost) == 1 else None)


def flipped_fits(case: str, distances_mm: Floats, flipped_mm: Floats, voxel_mm: float) -> Iterator[Finding]:
    """Find landmarks that lie on their organs when RAS and LPS are exchanged, and only then.

    Args:
        case: name of the case.
        distances_mm: ``(N,)``, from the surfaces of the case's organs.
        flipped_mm: ``(N,)``, the same with RAS and LPS exchanged.
        voxel_mm: the finest spacing.
    """
    ours, theirs = np.median(np.abs(distances_mm)), np.median(np.abs(flipped_mm))
    if ours > PRIOR_VOXELS * voxel_mm and ours > BETTER * theirs:
        text = (
            f"the landmarks are {ours:.1f} mm from their organs, but {theirs:.1f} mm if x and y change their sign: "
            f"{_MIXED}"
        )
        yield Finding("fatal", "RAS/LPS", text, case)


def same_grid(case: str, image: Volume, labels: Volume, label_file: Path) -> Iterator[Finding]:
    """Find a label map that lies elsewhere than its image. nnU-Net only warns, but landmarks are placed in the image.

    Raises:
        InputError: the shapes differ.
    """
    if image.array.shape != labels.array.shape:
        found = f"{labels.array.shape}, of the image {image.array.shape}"
        raise InputError(f"{label_file}: the shape is {found}; both must lie on the same voxels.")
    if (apart := apart_mm(image, labels)) > 0.5 * min(image.spacing_mm):
        where = f"the label map in {label_file.parent.name} lies up to {apart:.1f} mm from the image"
        text = f"{where}: copy origin and direction of the image to it"
        yield Finding("fatal", "geometry", text, case)


def empty_mask(
    case: str, placed: PlacedLandmarks, labels: Volume, declaration: Declaration, organs: Organs
) -> Iterator[Finding]:
    """Find a label map of zeros in a case with only landmarks; it would teach that there are no organs."""
    if labels.array.any() or organs.annotated.get(case) == frozenset():
        return
    on_organs = [
        name
        for k, name in enumerate(declaration.names)
        if placed.states[k] == State.PRESENT and name in declaration.surface_of
    ]
    text = "the label map is all background"
    if on_organs:
        text += f", but {on_organs[0]} lies on an organ: nnU-Net would learn that there is none; fill it with ignore"
        yield Finding("fatal", "empty mask", text, case, on_organs[0])
    else:
        text += "; if nobody labelled the case, fill it with the ignore label"
        yield Finding("warning", "empty mask", text, case)


_MIXED = "RAS was saved as LPS or the other way round; repair it with 'nnunet-ext landmarks convert --coordinates'"


# --- of all cases -----------------------------------------------------------------------------------------------------


def annotated(all_placed: Mapping[str, PlacedLandmarks], names: Sequence[str]) -> Iterator[Finding]:
    """Find landmarks that are present nowhere, or unknown in some of the cases with landmarks."""
    for k, name in enumerate(names):
        states = {case: placed.states[k] for case, placed in all_placed.items()}
        unknown = [case for case, state in states.items() if state == State.UNKNOWN]
        if not any(state == State.PRESENT for state in states.values()):
            text = f"{name} has a position in no case; is it spelled differently in the files?"
            yield Finding("fatal", "never annotated", text, about=name)
        elif unknown:
            text = f"{name} is unknown in {some(unknown)} with other landmarks; mark it as missing where it is absent"
            yield Finding("note", "unknown", text, about=name)
    if all_placed and all((p.outside() == (p.states == State.PRESENT)).all() for p in all_placed.values()):
        yield Finding("fatal", "outside", "all landmarks of all cases are outside of the images; are positions in mm?")


def flipped_everywhere(findings: Sequence[Finding], cases: int) -> list[Finding]:
    """The findings, with one for the data set if RAS and LPS are exchanged in all of its cases.

    Args:
        findings: findings of all rules.
        cases: number of cases with landmarks.
    """
    own = [found for found in findings if (found.severity, found.kind) == ("fatal", "RAS/LPS")]
    if len(own) < max(cases, 2):
        return list(findings)
    text = f"the landmarks of all {cases} cases fit their images only if x and y change their sign: {_MIXED}"
    rest = [found for found in findings if found not in own]
    consequences = {(None, "outside"), (None, "prior")}
    return [
        Finding("fatal", "RAS/LPS", text),
        *(found for found in rest if (found.case, found.kind) not in consequences),
    ]


def pairs(all_placed: Mapping[str, PlacedLandmarks], declaration: Declaration) -> Iterator[Finding]:
    """Find cases in which the two landmarks of a mirror pair lie the other way round than usual."""
    for pair in chain.from_iterable(declaration.mirror_pairs.values()):
        a, b = (declaration.names.index(name) for name in pair)
        steps = {case: p.points_mm[a] - p.points_mm[b] for case, p in all_placed.items()}
        steps = {case: step for case, step in steps.items() if np.isfinite(step).all()}
        if len(steps) < ENOUGH:
            continue
        usual = np.median(list(steps.values()), axis=0)
        for case, step in steps.items():
            if step @ usual < 0:
                text = f"{pair[0]} and {pair[1]} lie the other way round than in most cases: were they exchanged?"
                yield Finding("warning", "pair", text, case, pair[0])


def unusual_places(all_placed: Mapping[str, PlacedLandmarks]) -> Iterator[Finding]:
    """Find cases whose landmarks are far from their usual offsets, unless RAS and LPS are exchanged."""
    if len(all_placed) < ENOUGH:
        return
    usual = _median_offsets([p.offsets_mm() for p in all_placed.values()])

    def distance(placed: PlacedLandmarks, flipped: bool) -> float:
        far = np.linalg.norm(placed.offsets_mm(flipped=flipped) - usual, axis=1)
        return float(np.median(far[np.isfinite(far)])) if np.isfinite(far).any() else 0.0

    ours = {case: distance(p, False) for case, p in all_placed.items()}
    typical = float(np.median(list(ours.values())))
    for case, placed in all_placed.items():
        flipped = distance(placed, True)
        if ours[case] > BETTER * max(typical, flipped):
            text = (
                f"the landmarks are {ours[case]:.0f} mm from where they usually are in an image, but {flipped:.0f} mm "
                f"if x and y change their sign: {_MIXED}"
            )
            yield Finding("warning", "RAS/LPS", text, case)


def prior(landmark: str, organ: str, distances_mm: Floats, voxel_mm: float, *, measured: bool) -> Iterator[Finding]:
    """Check that a landmark lies on the surface of an organ.

    Args:
        landmark: name of the landmark.
        organ: name of the organ.
        distances_mm: ``(N,)``.
        voxel_mm: the finest spacing.
        measured: whether the distances come from cases with both; across cases, anatomical variation blurs them.
    """
    median = float(np.median(np.abs(distances_mm)))
    far = f"{landmark} is {median:.1f} mm from the surface of {organ} (median of {len(distances_mm)})"
    if median > PRIOR_VOXELS * voxel_mm:
        text = f"{far}, more than {PRIOR_VOXELS} voxels: remove {organ} from its surface_of, or correct the labels"
        yield Finding("fatal" if measured else "warning", "prior", text, about=landmark)
    elif measured and median > GAP_VOXELS * voxel_mm:
        text = f"{far}, more than {GAP_VOXELS} voxels: annotated by another rule than {organ}?"
        yield Finding("warning", "gap", text, about=landmark)


def far_from_organ(landmark: str, organ: str, distances_mm: Mapping[str, float], voxel_mm: float) -> Iterator[Finding]:
    """Find single cases in which a landmark is far from the organ on whose surface it usually lies.

    Args:
        landmark: name of the landmark.
        organ: name of the organ.
        distances_mm: distance by case.
        voxel_mm: the finest spacing.
    """
    if distances_mm and np.median(np.abs(list(distances_mm.values()))) > PRIOR_VOXELS * voxel_mm:
        return
    for case, mm in distances_mm.items():
        if abs(mm) > PRIOR_VOXELS * voxel_mm:
            yield Finding(
                "warning", "far", f"{landmark} is {abs(mm):.1f} mm from the surface of {organ}", case, landmark
            )


def _median_offsets(offsets: Sequence[Floats]) -> Floats:
    """Median offset ``(K, 3)`` of each landmark over the cases where it is present; nan if there are none."""
    stack = np.stack(offsets)
    result = np.full(stack.shape[1:], np.nan)
    for k in range(stack.shape[1]):
        own = stack[np.isfinite(stack[:, k]).all(-1), k]
        if len(own):
            result[k] = np.median(own, axis=0)
    return result
