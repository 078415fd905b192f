"""Turns a specification into jobs: data, plans, splits and trainers are checked once, before any training.

All arms get the same preprocessed data, the same ``splits_final.json``, and plans that differ only where the
specification says so. Data, plans and splits are part of every job's key, which is checked again when a job starts.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunet_ext.benchmark.data_state import DataStates
from nnunet_ext.benchmark.equal_time import timed_alike, with_equal_time
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.other_network import other_network
from nnunet_ext.benchmark.own_data import provide, with_raw_folder
from nnunet_ext.benchmark.plans import expected_epochs, written_plans
from nnunet_ext.benchmark.preprocessed import declared, job_key, splits, subsets
from nnunet_ext.benchmark.spec import Arm, Spec
from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing
from nnunet_ext.nnunet.plans import preprocess_command
from nnunet_ext.splits.folds import default_folds
from nnunet_ext.version import __version__


def prepare(
    spec: Spec, benchmark: BenchmarkFolder, *, anew: bool = False, iterations: Mapping[str, int] | None = None
) -> list[Job]:
    """Write plans and ``benchmark.json``, and return all jobs, one seed after the other and arms innermost.

    A folder may be prepared again with more arms, seeds or folds; finished jobs stay.

    Args:
        spec: specification of the benchmark.
        benchmark: folder of the benchmark.
        anew: remove results of other data, plans, splits or another version of this package, instead of refusing them.
        iterations: iterations of arms that have the time of another arm, by the keys of
            :func:`~nnunet_ext.benchmark.equal_time.with_equal_time`, if another machine has measured them.

    Raises:
        InputError: a data set, configuration, fold or trainer is missing, or the folder holds results of other data,
            plans or splits.
    """
    spec = with_raw_folder(spec)
    benchmark.use_data(spec)
    for arm in spec.arms:
        check_trainer(arm)
    found = provide(spec, benchmark) if spec.brings_its_data else spec
    before, earlier, about = benchmark.load() if benchmark.prepared.is_file() else (spec, [], {})
    known = {**(iterations or {}), **(about.get("iterations", {}) if timed_alike(before, spec) else {})}
    found, iterations = with_equal_time(found, benchmark, known)
    jobs = jobs_of(found)
    other_version = about.get("nnunet_ext") != __version__
    _settle_other_results(benchmark, jobs, {job.name: job for job in earlier}, anew, other_version)
    groups = dict.fromkeys(job.compared for job in jobs)
    benchmark.save(
        spec,
        jobs,
        splits={group: splits(group) for group in groups},
        subsets={group: subsets(group) for group in groups},
        declared={dataset: declared(dataset) for dataset in dict.fromkeys(job.dataset for job in jobs)},
        iterations=iterations,
        nnunet_ext=__version__,
    )
    return jobs


def jobs_of(spec: Spec) -> list[Job]:
    """Check the preprocessed data, write the plans of every arm, and list the jobs with their keys."""
    groups = [dataset_folder(dataset).name for dataset in spec.datasets]
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
        plans[arm.name, group] = written_plans(arm.plans, dataset, spec.configurations_of(arm))
    jobs, states = [], DataStates()
    for seed, group, configuration, fold, arm in itertools.product(
        spec.seeds, groups, spec.configurations, spec.folds, spec.arms
    ):
        dataset, plan = trained_on[arm.name, group], plans[arm.name, group]
        trained = arm.configuration or configuration
        job = Job(
            arm=arm.name,
            trainer=arm.trainer,
            plans=plan,
            dataset=dataset,
            configuration=trained,
            fold=fold,
            seed=seed,
            device=spec.device,
            epochs=expected_epochs(arm.trainer, dataset, plan, trained),
            key="",
            group="" if dataset == group else group,
            truth=truths.get(group, ""),
            scored=spec.scored,
            start=arm.start or "",
            among="" if trained == configuration else configuration,
        )
        jobs.append(replace(job, key=job_key(job), data=states.of(job), unlabelled=states.unlabelled_of(job)))
    return jobs


def check_trainer(arm: Arm) -> None:
    """Raise InputError unless the trainer exists and follows the schedule of its plans.

    Stock trainers ignore a schedule in the plans; their name gives the number of epochs.
    """
    from nnunet_ext.find_trainer import find_trainer
    from nnunet_ext.nnunet.trainer import CommonTrainer

    found = find_trainer(arm.trainer)
    if (arm.time_of or arm.plans.has_schedule) and not issubclass(found, CommonTrainer):
        raise InputError(
            f"{arm.trainer} of stock nnU-Net ignores the schedule in plans, so it would train longer than the "
            "others; use nnUNetTrainerReference, which equals nnUNetTrainer bit for bit, or give the number of "
            "epochs by name (nnUNetTrainer_100epochs) for all trainers and no schedule."
        )


def check_dataset(dataset: str, spec: Spec) -> None:
    """Raise InputError unless every configuration is preprocessed and every fold exists.

    Without ``splits_final.json`` nnU-Net's default folds are written, as its first training would do.
    """
    folder = dataset_folder(dataset)
    for arm in spec.arms:
        plans = arm.plans
        file = folder / f"{plans.base}.json"
        content = read_json(file) if file.is_file() else {}
        if spec.metrics.consistency and content.get("original_median_shape_after_transp", [0])[0] == 1:
            raise InputError(f"{dataset} has single slices, which have no neighbours; leave metrics: consistency out.")
        configurations = content.get("configurations", {})
        for configuration in spec.configurations_of(arm):
            if configuration not in configurations:
                there = ", ".join(configurations) or "no such plans"
                raise InputError(f"{file}: there is no configuration {configuration!r} (there is: {there}).")
            identifier = configurations[configuration].get("data_identifier", f"{plans.base}_{configuration}")
            if plans.unchanged and not (folder / identifier).is_dir():  # of written plans written_plans looks for data
                raise InputError(
                    f"{dataset} is not preprocessed for {configuration}; run: "
                    f"{preprocess_command(folder.name, plans.base, [configuration])}."
                )
    if not (folder / "splits_final.json").is_file():
        ending = read_json(folder / "dataset.json")["file_ending"]
        cases = case_names(folder / "gt_segmentations", ending)
        own = [{"train": fold.train, "val": fold.val} for fold in default_folds(dataset, cases)]
        with replacing(folder / "splits_final.json") as temporary:
            temporary.write_text(json.dumps(own, indent=4))
    folds = len(splits(dataset))
    if max(spec.folds) >= folds:
        raise InputError(
            f"folds: {max(spec.folds)} is asked for, but {folder / 'splits_final.json'} has folds 0 to {folds - 1}."
        )


def check_same_folds(arm: Arm, dataset: str, group: str, folds: Sequence[int]) -> None:
    """Raise InputError unless an arm that trains on another data set has the same cases in its folds."""
    for fold in folds if dataset != group else ():
        for part in ("train", "val"):
            if sorted(splits(dataset)[fold][part]) != sorted(splits(group)[fold][part]):
                raise InputError(
                    f"{arm.name}: fold {fold} of {dataset} has other {part} cases than that of {group}; copy "
                    "splits_final.json from one to the other."
                )


# --- parts ------------------------------------------------------------------------------------------------------------


def _settle_other_results(
    benchmark: BenchmarkFolder, jobs: Sequence[Job], before: Mapping[str, Job], anew: bool, other_version: bool
) -> None:
    """Refuse results of other data or plans under the same names; with ``anew`` remove them.

    Raises:
        InputError: there are such results, and ``anew`` is False.
    """
    for job in jobs:
        known, record = before.get(job.name, job), benchmark.record(job)
        begun = benchmark.fold(job).is_dir() or record is not None
        # a job that was left out for a while is known by its record alone
        kept = {name: record[name] for name in ("key", "data", "unlabelled") if name in record} if record else {}
        recorded = replace(job, **kept)
        same = job.same_as(known) and job.same_as(recorded)
        other = other_network(record.get("training", {}), job) if record and same else ""
        same = same and not other
        if not begun or (same and not (anew and other_version)):
            continue
        if not anew:
            what = f"a network that has {other}" if other else "other data, plans, split or device"
            raise InputError(
                f"{benchmark.folder} holds a training of {job.title} with {what}; choose another --folder, or remove "
                "this one."
            )
        for folder in (benchmark.of(job), benchmark.fold(known), benchmark.fold(job)):
            shutil.rmtree(folder, ignore_errors=True)
