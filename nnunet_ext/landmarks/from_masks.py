"""``nnunet-ext landmarks from-masks``: landmarks of label maps, by the rule of a derived data set.

Landmarks of predicted segmentations are the control of a trainer that predicts landmarks: they show how well the
segmentation alone locates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nnunet_ext.data.folders import visible_files
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.raw import require_labels
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing, require_folder
from nnunet_ext.landmarks.dataset import Organs, RawLandmarkDataset, as_3d, open_landmarks
from nnunet_ext.landmarks.derive import landmarks_by_rule
from nnunet_ext.landmarks.derived import ABOUT
from nnunet_ext.landmarks.formats import MARKUPS, Cases, write_markups
from nnunet_ext.landmarks.points import Landmark
from nnunet_ext.landmarks.rules import Rule
from nnunet_ext.processes.parallel import for_every_case


def landmarks_from_masks(
    masks: str | Path, dataset: str | int | Path, out: str | Path, *, force: bool = False, processes: int | None = None
) -> Cases:
    """Write ``CASE.mrk.json`` for every label map of a folder, and return the landmarks by case.

    Args:
        masks: folder of label maps, such as predictions.
        dataset: number or name of a data set in ``nnUNet_raw`` that ``nnunet-ext landmarks derive`` wrote, or a folder.
        out: folder to write to.
        force: replace existing files.
        processes: cases in parallel; by default one per core.

    Raises:
        InputError: the data set has no rule, there are no label maps, one has labels that the data set does not have,
            ``out`` is a file, or files exist already.
    """
    require_folder(out)
    found = open_landmarks(dataset)
    rule = _rule_of(found)
    folder, ending = Path(masks), found.raw.ending
    files = visible_files(folder, ending)
    if not files:
        raise InputError(f"{folder} holds no {ending} files; give a folder of label maps.")
    targets = [Path(out) / f"{file.name.removesuffix(ending)}{MARKUPS}" for file in files]
    if (there := [target for target in targets if target.exists()]) and not force:
        raise InputError(f"{there[0]} is there already; choose another folder with -o, or replace it with --force.")
    reader = Reader.for_file(files[0], ending, found.raw.description).name
    # which labels people annotated does not matter here: the masks hold all labels
    organs = Organs(found.organs.values, found.organs.ignore, {})
    names = found.declaration.names
    calls = [(file, reader, rule, organs, names) for file in files]
    landmarks = list(for_every_case(_read_off, calls, processes, "landmarks"))
    Path(out).mkdir(parents=True, exist_ok=True)
    with ExitStack() as all_of_them:
        for target, of_case in zip(targets, landmarks, strict=True):
            write_markups(all_of_them.enter_context(replacing(target)), of_case)
    return {file.name.removesuffix(ending): of_case for file, of_case in zip(files, landmarks, strict=True)}


def _rule_of(found: RawLandmarkDataset) -> Rule:
    file = found.raw.folder / ABOUT
    if not file.is_file():
        raise InputError(f"There is no {file}; give a data set that nnunet-ext landmarks derive wrote.")
    content: Mapping[str, Any] = read_json(file).get("rule", {})
    try:
        labels = tuple(tuple(group) for group in content["labels"])
        rule = Rule(content["kind"], labels, tuple(content["directions"]), content["across"])
    except (KeyError, TypeError):
        raise InputError(f"{file} holds no rule; derive the data set again.") from None
    if not set(found.declaration.names) <= set(rule.surface_of):
        raise InputError(f"{file} has a rule for other landmarks than dataset.json; derive the data set again.")
    return rule


def _read_off(file: Path, reader: str, rule: Rule, organs: Organs, names: tuple[str, ...]) -> dict[str, Landmark]:
    volume = Reader(reader).labels(file)
    require_labels(volume.array, organs.known, file)
    landmarks, _ = landmarks_by_rule(file.name, as_3d(volume.array), Geometry.from_volume(volume), rule, organs)
    return {name: landmarks[name] for name in names}
