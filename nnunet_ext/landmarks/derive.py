"""``nnunet-ext landmarks derive``: a data set in which most cases have only landmarks, from one with dense labels.

::

    Dataset227_ACDCLandmarks/
        dataset.json        with the ignore label and the landmarks; refers to the images of the source
        labelsTr/           masks of the subjects that keep them; in all other cases every voxel has the ignore label
        landmarksTr/        landmarks of the other cases, for 3D Slicer
        oracle/             labelsTr and landmarksTr of every case, for evaluation; nnU-Net does not read this folder
        landmarks.json      options, version, subjects with masks, number of cases with each landmark
        splits_final.json   with --splits: the folds, to be copied to nnUNet_preprocessed

With ``--splits`` and ``--fold`` the subjects that keep their masks are chosen from the training subjects of that fold,
exactly as ``nnunet-ext splits --few-shot`` chooses them. So a few-shot fold of the source with the same number and seed
is the same training without landmarks. Validation cases of that fold have both masks and landmarks: no training learns
from them, and nnU-Net's validation, its best checkpoint and the evaluation of landmarks need both. Without ``--splits``
the subjects are chosen from all subjects, and the withheld annotations are scored against ``oracle``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.data.label_definitions import Label, ScoredLabels, numbers_of
from nnunet_ext.data.raw import (
    RawCase,
    RawDataset,
    copy_label_map,
    open_dataset,
    require_dense,
    require_labels,
    write_label_map,
)
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.findings import few
from nnunet_ext.landmarks.dataset import FOLDER, KEY, Organs, as_3d
from nnunet_ext.landmarks.derived import ABOUT, ORACLE, Derived, DerivedCase, Kept, Options
from nnunet_ext.landmarks.formats import MARKUPS, write_markups
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, present
from nnunet_ext.landmarks.pseudo.prompts import BETWEEN
from nnunet_ext.landmarks.rules import DIRECTIONS, Rule, thick_axis
from nnunet_ext.partial_labels.declaration import annotated_labels, known_names
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.splits.files import NAME, read_folds, write_folds
from nnunet_ext.splits.folds import Fold, few_shot
from nnunet_ext.splits.subjects import Grouping, group
from nnunet_ext.version import __version__


def derive_dataset(
    dataset: str | int | Path,
    out: str | int,
    options: Options,
    *,
    force: bool = False,
    processes: int | None = None,
) -> Derived:
    """Write a data set with landmarks into ``nnUNet_raw``; after an error nothing is left behind.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw`` with dense labels, or a folder.
        out: number of the new data set, or its whole name ``Dataset227_Name``.
        options: which landmarks to derive, and which cases keep masks.
        force: replace a data set of the same name that this function wrote.
        processes: cases in parallel; by default one per core. The result does not depend on it.

    Raises:
        InputError: the source cannot be read, labels or subjects do not fit the source, the number of the new data set
            is taken, or no case has any of the landmarks.
    """
    source = open_dataset(dataset)
    require_dense(source)
    where = str(source.folder / "dataset.json")
    labels = ScoredLabels.from_dataset_json(source.description, where).values
    names = known_names(list(options.labels or labels), list(labels), "--labels")
    organs = Organs({name: labels[name] for name in names}, source.ignore, annotated_labels(source.description, where))
    grouping = group([case.name for case in source.cases], options.by)
    base, folds = _folds(source, options)
    chosen = _chosen(grouping, base, options)
    target = new_dataset_folder(source, str(out), "Landmarks", replace=force)
    if target.exists():
        _require_own(target, source)
    reader = source.reader().name
    thick = list(for_every_case(_thick_axis_of, [(case, reader) for case in source.cases], processes, "spacings"))
    rule = _rule(options, organs.values, dict(zip((case.name for case in source.cases), thick, strict=True)))
    ignore = max(source.classes) + 1 if source.ignore is None else source.ignore
    known = {*source.classes, ignore}
    segmented = set(chosen.train)
    with written_as_a_whole(target, replace=force) as folder:
        for name in ("labelsTr", FOLDER, f"{ORACLE}/labelsTr", f"{ORACLE}/{FOLDER}"):
            (folder / name).mkdir(parents=True)

        def kept(case: str) -> Kept:
            if case in base.val or (case in segmented and options.landmarks_everywhere):
                return "both"
            return "segmentation" if case in segmented else "landmarks"

        calls = [(case, kept(case.name), rule, organs, known, ignore, reader, folder) for case in source.cases]
        cases = tuple(for_every_case(_derive_case, calls, processes, "landmarks"))
        subjects = tuple(sorted({grouping.subject_of[case] for case in segmented}))
        result = Derived(target, source.name, options, rule, subjects, base.val, cases)
        for case in cases:
            landmarks = {name: case.landmarks[name] for name in result.names}
            places = [f"{ORACLE}/{FOLDER}"] + [FOLDER] * (case.kept != "segmentation")
            for place in places:
                write_markups(folder / place / f"{case.name}{MARKUPS}", landmarks)
        text = f"Landmarks by the rule {rule.kind} from dense labels of {source.name}, by nnunet-ext {__version__}"
        surface_of = {name: rule.surface_of[name] for name in result.names}
        block = {
            "names": list(result.names),
            "surface_of": surface_of,
            "mirror_pairs": result.mirror_pairs,
            "spans": result.spans,
        }
        declared = {"labels": {**source.description["labels"], "ignore": ignore}, KEY: block}
        write_json(folder / "dataset.json", {**derived_description(source, target, text), **declared})
        write_json(folder / ABOUT, result.statistics())
        if folds:
            validation = f"fold {options.fold} of {options.splits}"
            write_folds(folder / NAME, folds, target.name, grouping, validation)
    return result


# --- choices ----------------------------------------------------------------------------------------------------------


def _folds(source: RawDataset, options: Options) -> tuple[Fold, list[Fold]]:
    """The fold to choose subjects from, and all folds of its file; without a file all cases train and none validate."""
    cases = tuple(case.name for case in source.cases)
    if options.splits is None:
        return Fold(cases, ()), []
    folds = read_folds(Path(options.splits))
    if not 0 <= options.fold < len(folds):
        raise InputError(f"--fold is {options.fold}, but {options.splits} has folds 0 to {len(folds) - 1}.")
    base = Fold(tuple(sorted(set(folds[options.fold].train))), tuple(sorted(set(folds[options.fold].val))))
    if unknown := sorted({*base.train, *base.val} - set(cases)):
        raise InputError(
            f"Fold {options.fold} of {options.splits} has {len(unknown)} cases that are not in {source.name} "
            f"({few(unknown)}); give folds of this data set."
        )
    return base, folds


def _chosen(grouping: Grouping, base: Fold, options: Options) -> Fold:
    subjects = len({grouping.subject_of[case] for case in base.train})
    if not 1 <= options.segmented < subjects:
        raise InputError(
            f"--segmented is {options.segmented}, but there are {subjects} training subjects; at least one must keep "
            "its masks, and at least one must have only landmarks."
        )
    return few_shot(grouping.subject_of, base, [options.segmented], [options.seed])[0]


def _rule(options: Options, values: Mapping[str, Label], thick: Mapping[str, int | None]) -> Rule:
    """The rule of the data set.

    Most cases decide whether slices are thick; every case with thick slices must have them across the same direction.
    """
    names = list(values)
    across = Counter(thick.values()).most_common(1)[0][0]
    directions = [name for axis in DIRECTIONS for name in axis]
    if across is not None:
        others = [case for case, axis in thick.items() if axis not in (across, None)]
        if others:
            raise InputError(
                f"Most cases have thick slices from {' to '.join(DIRECTIONS[across])}, but not {few(others)}, so a "
                "landmark would not be the same in all; split the data set by the direction of the slices."
            )
    if options.axes == "in-plane" and across is None:
        raise InputError("--axes in-plane is for thick slices, which most cases do not have; leave it out.")
    if across is not None and options.axes != "all":
        directions = [name for name in directions if name not in DIRECTIONS[across]]
    if options.rule == "interface":
        numbers = [set(numbers_of(value)) for value in values.values()]
        if sum(map(len, numbers)) != len(set().union(*numbers)):
            raise InputError(f"--labels {names} have values in common, so they have no interface; name others.")
        if across is not None and options.axes == "all":
            directions = [name for name in directions if name not in DIRECTIONS[across]]
    return Rule.of(options.rule, names, directions, across)


def _require_own(target: Path, source: RawDataset) -> None:
    if target.resolve() == source.folder.resolve() or not (target / ABOUT).is_file():
        raise InputError(
            f"{target} was not written by nnunet-ext landmarks derive, so --force does not replace it; choose another "
            "number."
        )


# --- one case ---------------------------------------------------------------------------------------------------------


def _thick_axis_of(case: RawCase, reader_name: str) -> int | None:
    volume = Reader(reader_name).labels(case.label)
    return thick_axis(Geometry.from_volume(volume), flat=volume.array.ndim == 2)


def _derive_case(
    case: RawCase,
    kept: Kept,
    rule: Rule,
    organs: Organs,
    known: set[int],
    ignore: int,
    reader_name: str,
    folder: Path,
) -> DerivedCase:
    reader = Reader(reader_name)
    dense = reader.labels(case.label)
    require_labels(dense.array, known, case.label)
    if (dense.array == ignore).all():
        raise InputError(f"{case.label} has the ignore label in every voxel; landmarks are derived from dense labels.")
    geometry, array = Geometry.from_volume(dense), as_3d(dense.array)
    landmarks, indices = landmarks_by_rule(case.name, array, geometry, rule, organs)
    copy_label_map(case.label, folder / ORACLE / "labelsTr")
    if kept == "landmarks":
        write_label_map(reader, np.full_like(array, ignore), case.label, folder / "labelsTr" / case.label.name)
    else:
        copy_label_map(case.label, folder / "labelsTr")
    shape = np.array(array.shape)
    spanned = {}
    for label, pairs in rule.spans.items():
        for one, other in pairs:
            a, b = indices[one], indices[other]
            if not isinstance(organs.values[label], tuple) and np.isfinite([a, b]).all():
                between = np.rint([a + t * (b - a) for t in BETWEEN]).astype(int)
                spanned[one, other] = bool((array[tuple(between.T)] == organs.values[label]).all())
    place = (np.stack(list(indices.values())) + 0.5) / shape
    return DerivedCase(case.name, kept, landmarks, place, shape * geometry.spacing_mm, spanned)


def landmarks_by_rule(
    case: str, array: NDArray, geometry: Geometry, rule: Rule, organs: Organs
) -> tuple[dict[str, Landmark], dict[str, Floats]]:
    """The landmarks of a label map, and their continuous indices; nan unless present.

    Args:
        case: name of the case, which decides which labels are annotated.
        array: ``(z, y, x)``.
        geometry: geometry of the array.
        rule: a rule for labels of ``organs``.
        organs: labels and the ignore label.
    """
    masks = {name: np.isin(array, value) for name, value in organs.values.items()}
    labelled = None if organs.ignore is None else array != organs.ignore
    annotated = organs.annotated.get(case, frozenset(organs.values))
    landmarks: dict[str, Landmark] = {}
    indices: dict[str, Floats] = {}
    for name, place in rule.points(masks, geometry, labelled).items():
        indices[name] = np.full(3, np.nan) if place is None else place
        if not annotated.issuperset(rule.surface_of[name]):
            landmarks[name], indices[name] = UNKNOWN, np.full(3, np.nan)
        elif place is None:
            landmarks[name] = ABSENT
        else:
            landmarks[name] = present(geometry.to_mm(place)) if np.isfinite(place).all() else UNKNOWN
    return landmarks, indices
