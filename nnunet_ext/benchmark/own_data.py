"""Data that a benchmark brings itself: planned and preprocessed inside its folder, so that nothing else changes.

This is the synthetic data set of :mod:`nnunet_ext.benchmark.synthetic`, or data sets of a raw folder, which is only
read, and data sets drawn from these.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.drawn import draw, drawn_folds, link_datasets
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.own_folds import write_own_folds
from nnunet_ext.benchmark.own_images import preprocess_images
from nnunet_ext.benchmark.plans import write
from nnunet_ext.benchmark.preprocessed import STAMP, contents, digest, stamp
from nnunet_ext.benchmark.spec import PlansRecipe, Spec
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.data.raw import training_images
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.processes import progress
from nnunet_ext.processes.children import run_step
from nnunet_ext.processes.commands import console, environment, for_planner
from nnunet_ext.splits.cases import find_cases
from nnunet_ext.splits.subjects import group


def with_raw_folder(spec: Spec) -> Spec:
    """``spec`` with the environment variables in ``raw`` expanded.

    Raises:
        InputError: the result is no folder.
    """
    if spec.raw is None:
        return spec
    raw = Path(os.path.expandvars(spec.raw)).expanduser().resolve()
    if "$" in str(raw) or not raw.is_dir():
        raise InputError(f"raw: {spec.raw} is no folder; export nnUNet_raw, or write the folder of your data sets.")
    return spec.model_copy(update={"raw": str(raw)})


def provide(spec: Spec, benchmark: BenchmarkFolder) -> Spec:
    """Make, split and preprocess missing data; nnU-Net's variables must point to the benchmark's folders.

    Returns:
        ``spec``, with the full name of the synthetic data set.

    Raises:
        InputError: a data set is not in the raw folder, its folds or scribbles cannot be made, or an image without
            labels cannot be used.
        StepFailed: nnU-Net's command failed.
    """
    from nnunet_ext.benchmark.synthetic import DATASET, write_dataset

    if spec.is_synthetic:
        write_dataset(os.environ["nnUNet_raw"], cases=spec.synthetic_cases)
        spec = spec.with_synthetic(DATASET)
    if spec.drawn:
        if spec.raw:
            link_datasets(Path(spec.raw), benchmark.raw, spec.drawn)
        for number, drawn in spec.drawn.items():
            draw(number, drawn, spec.splits, benchmark.raw)
    datasets = {dataset: dataset_folder(dataset, "nnUNet_raw") for dataset in _datasets(spec)}
    if spec.splits is not None:
        for raw in datasets.values():  # a wrong rule is refused before anything is preprocessed
            group(find_cases(raw.name).names, spec.splits.by)
    for dataset, raw in datasets.items():
        preprocess(raw, _recipes(spec, dataset), benchmark, verify=spec.raw is not None)
        if spec.splits is not None:
            write_own_folds(raw.name, spec.splits, drawn_folds(benchmark.raw / raw.name, spec.drawn))
        preprocess_images(raw, _arms_on(spec, dataset))
    return spec


def preprocess(
    raw: Path,
    recipes: Sequence[tuple[PlansRecipe, tuple[str, ...]]],
    benchmark: BenchmarkFolder,
    *,
    verify: bool = True,
) -> None:
    """Plan one data set and preprocess missing configurations; if its raw files have changed, start anew.

    Args:
        raw: folder of the data set.
        recipes: recipes of all plans that are trained on it, each with the configurations to preprocess; those with a
            spacing or slice axis have their own preprocessed data.
        benchmark: folder of the benchmark.
        verify: let nnU-Net check the files first.
    """
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    folder = preprocessed / raw.name
    description = read_json(raw / "dataset.json")
    before = stamp(raw.name) if folder.is_dir() else {}
    listed = _listed_elsewhere(raw, description)
    seen = digest(description, _state_of_files([*_files(raw), *listed], raw), metadata.version("nnunetv2"))
    # files that were copied have other times; then their contents decide
    same = before.get("seen") == seen
    key = before["key"] if same else digest(description, contents(raw, _files(raw)), metadata.version("nnunetv2"))
    # apart from the key, which earlier versions computed without images of other folders
    outside = before.get("listed", "") if same else _digest_of(listed)
    planned = before.get("key") == key and before.get("listed", outside) == outside
    done = before.get("configurations", []) if planned else []
    wanted = dict.fromkeys(name for recipe, names in recipes if not recipe.has_own_data for name in names)
    missing = [configuration for configuration in wanted if configuration not in done]
    number = str(int(raw.name[7:10]))
    own = for_planner(environment(raw=raw.parent, preprocessed=preprocessed, results=benchmark.folder / "results"))
    workers = own["nnUNet_def_n_proc"]

    def run(command: list[str]) -> None:
        print(f"$ {shlex.join(command)}", flush=True)
        run_step(
            "preprocess",
            console(command),
            shown=shlex.join(command),
            log=benchmark.folder / "preprocess.log",
            env=own,
            progress=progress.preprocessing(),
        )

    if not planned:
        shutil.rmtree(folder, ignore_errors=True)
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-np", workers, "-npfp", workers]
        command += ["-c", *missing] if missing else ["--no_pp"]
        run([*command, *(["--verify_dataset_integrity"] if verify else [])])
    elif missing:
        run(["nnUNetv2_preprocess", "-d", number, "-np", workers, "-c", *missing])
    if missing or not planned or not same:
        state = {"key": key, "seen": seen, **({"listed": outside} if outside else {})}
        write_json(folder / STAMP, {**state, "configurations": [*done, *missing]})
    for recipe, configurations in recipes:
        plans = write(recipe, raw.name, configurations) if recipe.has_own_data else None
        if plans is not None and plans.missing:
            run(["nnUNetv2_preprocess", "-d", number, "-plans_name", plans.name, "-np", workers, "-c", *plans.missing])


# --- parts ------------------------------------------------------------------------------------------------------------


def _datasets(spec: Spec) -> list[str]:
    """All data sets that are used for training or as references."""
    references = [truth for truth in spec.references.values() if not Path(truth).is_dir()]
    return list(dict.fromkeys([*spec.datasets, *(arm.dataset for arm in spec.arms if arm.dataset), *references]))


def _recipes(spec: Spec, dataset: str) -> list[tuple[PlansRecipe, tuple[str, ...]]]:
    """Plans that are trained on a data set, and their configurations; of all arms if it only gives the references."""
    own = [arm for arm in spec.arms if (arm.dataset or dataset) == dataset] or spec.arms
    return [(arm.plans, spec.configurations_of(arm)) for arm in own]


def _arms_on(spec: Spec, dataset: str) -> list[tuple[str, PlansRecipe, tuple[str, ...]]]:
    """Trainer, plans and configurations of every arm that is trained on a data set."""
    own = [arm for arm in spec.arms if (arm.dataset == dataset if arm.dataset else dataset in spec.datasets)]
    return [(arm.trainer, arm.plans, spec.configurations_of(arm)) for arm in own]


def _state_of_files(files: Iterable[Path], raw: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of files; changes with any change of them. Files outside of ``raw`` have their whole path."""
    state = [(path, path.stat()) for path in files]
    return [(os.path.relpath(path, raw), at.st_size, at.st_mtime_ns) for path, at in state]


def _files(raw: Path) -> list[Path]:
    """Every training image and label map in the folder of a data set."""
    found = (path for name in ("imagesTr", "labelsTr") for path in sorted((raw / name).glob("*")))
    return [path for path in found if path.is_file()]


def _listed_elsewhere(raw: Path, description: Mapping[str, Any]) -> list[Path]:
    """Training images that ``dataset.json`` lists in other folders, such as those of the source of a drawn data set."""
    images = (image for case in description.get("dataset", {}) for image in training_images(raw, description, case))
    return [image for image in images if image.parent != raw / "imagesTr" and image.is_file()]


def _digest_of(listed: Sequence[Path]) -> str:
    """Digest of the contents of images, in their order; empty without images."""
    return digest([sha256(path.read_bytes()).hexdigest() for path in listed]) if listed else ""
