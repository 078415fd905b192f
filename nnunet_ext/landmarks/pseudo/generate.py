"""``nnunet-ext landmarks pseudo-label``: masks of organs for cases that have only landmarks, as a new data set.

::

    Dataset304_KneePseudo/
        dataset.json        refers to the images of the source, which are not copied
        labelsTr/           segmented cases as they are; in the other cases the organs that passed the filters
        landmarksTr/        as in the source
        pseudo_labels/      CASE.json: engine, prompts, measurements of the filters, reasons for refusing a mask

In a case with an accepted mask, the label map holds the organ, a shell of background around it, and "ignore" everywhere
else and where two accepted masks overlap. Without the shell, a mask would teach that the organ has no end. Background
in the shell means "none of the organs with a mask": other organs of the data set may lie there, and
``annotated_labels`` of ``dataset.json`` says so. Trainers with partial labels (:mod:`nnunet_ext.partial_labels`)
understand that, stock nnU-Net does not. A case whose masks were all refused stays as it was: all ignore.

The pipeline follows BaBLoss (Gong et al., IEEE TMI 2025). The paper does not publish the number of prompts, the filters
and the tool that makes the masks; ours are our own choice.
"""

from __future__ import annotations

import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.data.raw import RawCase, require_labels, write_label_map
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.findings import aligned
from nnunet_ext.landmarks.dataset import FOLDER, Declaration, Organs, RawLandmarkDataset, as_3d, open_landmarks
from nnunet_ext.landmarks.points import Landmarks, State
from nnunet_ext.landmarks.pseudo.engines import Engine, OrganEngine, load_engine, runs_in_parallel
from nnunet_ext.landmarks.pseudo.prompts import Limits, Prompts, Verdict, judge, prompts_of
from nnunet_ext.partial_labels.declaration import KEY as ANNOTATED
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.version import __version__

PROVENANCE = "pseudo_labels"
NO_PROMPTS = "no prompts"


@dataclass(frozen=True)
class Options:
    """Settings of the engine, the filters and the label map.

    Attributes:
        engine: a name of :mod:`nnunet_ext.landmarks.pseudo.engines`.
        model: folder or file of the engine's weights.
        limits: limits of the filters.
        shell_mm: thickness of the background around accepted masks.
        seed: seed of the moved prompts.
    """

    engine: str = "random-walker"
    model: str | None = None
    limits: Limits = field(default_factory=Limits)
    shell_mm: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class PseudoLabelled:
    """The data set that :func:`pseudo_label` wrote.

    Attributes:
        folder: folder of the data set.
        verdicts: verdict of the filters by case and organ.
        partial: whether some case has masks of some organs only.
        compared: whether volumes were compared with those of labelled cases.
    """

    folder: Path
    verdicts: Mapping[str, Mapping[str, Verdict]]
    partial: bool
    compared: bool

    def report(self) -> str:
        """The text to print: numbers of accepted masks, reasons for refusing others, and the commands to type next."""
        organs = list(next(iter(self.verdicts.values())))
        rows = [("organ", "accepted", "refused because of (a mask may fail several)")]
        for organ in organs:
            verdicts = [case[organ] for case in self.verdicts.values()]
            accepted = sum(verdict.accepted for verdict in verdicts)
            reasons = Counter(reason for verdict in verdicts for reason in verdict.reasons)
            why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            rows.append((organ, f"{accepted} of {len(verdicts)}", why or "-"))
        number = int(self.folder.name[7:10])
        lines = aligned(rows)
        if not self.compared:
            lines.append("No case has labels, so the volumes were not compared with anything.")
        lines += [
            f"\n{self.folder}: look at some masks before you train; {PROVENANCE}/CASE.json says how each was made.",
            f"  nnUNetv2_plan_and_preprocess -d {number}",
        ]
        if self.partial:
            lines += [
                f"  nnUNetv2_train {number} 3d_fullres 0 -tr nnUNetTrainerPartialLabels",
                "Where only some organs have a mask, background means 'none of these' (annotated_labels), which stock "
                "nnU-Net does not know.",
            ]
        return "\n".join(lines)


def pseudo_label(
    dataset: str | int | Path, out: str | int, options: Options | None = None, *, processes: int | None = None
) -> PseudoLabelled:
    """Write a data set with masks for landmark-only cases into ``nnUNet_raw``; after an error nothing is left behind.

    Args:
        dataset: number or name of a data set with landmarks and ``spans``, or a folder.
        out: number of the new data set, or its whole name.
        options: engine, filters and shell.
        processes: cases in parallel; by default one per core, or one at all for an engine with a GPU. The result does
            not depend on it.

    Raises:
        InputError: the data set has no spans, no ignore label or no case with only landmarks, the engine cannot be
            used, or the number of the new data set is taken.
    """
    options = options or Options()
    found = open_landmarks(dataset)
    where = found.raw.folder / "dataset.json"
    _require_spans(found, where)
    target = new_dataset_folder(found.raw, str(out), "Pseudo")
    landmarks = found.landmarks()
    processes = processes or (None if runs_in_parallel(options.engine) else 1)
    load_engine(options.engine, options.model)  # fail early, before anything is read
    reader = found.raw.reader().name
    spanned = tuple(found.declaration.spans)
    calls = [(case, spanned, found.organs, reader) for case in found.raw.cases]
    names = [case.name for case in found.raw.cases]
    volumes = dict(zip(names, for_every_case(volumes_of, calls, processes, "labels"), strict=True))
    medians = {organ: _median([v[organ] for v in volumes.values() if v and v[organ] > 0]) for organ in spanned}
    chosen = [case for case in found.raw.cases if volumes[case.name] is None and case.name in landmarks]
    if not chosen:
        raise InputError(
            f"{found.raw.folder} has no case with only landmarks (a file in {FOLDER}, and a label map that is all "
            f"{found.raw.ignore}, the ignore label); there is nothing to label."
        )
    with written_as_a_whole(target) as folder:
        for name in ("labelsTr", FOLDER, PROVENANCE):
            (folder / name).mkdir()
        for case in found.raw.cases:
            shutil.copyfile(case.label, folder / "labelsTr" / case.label.name)
        for file in found.files:
            shutil.copyfile(file, folder / FOLDER / file.name)
        work = [
            (case, landmarks[case.name], found.declaration, found.organs, medians, reader, options, folder)
            for case in chosen
        ]
        names = [case.name for case in chosen]
        verdicts = dict(zip(names, for_every_case(label_case, work, processes, "masks"), strict=True))
        annotated = _annotated(found, verdicts)
        text = f"{found.raw.name} with masks by {options.engine} from landmarks, by nnunet-ext {__version__}"
        entry = {ANNOTATED: annotated} if annotated else {}
        write_json(folder / "dataset.json", {**derived_description(found.raw, target, text), **entry})
    return PseudoLabelled(target, verdicts, bool(annotated), any(medians.values()))


def volumes_of(case: RawCase, spanned: Sequence[str], organs: Organs, reader_name: str) -> dict[str, float] | None:
    """Volumes in mm³ of the organs in the label map of a case; None if nothing is labelled in it."""
    labels = Reader(reader_name).labels(case.label)
    require_labels(labels.array, organs.known, case.label)
    if (labels.array == organs.ignore).all():
        return None
    voxel = abs(np.linalg.det(Geometry.from_volume(labels).matrix))
    known = organs.annotated.get(case.name, frozenset(spanned))
    return {organ: float((labels.array == organs.values[organ]).sum() * voxel * (organ in known)) for organ in spanned}


def label_case(
    case: RawCase,
    landmarks: Landmarks,
    declaration: Declaration,
    organs: Organs,
    medians_mm3: Mapping[str, float | None],
    reader_name: str,
    options: Options,
    folder: Path,
) -> dict[str, Verdict]:
    """Write the label map and the provenance of one case, and return the verdict on every organ.

    Args:
        case: its files.
        landmarks: landmarks of the case.
        declaration: declaration of the landmarks, with spans.
        organs: the labels of the data set.
        medians_mm3: median volume in labelled cases by organ; None if there are none.
        reader_name: name of nnU-Net's reader.
        options: engine, filters and shell.
        folder: folder of the new data set.

    Raises:
        InputError: a file cannot be read, or the engine's mask does not have the shape of the image.
    """
    engine = _engine(options.engine, options.model)
    image = Reader(reader_name).image(case.images[0])
    geometry, array = Geometry.from_volume(image), as_3d(image.array)
    of_organ = _by_organ(engine, array, case.images[1:], reader_name)
    masks: dict[str, NDArray[np.bool_]] = {}
    verdicts: dict[str, Verdict] = {}
    provenance: dict[str, Any] = {}
    for organ, pairs in declaration.spans.items():
        prompts = prompts_of(landmarks, pairs, geometry, array.shape)
        if prompts is None:
            verdicts[organ] = Verdict({}, (NO_PROMPTS,))
        else:
            rng = np.random.default_rng([options.seed, zlib.crc32(f"{case.name}/{organ}".encode())])
            moved = prompts.moved(options.limits.jitter_mm, rng).in_image(geometry, array.shape)
            own = of_organ(organ)
            mask = _mask(own, options.engine, array, geometry, prompts)
            other = _mask(own, options.engine, array, geometry, moved)
            surface = {
                name: np.asarray(landmarks[name].position_mm, float)
                for name, on in declaration.surface_of.items()
                if organ in on and name in landmarks and landmarks[name].state is State.PRESENT
            }
            limits, median = options.limits, medians_mm3[organ]
            verdicts[organ] = judge(mask, other, prompts, geometry, surface, median, limits)
            if verdicts[organ].accepted:
                masks[organ] = mask
        provenance[organ] = _provenance(verdicts[organ], prompts)
    if masks:
        assert organs.ignore is not None  # checked at the start
        values = {organ: organs.values[organ] for organ in masks}
        labels = label_map(masks, values, organs.ignore, geometry.spacing_mm, options.shell_mm)
        write_label_map(Reader(reader_name), labels, case.label, folder / "labelsTr" / case.label.name)
    write_json(
        folder / PROVENANCE / f"{case.name}.json",
        {"nnunet_ext": __version__, "options": asdict(options), "median_mm3": medians_mm3, "organs": provenance},
    )
    return verdicts


def label_map(
    masks: Mapping[str, NDArray[np.bool_]],
    values: Mapping[str, Any],
    ignore: int,
    spacing_mm: Floats,
    shell_mm: float,
) -> NDArray[np.int32]:
    """Label map ``(z, y, x)``: organs, a shell of background around them, ignore elsewhere and where masks overlap.

    Args:
        masks: masks ``(z, y, x)`` by organ; at least one.
        values: labels by organ.
        ignore: the ignore label.
        spacing_mm: spacing of the axes.
        shell_mm: thickness of the shell.
    """
    covered = np.sum(list(masks.values()), axis=0)
    shell = distance_transform_edt(covered == 0, sampling=spacing_mm) <= shell_mm
    labels = np.where(shell, 0, ignore).astype(np.int32)  # labels above 255 exist; writing picks the type
    for organ, mask in masks.items():
        labels[mask] = values[organ]
    labels[covered > 1] = ignore
    return labels


# --- parts ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _engine(name: str, model: str | None) -> Engine | OrganEngine:
    """Load an engine once per process, because weights are large."""
    return load_engine(name, model)


def _by_organ(
    engine: Engine | OrganEngine, first: NDArray, others: Sequence[Path], reader_name: str
) -> Callable[[str], Engine]:
    """The engine for each organ of an image; the other channels are read only for one that knows organs."""
    if not isinstance(engine, OrganEngine):
        return lambda organ: engine
    channels = np.stack([first, *(as_3d(Reader(reader_name).image(file).array) for file in others)])
    return partial(engine.of_organ, channels=channels)


def _mask(engine: Engine, name: str, image: NDArray, geometry: Geometry, prompts: Prompts) -> NDArray[np.bool_]:
    if not len(prompts.foreground_mm):  # moved out of the image
        return np.zeros(image.shape, bool)
    foreground, background = geometry.to_index(prompts.foreground_mm), geometry.to_index(prompts.background_mm)
    mask = np.asarray(engine(image, geometry.spacing_mm.tolist(), foreground, background))
    if mask.shape != image.shape:
        raise InputError(f"The engine {name} returned a mask of shape {mask.shape} for an image of {image.shape}.")
    return mask.astype(bool)


def _provenance(verdict: Verdict, prompts: Prompts | None) -> dict[str, Any]:
    points = {} if prompts is None else {name: value.round(3).tolist() for name, value in vars(prompts).items()}
    return {"accepted": verdict.accepted, "refused_because_of": verdict.reasons, **verdict.values, **points}


def _require_spans(found: RawLandmarkDataset, where: Path) -> None:
    if not found.declaration.spans:
        raise InputError(
            f"{where}: the landmarks have no spans, the pairs of landmarks with an organ between them; add for example "
            '"spans": {"femur": [["FemurMedial", "FemurLateral"]]}.'
        )
    if found.raw.ignore is None:
        raise InputError(f"{where} has no ignore label, so nothing can stay unknown; add it as the highest label.")
    regions = [organ for organ in found.declaration.spans if isinstance(found.organs.values[organ], tuple)]
    if regions:
        raise InputError(
            f"{where}: spans has the region {regions[0]}, but a mask is written as one label; name labels."
        )


def _annotated(found: RawLandmarkDataset, verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, list[str]]:
    """The entry ``annotated_labels``: the source's, plus the cases in which only some organs have a mask."""
    entry = {case: sorted(names) for case, names in found.organs.annotated.items()}
    for case, organs in verdicts.items():
        accepted = [organ for organ, verdict in organs.items() if verdict.accepted]
        if accepted and set(accepted) != set(found.organs.values):
            entry[case] = accepted
        elif accepted:
            entry.pop(case, None)
    return entry


def _median(volumes: Sequence[float]) -> float | None:
    return float(np.median(volumes)) if volumes else None
