"""Results to report: every score and every training, from a benchmark or from existing models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.benchmark import records
from nnunet_ext.benchmark.cells import IDENTITY, read_table
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.portable import Folders, last_line
from nnunet_ext.benchmark.preprocessed import plans_of, subsets
from nnunet_ext.benchmark.score import truth_of
from nnunet_ext.benchmark.spec import Metrics, Scored, Spec
from nnunet_ext.benchmark.subjects import with_subjects
from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.raw import training_images
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.files import read_json
from nnunet_ext.processes.lock import is_held
from nnunet_ext.version import __version__


@dataclass(frozen=True)
class Training:
    """One training.

    ``predictions`` is the folder of the scored predictions, ``about`` comes from :mod:`.records`, and ``plans`` and
    ``log`` are files, if they exist.
    """

    arm: str
    group: str
    fold: int
    seed: int
    predictions: Path
    about: Mapping[str, Any]
    memory: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    plans: Path | None = None
    log: Path | None = None


@dataclass(frozen=True)
class Unfinished:
    """A job without a result: not started, still running, failed or stopped; ``log`` is its log file, if any."""

    title: str
    reason: str
    log: Path | None = None


@dataclass(frozen=True)
class Group:
    """Trainings that are compared with each other, on one data set (and one configuration, in a benchmark).

    The folds of a group validate on different cases, or are repeats with different training subsets of one size.
    """

    name: str
    dataset: str
    references: Path
    description: Mapping[str, Any]
    reader: str
    scored: Scored = "validation"

    @property
    def labels(self) -> ScoredLabels:
        return ScoredLabels.from_dataset_json(self.description)


@dataclass(frozen=True)
class Results:
    """All data of a report.

    ``cases`` has one row per training, case and label: ``arm, group, fold, seed, case, label``, metrics, ``status``,
    and ``subject``, empty if it is unknown. ``interfaces`` has one row per training, case and pair of touching labels,
    with the same columns but other metrics.
    """

    name: str
    description: str
    baseline: str
    arms: tuple[str, ...]
    groups: tuple[Group, ...]
    cases: pd.DataFrame
    trainings: tuple[Training, ...]
    definitions: tuple[str, ...]
    unfinished: tuple[Unfinished, ...] = ()
    """Jobs that are not done."""
    interfaces: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*IDENTITY, "label"]))
    specification: Mapping[str, Any] = field(default_factory=dict)
    """Content of the YAML specification, as a user could write it."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """Folds, subsets and iterations for equal time, as found when the benchmark was prepared."""
    unknown: tuple[str, ...] = ()
    """Sentences about facts that are no longer known."""
    folders: Folders = field(default_factory=Folders)
    """Names that replace the folders of this machine in published texts."""
    version: str = __version__
    """Version of this package when the results were collected."""

    def scores_of(self, column: str) -> pd.DataFrame:
        """The table that has this metric."""
        return self.cases if column in self.cases.columns else self.interfaces


def from_benchmark(benchmark: BenchmarkFolder, baseline: str | None = None) -> Results:
    """Collect the results of the finished jobs of a benchmark.

    Raises:
        InputError: there is no benchmark or no finished job, the baseline is unknown, or a job was scored with
            other metrics than the benchmark asks for.
    """
    spec, jobs, stored = benchmark.load()
    benchmark.use_data(spec)
    done = [(job, record) for job in jobs if (record := benchmark.record(job)) is not None]
    if not done:
        raise InputError(f"{benchmark.folder}: no job is done yet, so there is nothing to report.")
    chosen = _checked_baseline(baseline or spec.baseline, [arm.name for arm in spec.arms])

    def group_of(job: Job) -> str:
        return group_name(job, stored.get("subsets", {}))

    groups: dict[str, Group] = {}
    for job, _ in done:
        truth = truth_of(job)
        reader = plans_of(job.dataset, job.plans)["image_reader_writer"]
        description = read_json(truth.dataset_json)
        group = Group(group_of(job), job.compared, truth.references, description, reader, job.scored)
        groups.setdefault(group.name, group)
    names = {group.name: group.dataset for group in groups.values()}

    def scores(file: str) -> pd.DataFrame:
        tables = [
            _scores(benchmark, job, record, file, spec.metrics).assign(
                arm=job.arm, group=group_of(job), fold=job.fold, seed=job.seed
            )
            for job, record in done
        ]
        filled = [table for table in tables if len(table)] or tables[:1]
        return with_subjects(pd.concat(filled, ignore_index=True), names)

    cases = scores("metrics.csv")
    extra = {}
    if spec.metrics.interfaces:
        extra["interfaces"] = every_pair(scores("interfaces.csv"), cases)
    return Results(
        name=spec.name,
        description=spec.description,
        baseline=chosen,
        arms=tuple(arm.name for arm in spec.arms),
        groups=tuple(groups.values()),
        cases=cases,
        trainings=tuple(
            Training(
                job.arm,
                group_of(job),
                job.fold,
                job.seed,
                benchmark.predictions(job),
                record["training"],
                record["memory"],
                record["versions"],
                record["hardware"],
                record["command"],
                dataset_folder(job.dataset) / f"{job.plans}.json",
                benchmark.log(job),
            )
            for job, record in done
        ),
        definitions=tuple(done[0][1]["evaluation"]["definitions"]),
        unfinished=tuple(unfinished(benchmark, job) for job in jobs if benchmark.record(job) is None),
        specification=written(spec),
        prepared=stored,
        folders=Folders({"$BENCHMARK": benchmark.folder}),
        **extra,
    )


def group_name(job: Job, subsets: Mapping[str, Sequence[str]]) -> str:
    """Name of the group of a job: data set, configuration, and the training data of its fold if folds are repeats."""
    named = subsets.get(job.compared)
    return ", ".join([job.compared, job.compared_configuration, *([named[job.fold]] if named else [])])


def unfinished(benchmark: BenchmarkFolder, job: Job) -> Unfinished:
    """The reason why a job has no result, as far as its log tells."""
    log = benchmark.log(job)
    if is_held(benchmark.of(job) / "lock"):
        return Unfinished(job.title, "still running", log if log.is_file() else None)
    if not log.is_file():
        return Unfinished(job.title, "not started")
    last = last_line(log.read_text(encoding="utf-8", errors="replace")) or "nothing"
    return Unfinished(job.title, f"failed or stopped; its log ends with: {last}", log)


def written(spec: Spec) -> dict[str, Any]:
    """The content of a YAML file of this benchmark, without default values."""
    content = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    arms = content.pop("arms")
    recipes = [arm.pop("plans", {}) for arm in arms]
    common = {key: value for key, value in recipes[0].items() if all(each.get(key) == value for each in recipes)}
    for arm, recipe in zip(arms, recipes, strict=True):
        # time_of sets the iterations, so a file may not give them
        own = {k: v for k, v in recipe.items() if k not in common and not (k == "iterations" and "time_of" in arm)}
        arm.update({"plans": own} if own else {})
    return {**content, "plans": common, "trainers": arms}


def every_pair(interfaces: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Complete the scores of pairs of labels: add rows for pairs that touch in none of a training's cases."""
    interfaces = interfaces.rename(columns={"labels": "label"})
    if not len(interfaces):
        return interfaces
    every = cases[[*IDENTITY, "subject"]].drop_duplicates()
    pairs = interfaces[["group", "label"]].drop_duplicates()
    numbers = interfaces.drop(columns="subject")
    complete = every.merge(pairs, on="group").merge(numbers, on=[*IDENTITY, "label"], how="left")
    return complete.fillna({"status": "both empty"})


def from_models(
    models: Sequence[str | Path],
    baseline: str | None,
    *,
    reference: str | Path | None = None,
    folds: Sequence[int] | None = None,
) -> Results:
    """Evaluate models that nnU-Net trained on their validation cases, and collect the results.

    Args:
        models: folders ``…/DATASET/TRAINER__PLANS__CONFIGURATION`` with ``fold_<F>/validation``. The same name under
            different roots is the same arm, trained again; the same folder twice counts once. What else nnU-Net writes
            beside models, such as ``ensembles``, is left out and printed.
        baseline: name of one of the folders, or its trainer if that is unique.
        reference: folder of the references; ``gt_segmentations`` or ``labelsTr`` of the data set by default.
        folds: folds to compare; by default all that the baseline has.

    Raises:
        InputError: a model, fold, reference or the baseline is missing.
    """
    folders = _model_folders(models)
    names = _short_names([folder.name for folder in folders])
    arms = list(dict.fromkeys(names[folder.name] for folder in folders))
    if baseline is None:
        raise InputError(f"Name what the others are compared with: --baseline, one of {', '.join(arms)}.")
    with_trainer = {name for folder, name in names.items() if folder.split("__")[0] == baseline}
    [alone] = with_trainer if len(with_trainer) == 1 else [baseline]
    chosen = _checked_baseline(names.get(baseline, alone), arms)
    if len(arms) < 2:
        raise InputError(f"Only {arms[0]} is given; a comparison needs another model.")
    groups: dict[str, Group] = {}
    trainings: list[Training] = []
    frames: list[pd.DataFrame] = []
    definitions: tuple[str, ...] = ()
    wanted = _folds_of([folder for folder in folders if names[folder.name] == chosen], folds)
    repeats: dict[tuple[str, str], int] = {}
    for folder in folders:
        dataset, arm = folder.parent.name, names[folder.name]
        if dataset not in wanted:
            raise InputError(f"{folder}: the baseline {chosen} has no model for {dataset}; add it, or leave this out.")
        subset_of = _subsets(dataset)
        seed = repeats[dataset, arm] = repeats.get((dataset, arm), -1) + 1
        for fold in wanted[dataset]:
            predictions = folder / f"fold_{fold}" / "validation"
            if fold not in _validated(folder):
                raise InputError(
                    f"{folder} has no validated fold {fold}; train it (nnUNetv2_train … {fold}; with --val if only the "
                    "validation is missing), or compare other folds with --folds."
                )
            name = ", ".join([dataset, *subset_of[fold : fold + 1]])
            group = groups.setdefault(name, _model_group(folder, name, reference))
            evaluation = evaluate_folders(
                group.references,
                predictions,
                dataset_json=folder / "dataset.json",
                plans=folder / "plans.json",
                cases=case_names(predictions, group.description["file_ending"]),
            )
            definitions = tuple(evaluation.definitions)
            frames.append(pd.DataFrame(evaluation.rows()).assign(arm=arm, group=name, fold=fold, seed=seed))
            final = folder / f"fold_{fold}" / "checkpoint_final.pth"
            about = records.training(final.parent) if final.is_file() else {}
            # named by the time, whose numbers have no leading zeros
            log = max(final.parent.glob("training_log_*.txt"), key=_numbers_in, default=None)
            plans = folder / "plans.json"
            trainings.append(Training(arm, name, fold, seed, predictions, about, plans=plans, log=log))
    return Results(
        name="models",
        description=f"Existing models, compared on the validation cases of their folds: {', '.join(arms)}.",
        baseline=chosen,
        arms=tuple(arms),
        groups=tuple(groups.values()),
        cases=with_subjects(pd.concat(frames, ignore_index=True), {g.name: g.dataset for g in groups.values()}),
        trainings=tuple(trainings),
        definitions=definitions,
        specification={
            "models": [f"{folder.parent.name}/{folder.name}" for folder in folders],
            "baseline": chosen,
            "folds": {dataset: list(numbers) for dataset, numbers in wanted.items()},
        },
    )


def image_of(group: Group, case: str) -> Path | None:
    """The file of a case's first channel, for drawing; None if ``nnUNet_raw`` does not have it."""
    folder = Path(os.environ.get("nnUNet_raw", ".")) / group.dataset
    if not (folder / "dataset.json").is_file():
        return None
    description = read_json(folder / "dataset.json")
    if group.scored == "held-out":
        image = folder / "imagesTs" / f"{case}_0000{description['file_ending']}"
    else:
        image = training_images(folder, description, case)[0]
    return image if image.is_file() else None


# --- parts ------------------------------------------------------------------------------------------------------------


def _numbers_in(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", file.name)]


def _checked_baseline(baseline: str, arms: Sequence[str]) -> str:
    if baseline not in arms:
        raise InputError(f"--baseline {baseline!r} is not compared here; there are {', '.join(arms)}.")
    return baseline


def _scores(
    benchmark: BenchmarkFolder, job: Job, record: Mapping[str, Any], file: str, metrics: Metrics
) -> pd.DataFrame:
    """Read ``metrics.csv`` or ``interfaces.csv`` of a job, which must have been scored with these metrics."""
    path = benchmark.of(job) / file
    if file == "interfaces.csv" and not path.is_file():
        raise _scored_otherwise(benchmark, job, "without interfaces, which")
    table = read_table(path)
    if file == "metrics.csv":
        if not record["evaluation"]["definitions"][0].startswith(f"definition {metrics.definition}:"):
            raise _scored_otherwise(benchmark, job, "with another definition of distances than")
        wanted = {f"nsd_{tolerance:g}mm" for tolerance in metrics.nsd_tolerances_mm}
        if {column for column in table.columns if column.startswith("nsd_")} != wanted:
            raise _scored_otherwise(benchmark, job, "with other NSD tolerances than")
        if metrics.topology and "betti_0_error" not in table.columns:
            raise _scored_otherwise(benchmark, job, "without topology, which")
        if metrics.consistency:
            if "consistency" not in table.columns:
                raise _scored_otherwise(benchmark, job, "without consistency, which")
            table = table.assign(consistency_error=table["consistency_difference"].abs())
    return table


def _scored_otherwise(benchmark: BenchmarkFolder, job: Job, how: str) -> InputError:
    return InputError(
        f"{job.title} was scored {how} the benchmark asks for by now; remove "
        f"{benchmark.of(job) / 'record.json'} and run the benchmark again: the job is only scored anew."
    )


def _model_folders(models: Sequence[str | Path]) -> list[Path]:
    """The folders of trained models, each once."""
    given = list(dict.fromkeys(Path(model).resolve() for model in models))
    strangers = [path for path in given if path.exists() and path.name.count("__") != 2]
    folders = [path for path in given if path not in strangers]
    for path in folders or strangers:
        if path in strangers or not (path / "plans.json").is_file():
            raise InputError(
                f"{path} is no trained model; give folders TRAINER__PLANS__CONFIGURATION from nnUNet_results."
            )
    if strangers:
        names = ", ".join(path.name for path in strangers)
        print(f"left out, because they are not named TRAINER__PLANS__CONFIGURATION: {names}", flush=True)
    return folders


def _short_names(folders: Sequence[str]) -> dict[str, str]:
    """Short name by folder: the trainer alone if plans and configuration are the same for all, else the whole name."""
    parts = {folder: folder.split("__") for folder in folders}
    if len({(plans, configuration) for _, plans, configuration in parts.values()}) == 1:
        return {folder: trainer for folder, (trainer, _, _) in parts.items()}
    return {folder: folder for folder in folders}


def _folds_of(baselines: Sequence[Path], folds: Sequence[int] | None) -> dict[str, Sequence[int]]:
    """The folds to compare, by data set: the given ones, or all that the baseline has validated."""
    if folds is None and (unfinished := [folder for folder in baselines if not _validated(folder)]):
        raise InputError(
            f"{unfinished[0]}: the baseline has no validated fold yet; wait for nnUNetv2_train to end, or run it again "
            "with --val if only the validation is missing."
        )
    return {folder.parent.name: _validated(folder) if folds is None else folds for folder in baselines}


def _validated(model: Path) -> list[int]:
    from nnunet_ext.nnunet.models import folds_with

    return sorted(int(fold) for fold in folds_with(model, ["validation/summary.json"]) if fold != "all")


def _subsets(dataset: str) -> Sequence[str]:
    """The result of :func:`.preprocessed.subsets`; empty if the folds of the data set are not on this machine."""
    root = os.environ.get("nnUNet_preprocessed")
    return subsets(dataset) if root and (Path(root) / dataset / "splits_final.json").is_file() else []


def _model_group(model: Path, name: str, reference: str | Path | None) -> Group:
    dataset = model.parent.name
    candidates = [Path(reference)] if reference else []
    for variable, sub in (("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr")):
        if not reference and os.environ.get(variable):
            candidates.append(Path(os.environ[variable]) / dataset / sub)
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        looked = ", ".join(map(str, candidates)) or "nnUNet_preprocessed and nnUNet_raw, which are not set"
        raise InputError(f"There are no references for {dataset} (looked in {looked}); give them with --reference.")
    reader = read_json(model / "plans.json").get("image_reader_writer")
    if reader is None:
        raise InputError(f"{model / 'plans.json'} names no image_reader_writer, so these are no plans of nnU-Net.")
    return Group(name, dataset, found, read_json(model / "dataset.json"), reader)
