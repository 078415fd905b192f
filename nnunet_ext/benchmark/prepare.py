"""From a spec to jobs: data, plans, splits and trainers are looked at once, before anything is trained.

All arms get the same preprocessed data, the same ``splits_final.json`` and plans that differ in nothing but what the
spec says. What was found is part of every job's key, and is compared again when a job starts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nnunet_ext import catalogue
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.spec import SYNTHETIC, Arm, Metrics, PlansRecipe, Spec
from nnunet_ext.data.folders import dataset_folder, visible_files
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.planning import write_plans
from nnunet_ext.processes import progress
from nnunet_ext.processes.children import run_step
from nnunet_ext.processes.commands import console, environment, for_planner
from nnunet_ext.splits.files import read_about

NUMBER_OF_EPOCHS = re.compile(r"_(\d+)epochs?$")


def prepare(spec: Spec, benchmark: BenchmarkFolder) -> list[Job]:
    """Write plans and ``benchmark.json``; returns all jobs, one seed after the other and arms innermost.

    A folder may be prepared again with more arms, seeds or folds; what is done stays.

    Raises:
        InputError: a data set, configuration, fold or trainer is missing; or what is done in this folder was done with
            other data, plans or splits.
    """
    use_folders(spec, benchmark)
    for arm in spec.arms:
        check_trainer(arm)
    if spec.datasets == (SYNTHETIC,):
        make_synthetic(benchmark)
    groups = [dataset_folder(dataset).name for dataset in numbers(spec)]
    truths = {dataset_folder(dataset).name: truth for dataset, truth in spec.references.items()}
    trained_on = {
        (arm.name, group): dataset_folder(arm.dataset).name if arm.dataset else group
        for arm in spec.arms
        for group in groups
    }
    for dataset in dict.fromkeys([*groups, *trained_on.values()]):
        check_dataset(dataset, spec)
    plans = {}
    for arm, group in itertools.product(spec.arms, groups):
        dataset = trained_on[arm.name, group]
        check_same_folds(arm, dataset, group, spec.folds)
        plans[arm.name, group] = written_plans(arm.plans, dataset, spec.configurations)
    jobs = []
    for seed, group, configuration, fold, arm in itertools.product(
        spec.seeds, groups, spec.configurations, spec.folds, spec.arms
    ):
        dataset, plan = trained_on[arm.name, group], plans[arm.name, group]
        job = Job(
            arm=arm.name,
            trainer=arm.trainer,
            plans=plan,
            dataset=dataset,
            configuration=configuration,
            fold=fold,
            seed=seed,
            device=spec.device,
            epochs=expected_epochs(arm.trainer, dataset, plan, configuration),
            key="",
            group="" if dataset == group else group,
            truth=truths.get(group, ""),
        )
        truth_of(job)
        jobs.append(replace(job, key=job_key(job)))
    _refuse_other_results(benchmark, jobs)
    benchmark.save(
        spec,
        jobs,
        splits={group: splits(group) for group in groups},
        subsets={group: subsets(group) for group in groups},
    )
    return jobs


def use_folders(spec: Spec, benchmark: BenchmarkFolder) -> None:
    """Point nnU-Net's variables, in this process, to the data; before anything of nnunetv2 is imported.

    Raises:
        InputError: a variable is not set.
    """
    register()
    os.environ.setdefault("nnUNet_results", str(benchmark.folder / "results"))
    if SYNTHETIC in spec.datasets:
        if len(spec.datasets) > 1:
            raise InputError(f"datasets: {SYNTHETIC} cannot be mixed with others; make it a benchmark of its own.")
        for name in ("raw", "preprocessed"):
            os.environ[f"nnUNet_{name}"] = str(benchmark.folder / f"nnUNet_{name}")
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        if not os.environ.get(name):
            raise InputError(f"{name} is not set; export it to the folder that holds your data.")


def make_synthetic(benchmark: BenchmarkFolder) -> None:
    """Write, plan and preprocess the data set of :mod:`nnunet_ext.demo.data` inside the folder of the benchmark."""
    from nnunet_ext.demo.data import DATASET, write_dataset

    raw, preprocessed = (Path(os.environ[f"nnUNet_{name}"]) for name in ("raw", "preprocessed"))
    if (preprocessed / DATASET / "prepared").is_file():
        return
    write_dataset(raw)
    own = environment(raw=raw, preprocessed=preprocessed, results=benchmark.folder / "results")
    workers = own["nnUNet_def_n_proc"]
    command = ["nnUNetv2_plan_and_preprocess", "-d", DATASET.removeprefix("Dataset")[:3], "-c", "2d", "3d_fullres"]
    run_step(
        "synthetic data",
        console([*command, "-np", workers, "-npfp", workers]),
        shown=shlex.join(command),
        log=benchmark.folder / "synthetic.log",
        env=for_planner(own),
        progress=progress.preprocessing(),
    )
    (preprocessed / DATASET / "prepared").touch()


def numbers(spec: Spec) -> tuple[str, ...]:
    """The data sets as nnU-Net knows them."""
    from nnunet_ext.demo.data import DATASET

    return (DATASET,) if spec.datasets == (SYNTHETIC,) else spec.datasets


def check_trainer(arm: Arm) -> None:
    """Raise InputError unless the trainer exists and follows the schedule it is given.

    Stock trainers ignore a schedule in the plans: their number of epochs is in their name.
    """
    scheduled = arm.plans.epochs is not None or arm.plans.iterations is not None or arm.plans.presets
    try:
        catalogue.resolve(arm.trainer)
    except LookupError:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        from nnunet_ext.nnunet.trainer import CommonTrainer

        try:
            found = recursive_find_trainer_class_by_name(arm.trainer)
        except RuntimeError:
            found = None
        if found is None:
            raise InputError(
                f"There is no trainer {arm.trainer!r}, neither in nnU-Net nor here; "
                f"here there are {', '.join(catalogue.TRAINERS)}."
            ) from None
        if scheduled and not issubclass(found, CommonTrainer):
            raise InputError(
                f"{arm.trainer} of stock nnU-Net ignores the schedule in plans, so it would train longer than the "
                "others; use nnUNetTrainerReference, which equals nnUNetTrainer bit for bit, or give the number of "
                "epochs by name (nnUNetTrainer_100epochs) for all trainers and no schedule."
            ) from None


def check_dataset(dataset: str, spec: Spec) -> None:
    """Raise InputError unless every configuration is preprocessed and every fold exists.

    Without ``splits_final.json`` nnU-Net's own default folds are written, as its first training would do.
    """
    folder = dataset_folder(dataset)
    for arm in spec.arms:
        file = folder / f"{arm.plans.base}.json"
        configurations = read_json(file)["configurations"] if file.is_file() else {}
        for configuration in spec.configurations:
            if configuration not in configurations:
                there = ", ".join(configurations) or "no such plans"
                raise InputError(f"{file}: there is no configuration {configuration!r} (there is: {there}).")
            identifier = configurations[configuration].get("data_identifier", f"{arm.plans.base}_{configuration}")
            if not (folder / identifier).is_dir():
                raise InputError(
                    f"{dataset} is not preprocessed for {configuration}; run: nnUNetv2_preprocess -d {dataset} "
                    f"-plans_name {arm.plans.base} -c {configuration}."
                )
    if not (folder / "splits_final.json").is_file():
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        ending = _ending(dataset)
        cases = [path.name.removesuffix(ending) for path in visible_files(folder / "gt_segmentations", ending)]
        with replacing(folder / "splits_final.json") as temporary:
            temporary.write_text(json.dumps(generate_crossval_split(cases, 12345, 5), indent=4))
    folds = len(splits(dataset))
    if max(spec.folds) >= folds:
        raise InputError(
            f"folds: {max(spec.folds)} is asked for, but {folder / 'splits_final.json'} has folds 0 to {folds - 1}."
        )


def check_same_folds(arm: Arm, dataset: str, group: str, folds: Sequence[int]) -> None:
    """Raise InputError unless an arm that is trained on another data set has the same cases in its folds."""
    for fold in folds if dataset != group else ():
        for part in ("train", "val"):
            if sorted(splits(dataset)[fold][part]) != sorted(splits(group)[fold][part]):
                raise InputError(
                    f"{arm.name}: fold {fold} of {dataset} has other {part} cases than that of {group}; copy "
                    "splits_final.json from one to the other."
                )


def truth_of(job: Job) -> tuple[Path, Path]:
    """The folder of references for a job, and the ``dataset.json`` that says what their labels mean.

    Raises:
        InputError: neither a folder nor a preprocessed data set.
    """
    if job.truth and Path(job.truth).is_dir():
        return Path(job.truth), dataset_folder(job.compared) / "dataset.json"
    folder = dataset_folder(job.truth or job.compared)
    return folder / "gt_segmentations", folder / "dataset.json"


def written_plans(recipe: PlansRecipe, dataset: str, configurations: tuple[str, ...]) -> str:
    """The name of the plans for this recipe, which are written unless they are there."""
    if recipe.unchanged:
        return recipe.base
    arguments = {key: value for key, value in asdict(recipe).items() if key not in ("base", "presets")}
    name = "_".join([recipe.base, *recipe.presets, f"bench{_digest(asdict(recipe), configurations)[:6]}"])
    write_plans(
        dataset, recipe.presets, base=recipe.base, configurations=configurations, out=name, force=True, **arguments
    )
    return name


def expected_epochs(trainer: str, dataset: str, plans: str, configuration: str) -> int | None:
    """How many epochs will be trained, where that can be known beforehand."""
    if match := NUMBER_OF_EPOCHS.search(trainer):
        return int(match[1])
    try:
        catalogue.resolve(trainer)
    except LookupError:
        return None
    settings = _plans(dataset, plans)["configurations"][configuration]
    return extension_settings(settings, "schedule").get("epochs", 1000)


def job_key(job: Job) -> str:
    """Changes with the plans, the split, the trainer, the seed, the device, and what is taken as the truth."""
    split = splits(job.dataset)[job.fold]
    plans = _plans(job.dataset, job.plans)
    parts = (plans["configurations"][job.configuration], plans["transpose_forward"], plans["image_reader_writer"])
    truth = [job.truth] if job.truth else []
    return _digest(parts, sorted(split["train"]), sorted(split["val"]), job.trainer, job.seed, job.device, *truth)


def splits(dataset: str) -> list[dict[str, list[str]]]:
    """``splits_final.json``: for every fold the cases ``train`` and ``val``.

    Raises:
        InputError: the file holds something else.
    """
    file = dataset_folder(dataset) / "splits_final.json"
    with contextlib.suppress(ValueError, TypeError, KeyError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list) and all(
            isinstance(fold[part], list) for fold in content for part in ("train", "val")
        ):
            return content
    raise InputError(
        f"{file} is no list of folds with train and val; restore it, or remove it to get nnU-Net's own folds."
    )


def subsets(dataset: str) -> list[str]:
    """What each fold is trained on, in words, where folds share validation cases; empty for a cross-validation.

    Folds with the same words are repeats of one experiment, as few-shot subsets of one size are.
    """
    validated = Counter(case for fold in splits(dataset) for case in fold["val"])
    if max(validated.values(), default=0) < 2:
        return []
    about = read_about(dataset_folder(dataset) / "splits_final.json")
    if about is None or not about.training_subjects:
        return [f"fold {fold}" for fold in range(len(splits(dataset)))]
    return [f"{number} training subjects" for number in about.training_subjects]


def evaluate(benchmark: BenchmarkFolder, job: Job, metrics: Metrics) -> dict[str, Any]:
    """Compare the validation predictions with their references; writes ``metrics.csv`` and ``summary.json``."""
    from nnunet_ext.evaluation.folders import evaluate_folders

    references, dataset_json = truth_of(job)
    evaluation = evaluate_folders(
        references,
        benchmark.fold(job) / "validation",
        dataset_json=dataset_json,
        plans=dataset_folder(job.dataset) / f"{job.plans}.json",
        cases=splits(job.dataset)[job.fold]["val"],
        nsd_tolerances_mm=metrics.nsd_tolerances_mm,
        definition=metrics.definition,
    )
    evaluation.write(benchmark.of(job) / "summary.json", benchmark.of(job) / "metrics.csv")
    return {"cases": len(evaluation.cases), "definitions": evaluation.definitions}


# --- parts ------------------------------------------------------------------------------------------------------------


def _refuse_other_results(benchmark: BenchmarkFolder, jobs: list[Job]) -> None:
    """Results of other data or plans under the same names must not be mixed in, nor lost."""
    before = {job.name: job.key for job in benchmark.load()[1]} if benchmark.prepared.is_file() else {}
    for job in jobs:
        begun = benchmark.fold(job).is_dir() or benchmark.record(job) is not None
        if begun and before.get(job.name, job.key) != job.key:
            raise InputError(
                f"{benchmark.folder} holds a training of {job.title} with other plans, split or device; choose another "
                "--folder, or remove this one."
            )


def _plans(dataset: str, name: str) -> dict[str, Any]:
    return read_json(dataset_folder(dataset) / f"{name}.json")


def _ending(dataset: str) -> str:
    return read_json(dataset_folder(dataset) / "dataset.json")["file_ending"]


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
