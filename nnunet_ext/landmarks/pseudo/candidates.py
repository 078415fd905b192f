"""Masks that an engine makes from the landmarks of a case, each with the verdict of the filters.

A segmented case that has landmarks, too, is a check: how near the engine's mask comes to the true one, and whether the
filters would accept the true one. Filters that refuse it select wrong masks. The usual reason is a line of ``spans``
that leaves the organ.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.data.raw import RawCase, require_labels
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.dataset import FOLDER, Declaration, Organs, RawLandmarkDataset, as_3d
from nnunet_ext.landmarks.points import Landmarks, State
from nnunet_ext.landmarks.pseudo.engines import Engine, OrganEngine, load_engine
from nnunet_ext.landmarks.pseudo.prompts import Limits, Prompts, Verdict, judge, prompts_of
from nnunet_ext.processes.parallel import for_every_case

CHECKS = 20
"""Largest number of segmented cases on which engine and filters are checked."""


@dataclass(frozen=True)
class Options:
    """Settings of the engine, the filters and the label map.

    Attributes:
        engine: a name of :mod:`nnunet_ext.landmarks.pseudo.engines`.
        model: folder or file of the engine's weights.
        limits: limits of the filters.
        shell_mm: thickness of the background around accepted masks.
        seed: seed of the moved prompts.

    Raises:
        InputError: the shell is no positive, finite thickness, or the seed is negative.
    """

    engine: str = "random-walker"
    model: str | None = None
    limits: Limits = field(default_factory=Limits)
    shell_mm: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.shell_mm < math.inf:
            raise InputError(f"--shell {self.shell_mm:g} leaves no background around a mask; give mm above 0.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative; give 0 or more.")


@dataclass(frozen=True)
class LandmarkCase:
    """A case with landmarks, and all that is needed to make masks of its organs.

    Attributes:
        case: its files.
        landmarks: its landmarks.
        declaration: declaration of the landmarks.
        organs: labels of the data set.
        labelled_mm3: by organ to make, the smallest and largest volume in other, labelled cases; None without any.
        reader_name: name of nnU-Net's reader.
        options: engine, filters and shell.
    """

    case: RawCase
    landmarks: Landmarks
    declaration: Declaration
    organs: Organs
    labelled_mm3: Mapping[str, tuple[float, float] | None]
    reader_name: str
    options: Options

    @property
    def to_make(self) -> tuple[str, ...]:
        """The organs to make masks of."""
        return tuple(self.labelled_mm3)

    def on_surface(self, organ: str) -> list[str]:
        """Return the present landmarks on the surface of an organ."""
        names = [name for name, lies_on in self.declaration.surface_of.items() if organ in lies_on]
        return [name for name in names if name in self.landmarks and self.landmarks[name].state is State.PRESENT]

    def places(self, names: Sequence[str]) -> Floats:
        """Return the positions of present landmarks, ``(L, 3)``, mm."""
        return np.array([self.landmarks[name].position_mm for name in names], float).reshape(-1, 3)

    def candidate(
        self, organ: str, make: Callable[[Prompts], NDArray[np.bool_]], geometry: Geometry, shape: Sequence[int]
    ) -> Candidate:
        """Return the mask of one organ with the verdict of the filters.

        Args:
            organ: name of a label.
            make: function from prompts in the image to the engine's mask.
            geometry: geometry of the image.
            shape: shape of the image, ``(z, y, x)``.
        """
        on_surface = self.on_surface(organ)
        if pairs := self.declaration.spans.get(organ):
            prompts = prompts_of(self.landmarks, pairs, geometry, shape)
            if prompts is None:
                return NOT_PROMPTED
            rng = np.random.default_rng([self.options.seed, zlib.crc32(f"{self.case.name}/{organ}".encode())])
            moved = prompts.moved(self.options.limits.jitter_mm, rng, geometry, shape).in_image(geometry, shape)
            mask, others = make(prompts), [make(moved)]
            tests = [(mask, self.places(on_surface))]
        else:
            own = [name for name in on_surface_of(organ, self.declaration) if name in on_surface]
            prompts, *halves = (
                Prompts.beside(self.places(own), geometry, chosen).in_image(geometry, shape)
                for chosen in (slice(None), slice(0, None, 2), slice(1, None, 2))
            )
            if not len(prompts.foreground_mm):
                return NOT_PROMPTED
            mask, others = make(prompts), [make(half) for half in halves]
            unseen = [[name for name in on_surface if name not in own[first::2]] for first in (0, 1)]
            tests = [(other, self.places(names)) for other, names in zip(others, unseen, strict=True)]
        return Candidate(mask, self.judge(organ, mask, others, prompts, geometry, tests), prompts)

    def judge_true(self, organ: str, true: NDArray[np.bool_], prompts: Prompts, geometry: Geometry) -> Verdict:
        """Return the verdict of the filters on a true mask, from which no prompts differ."""
        tests = [(true, self.places(self.on_surface(organ)))]
        return self.judge(organ, true, [true], prompts, geometry, tests)

    def judge(
        self,
        organ: str,
        mask: NDArray[np.bool_],
        others: Sequence[NDArray[np.bool_]],
        prompts: Prompts,
        geometry: Geometry,
        tests: Sequence[tuple[NDArray[np.bool_], Floats]],
    ) -> Verdict:
        """Return the verdict of the filters; see :func:`nnunet_ext.landmarks.pseudo.prompts.judge`."""
        return judge(mask, others, prompts, geometry, tests, self.labelled_mm3[organ], self.options.limits)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask of one organ, before it is accepted.

    Attributes:
        mask: ``(z, y, x)``; None if no prompt lies in the image.
        verdict: verdict of the filters.
        prompts: the prompts of the mask, if there are any.
    """

    mask: NDArray[np.bool_] | None
    verdict: Verdict
    prompts: Prompts | None


NOT_PROMPTED = Candidate(None, Verdict({}, ("no prompts",)), None)


@dataclass(frozen=True)
class Check:
    """The result of engine and filters on an organ whose true mask is known.

    Attributes:
        dice: Dice of the engine's mask with the true one.
        verdict: verdict of the filters on the true mask.
    """

    dice: float
    verdict: Verdict


class Labelled(NamedTuple):
    """Contents of a label map."""

    mm3: Mapping[str, float]
    """Volume of every organ to make that was annotated and is there."""
    dense: bool
    """Whether no voxel is left to ignore."""


class Chosen(NamedTuple):
    """The cases of a data set, by what is done with them."""

    to_label: list[LandmarkCase]
    """Cases with only landmarks."""
    to_check: list[LandmarkCase]
    """Segmented cases with landmarks, at most 20, for :func:`check_of`."""
    segmented: list[str]
    """Names of all cases in which somebody labelled anything."""


def cases_to_label(found: RawLandmarkDataset, options: Options, processes: int | None = None) -> Chosen:
    """Choose the cases to label and to check by reading all label maps.

    Args:
        found: the data set.
        options: engine, filters and shell.
        processes: cases in parallel; by default one per core.

    Raises:
        InputError: the landmarks mark no organ, or the data set has no ignore label or no case with only landmarks.
    """
    to_make = organs_to_make(found)
    landmarks = found.landmarks()
    reader = found.raw.reader().name
    calls = [(case, to_make, found.organs, reader) for case in found.raw.cases]
    names = [case.name for case in found.raw.cases]
    labelled = dict(zip(names, for_every_case(labelled_in, calls, processes, "labels"), strict=True))

    def of(case: RawCase) -> LandmarkCase:
        others = [each for name, each in labelled.items() if each and name != case.name]
        others = [each for each in others if each.dense] or others  # a scribble has no volume of an organ
        volumes = {organ: [each.mm3[organ] for each in others if organ in each.mm3] for organ in to_make}
        ranges = {organ: (min(each), max(each)) if each else None for organ, each in volumes.items()}
        return LandmarkCase(case, landmarks[case.name], found.declaration, found.organs, ranges, reader, options)

    with_landmarks = [case for case in found.raw.cases if case.name in landmarks]
    chosen = [case for case in with_landmarks if labelled[case.name] is None]
    segmented = [case for case in with_landmarks if (own := labelled[case.name]) and own.dense and own.mm3]
    if not chosen:
        raise InputError(
            f"{found.raw.folder} has no case with only landmarks (a file in {FOLDER}, and a label map that is all "
            f"{found.raw.ignore}, the ignore label, or annotated_labels []); there is nothing to label."
        )
    step = max(1, -(-len(segmented) // CHECKS))
    known = [name for name, own in labelled.items() if own]
    return Chosen([of(case) for case in chosen], [of(case) for case in segmented[::step]], known)


def organs_to_make(found: RawLandmarkDataset) -> tuple[str, ...]:
    """The labels with ``spans``, then those with at least two landmarks on their own surface.

    Raises:
        InputError: there are none, one with spans is a region, or the data set has no ignore label.
    """
    where = found.raw.folder / "dataset.json"
    spans, labels = found.declaration.spans, found.organs.values
    if regions := [organ for organ in spans if isinstance(labels[organ], tuple)]:
        raise InputError(
            f"{where}: spans has the region {regions[0]}, but a mask is written as one label; name labels."
        )
    marked = [organ for organ, value in labels.items() if organ not in spans and not isinstance(value, tuple)]
    organs = (*spans, *(organ for organ in marked if len(on_surface_of(organ, found.declaration)) > 1))
    if not organs:
        raise InputError(
            f"{where}: the landmarks mark no organ of which to make masks. Add spans, the pairs of landmarks with an "
            'organ between them, such as "spans": {"femur": [["FemurMedial", "FemurLateral"]]}, or surface_of for at '
            "least two landmarks of an organ."
        )
    if found.raw.ignore is None:
        raise InputError(f"{where} has no ignore label, so nothing can stay unknown; add it as the highest label.")
    return organs


def on_surface_of(organ: str, declaration: Declaration) -> list[str]:
    """The landmarks on the surface of this organ and of no other."""
    return [name for name, lies_on in declaration.surface_of.items() if lies_on == (organ,)]


def labelled_in(case: RawCase, to_make: Sequence[str], organs: Organs, reader_name: str) -> Labelled | None:
    """The contents of the label map of a case; None if nothing is labelled in it, or nobody looked for any label."""
    labels = Reader(reader_name).labels(case.label)
    require_labels(labels.array, organs.known, case.label)
    unknown = labels.array == organs.ignore
    known = organs.annotated.get(case.name, frozenset(organs.values))
    if unknown.all() or not known:
        return None
    voxel = abs(np.linalg.det(Geometry.from_volume(labels).matrix))
    sizes = {organ: int((labels.array == organs.values[organ]).sum()) for organ in to_make}
    mm3 = {organ: float(size * voxel) for organ, size in sizes.items() if size and organ in known}
    return Labelled(mm3, not unknown.any())


def candidates_of(work: LandmarkCase) -> tuple[dict[str, Candidate], Geometry]:
    """Make a mask of every organ with prompts, and return them with the geometry of the image.

    Raises:
        InputError: a file cannot be read, or the engine's mask does not have the shape of the image.
    """
    options = work.options
    engine = _engine(options.engine, options.model)
    image = Reader(work.reader_name).image(work.case.images[0])
    geometry, array = Geometry.from_volume(image), as_3d(image.array)
    of_organ = _by_organ(engine, work.case.images, work.reader_name)
    found = {}
    for organ in work.to_make:
        make = partial(_mask, of_organ(organ), options.engine, array, geometry)
        found[organ] = work.candidate(organ, make, geometry, array.shape)
    return found, geometry


def check_of(work: LandmarkCase) -> dict[str, Check]:
    """Compare the engine's masks of a segmented case with the true ones, and let the filters judge the true ones.

    Organs that the case does not show, or that were not annotated in it, are left out. Errors are those of
    :func:`candidates_of`.
    """
    candidates, geometry = candidates_of(work)
    labels = as_3d(Reader(work.reader_name).labels(work.case.label).array)
    checks = {}
    for organ, candidate in candidates.items():
        true = labels == work.organs.values[organ]
        if candidate.mask is None or candidate.prompts is None or not true.any():
            continue
        if organ in work.organs.annotated.get(work.case.name, {organ}):
            dice = 2 * (candidate.mask & true).sum() / (candidate.mask.sum() + true.sum())
            checks[organ] = Check(float(dice), work.judge_true(organ, true, candidate.prompts, geometry))
    return checks


# --- parts ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _engine(name: str, model: str | None) -> Engine | OrganEngine:
    """Load an engine once per process, because weights are large."""
    return load_engine(name, model)


def _by_organ(engine: Engine | OrganEngine, images: Sequence[Path], reader_name: str) -> Callable[[str], Engine]:
    """The engine for each organ of an image; all channels are read only for one that knows organs."""
    if not isinstance(engine, OrganEngine):
        return lambda organ: engine
    return partial(engine.of_organ, channels=Reader(reader_name).channels(images).array)


def _mask(engine: Engine, name: str, image: NDArray, geometry: Geometry, prompts: Prompts) -> NDArray[np.bool_]:
    if not len(prompts.foreground_mm):  # moved out of the image
        return np.zeros(image.shape, bool)
    foreground, background = geometry.to_index(prompts.foreground_mm), geometry.to_index(prompts.background_mm)
    mask = np.asarray(engine(image, geometry.spacing_mm.tolist(), foreground, background))
    if mask.shape != image.shape:
        raise InputError(f"The engine {name} returned a mask of shape {mask.shape} for an image of {image.shape}.")
    return mask.astype(bool)
