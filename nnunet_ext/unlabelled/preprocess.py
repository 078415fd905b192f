"""``nnunet-ext unlabelled``: check images without labels, and preprocess them for existing plans."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.beside import beside
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.findings import CheckReport
from nnunet_ext.nnunet.plans import names_by_data, preprocess_command, resolved
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.splits.files import NAME as SPLITS
from nnunet_ext.splits.files import read_folds
from nnunet_ext.unlabelled.check import Checked, check_images, look_at
from nnunet_ext.unlabelled.found import find_images
from nnunet_ext.unlabelled.prepared import NOTES, Notes, prepared_folder, read_prepared, recipe


@dataclass(frozen=True)
class UnlabelledReport(CheckReport):
    """Findings in images without labels, and the result of preprocessing.

    Attributes:
        images: folder of the raw images.
        cases: number of cases.
        prepared: by folder of preprocessed images, the numbers of new, kept and removed cases.
    """

    images: Path
    cases: int
    prepared: Mapping[Path, tuple[int, int, int]]

    def report(self) -> str:
        """The text to print."""
        lines = [f"{self.images}: {self.cases} images without labels; {self.verdict()}", *self.listed()]
        for folder, (made, there, removed) in self.prepared.items():
            gone = f", {removed} removed that have no image any more" if removed else ""
            lines.append(f"{folder}: {made} preprocessed, {there} were there{gone}")
        if self.exit_code:
            lines.append("Nothing was preprocessed; correct or remove what is fatal first.")
        return "\n".join(lines)


def prepare_unlabelled(
    dataset: str | int,
    plans: str = "nnUNetPlans",
    configurations: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    check_only: bool = False,
    processes: int | None = None,
) -> UnlabelledReport:
    """Check images without labels, and preprocess them beside the labelled data, which does not change.

    Cases that are preprocessed already and have not changed are kept, so a killed run can be continued. Those of
    another folder are kept as long as their images exist.

    Args:
        dataset: number or full name.
        plans: name of the plans to preprocess for.
        configurations: configurations of the plans; by default all with preprocessed labelled data.
        images: folder of the images; ``imagesUn`` of the raw data set by default.
        check_only: preprocess nothing.
        processes: images in parallel; by default one per core.

    Raises:
        InputError: something does not exist.
    """
    folder = dataset_folder(dataset)
    raw = open_dataset(folder.name)
    found = find_images(raw, images)
    content = read_json(folder / f"{plans}.json")
    chosen = _configurations(content, folder, plans, configurations)
    fingerprint = folder / "dataset_fingerprint.json"
    settings, reader = resolved(content, chosen[0]), raw.reader().name
    checked = check_images(
        found,
        raw,
        read_json(fingerprint) if fingerprint.is_file() else {},
        settings["normalization_schemes"],
        _validates(folder / SPLITS),
        processes,
    )
    findings = UnlabelledReport.by_severity(checked.findings)
    made: dict[Path, tuple[int, int, int]] = {}
    if not check_only and not UnlabelledReport(findings, found.folder, 0, {}).exit_code:
        for name in names_by_data({name: resolved(content, name) for name in chosen}).values():
            place, counts = _prepare(folder, content, name, found.cases, checked, reader, processes)
            made[place] = counts
    return UnlabelledReport(findings, found.folder, len(found.cases), made)


def _configurations(plans: Mapping[str, Any], folder: Path, name: str, asked: Sequence[str] | None) -> tuple[str, ...]:
    there = {key: folder / resolved(dict(plans), key)["data_identifier"] for key in plans["configurations"]}
    if unknown := [key for key in asked or () if key not in there]:
        raise InputError(f"{folder / name}.json has no configuration {unknown[0]!r}; it has: {', '.join(there)}.")
    chosen = tuple(key for key in asked or there if there[key].is_dir())
    if not chosen or (asked and len(chosen) < len(asked)):
        missing = next(key for key in asked or there if key not in chosen)
        raise InputError(
            f"The labelled data of {missing} is not preprocessed ({there[missing]} is not there); run: "
            f"{preprocess_command(folder.name, name, [missing])}."
        )
    return chosen


def _validates(splits: Path) -> dict[str, list[int]]:
    """For each case, the folds in which it validates."""
    folds: dict[str, list[int]] = defaultdict(list)
    for number, fold in enumerate(read_folds(splits) if splits.is_file() else ()):
        for case in fold.val:
            folds[case].append(number)
    return dict(folds)


def _prepare(
    folder: Path,
    plans: Mapping[str, Any],
    configuration: str,
    cases: Mapping[str, Sequence[Path]],
    checked: Checked,
    reader: str,
    processes: int | None,
) -> tuple[Path, tuple[int, int, int]]:
    """Preprocess for one configuration; return the folder, and the numbers of new, kept and removed cases."""
    place = prepared_folder(folder, resolved(dict(plans), configuration)["data_identifier"])
    place.mkdir(parents=True, exist_ok=True)
    own = recipe(plans, configuration)
    there = read_prepared(place)
    others = _of_other_folders(place, there, cases)
    cases = {**cases, **others}
    same_as = {**checked.same_as, **_copies(others, checked.labelled, reader, processes)}
    wanted = {name: Notes.for_files(own, files, same_as[name]) for name, files in cases.items()}
    stale = sorted(set(there) - set(wanted))
    for name in stale:
        remove_case(place, name)
    todo = [name for name in wanted if there.get(name) != wanted[name]]
    calls = [(place, name, cases[name], wanted[name], dict(plans), configuration, folder) for name in todo]
    for _ in for_every_case(prepare_case, calls, processes, f"preprocessing for {configuration}"):
        pass
    return place, (len(todo), len(wanted) - len(todo), len(stale))


def _of_other_folders(
    place: Path, there: Mapping[str, Notes], cases: Mapping[str, Sequence[Path]]
) -> dict[str, list[Path]]:
    """Return the files of preprocessed cases whose images lie in other folders than those of ``cases``.

    Raises:
        InputError: another folder has an image of the same name.
    """
    sources = {name: [Path(file) for file, *_ in notes.sources] for name, notes in there.items()}
    sources = {name: [file for file in files if file.suffix != ".json"] for name, files in sources.items()}
    sources = {name: files for name, files in sources.items() if all(file.is_file() for file in files)}
    for name in sorted(sources.keys() & cases.keys()):
        (old, *_), (new, *_) = sources[name], cases[name]
        if not old.samefile(new):
            raise InputError(
                f"{place} has the case {name} of {old.parent}, and {new.parent} has an image of the same name; rename "
                f"one of them, or delete {place} to prepare all images anew."
            )
    return {name: files for name, files in sources.items() if name not in cases}


def _copies(
    others: Mapping[str, Sequence[Path]], labelled: Mapping[str, tuple[str, ...]], reader: str, processes: int | None
) -> dict[str, tuple[str, ...]]:
    """The labelled cases with the same voxels today; they may have changed since ``others`` were preprocessed.

    Raises:
        InputError: an image cannot be preprocessed any more.
    """
    if not others:
        return {}
    calls = [(files, reader) for files in others.values()]
    same_as = {}
    for name, look in zip(others, for_every_case(look_at, calls, processes, "images of other folders"), strict=True):
        if look.fault:
            raise InputError(f"{others[name][0]}, preprocessed before: {look.fault[1]}; correct or remove it.")
        same_as[name] = labelled.get(look.digest, ())
    return same_as


def prepare_case(
    place: Path,
    name: str,
    files: Sequence[Path],
    notes: Notes,
    plans: dict[str, Any],
    configuration: str,
    preprocessed: Path,
) -> None:
    """Preprocess one image with nnU-Net's own preprocessor of these plans. An interruption leaves no half case.

    Args:
        place: folder to write to.
        name: name of the case.
        files: its channels.
        notes: notes to store with it.
        plans: content of the plans file.
        configuration: name of the configuration.
        preprocessed: folder of the data set in ``nnUNet_preprocessed``.

    Raises:
        InputError: nnU-Net could not preprocess it.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    description = read_json(preprocessed / "dataset.json")
    with beside(place / name) as temporary:
        preprocessor = settings.preprocessor_class(verbose=False)
        channels = [str(file) for file in files]
        try:
            preprocessor.run_case_save(str(temporary), channels, None, manager, settings, description)
        except (OSError, MemoryError):  # a full disk says nothing about the image
            raise
        except Exception as error:  # readers and resampling raise their own types of errors
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"{files[0]} could not be preprocessed for {configuration}: {why}; is its spacing right? Correct or "
                "remove the image, and run the command again."
            ) from error
        properties = temporary.with_name(f"{name}.pkl")
        content = pickle.loads(properties.read_bytes())
        properties.write_bytes(pickle.dumps({**content, NOTES: notes.to_dict()}))
        remove_case(place, name)
        # the properties last: without them the case does not exist
        for file in sorted(temporary.parent.iterdir(), key=lambda file: file == properties):
            file.replace(place / file.name)


def remove_case(place: Path, name: str) -> None:
    """Remove a preprocessed case, its properties first."""
    for file in _files(place, name):
        file.unlink(missing_ok=True)


def _files(place: Path, name: str) -> Iterable[Path]:
    return (place / f"{name}{ending}" for ending in (".pkl", ".b2nd", "_seg.b2nd"))
