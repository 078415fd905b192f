"""``nnunet-ext benchmark run … --reuse REPORT``: trainings of a report are taken over instead of trained again.

A new arm can so be compared with trainings that somebody published. A training is taken over only if this benchmark
would start the same one: the same command, plans, folds, number of epochs and metrics, on data with the same plans,
which hold the statistics of its intensities, with the same network as far as its options and the number of its weights
tell. Reports without an intact manifest are refused.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.cells import IDENTITY, SCORE_DIGITS, as_csv
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.other_network import other_network
from nnunet_ext.benchmark.package import PREPARED, SPECIFICATION, read
from nnunet_ext.benchmark.portable import Folders
from nnunet_ext.benchmark.preprocessed import plans_of
from nnunet_ext.benchmark.records import versions
from nnunet_ext.benchmark.results import Results, Training, group_name
from nnunet_ext.benchmark.spec import Spec, load
from nnunet_ext.benchmark.verify import packages_in, verify_package
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json, write_text

SAME = ("metrics", "references", "scored", "drawn", "splits")
"""Fields of the specification that must be equal, because scores depend on them."""


@dataclass(frozen=True)
class Published:
    """A report whose trainings may be taken over."""

    folder: Path
    spec: Spec
    results: Results
    prepared: Mapping[str, Any]

    @property
    def iterations(self) -> Mapping[str, int]:
        """Iterations of arms that have the time of another one, as measured for the report."""
        return self.prepared.get("iterations", {})


def published(folder: str | Path) -> Published:
    """Read a report.

    Raises:
        InputError: there is no report, more than one, it was changed later, or it is not the report of a benchmark.
    """
    packages = packages_in(Path(folder))
    if len(packages) > 1:
        raise InputError(f"--reuse: {folder} holds {len(packages)} reports; name one, such as {packages[0]}.")
    package = packages[0]
    if problems := verify_package(package).problems:
        raise InputError(f"--reuse: {package} is not as it was written ({problems[0]}); get an unchanged copy.")
    for name in (SPECIFICATION, PREPARED):
        if not (package / name).is_file():
            raise InputError(f"--reuse: {package} has no {name}; only reports of a benchmark can be reused.")
    return Published(package, load(package / SPECIFICATION, alone=True), read(package), read_json(package / PREPARED))


def take_over(report: Published, spec: Spec, benchmark: BenchmarkFolder, jobs: Sequence[Job]) -> list[Job]:
    """Give the results of a report to jobs that nobody started, and return these jobs.

    Jobs that are in the report but were trained differently are printed with the difference.

    Raises:
        InputError: the scores of the report mean something else, or none of its trainings is one of this benchmark.
    """
    for name in SAME:
        if getattr(report.spec, name) != getattr(spec, name):
            raise InputError(f"--reuse: {report.folder} has other {name} than this benchmark; train its arms again.")
    stored = benchmark.load()[2]
    known = {(t.arm, t.group, t.fold, t.seed): t for t in report.results.trainings}

    def there(job: Job) -> Training | None:
        return known.get((job.arm, group_name(job, stored["subsets"]), job.fold, job.seed))

    if not any(map(there, jobs)):
        raise InputError(
            f"--reuse: {report.folder} has no training of these arms, data, folds and seeds; is it the report of "
            f"{report.results.name}, not of {spec.name}?"
        )
    lent_by = {arm.name: arm.start for arm in report.spec.arms}

    def other_weights(job: Job) -> str:
        """Why a training that starts from another one starts from something else there; empty if it does not."""
        start = benchmark.start_of(job)
        if start is None:
            return ""
        if lent_by.get(job.arm) != job.start:
            return f"it starts from the weights of {lent_by.get(job.arm)} there, and from those of {job.start} here"
        lender = there(start)
        same = lender is not None and not any(_differences(report, lender, start, stored)) and not other_weights(start)
        return "" if same else f"the training of {job.start} that it starts from is another one there"

    lenders = {start.name for job in jobs if there(job) is None and (start := benchmark.start_of(job))}
    taken: dict[Job, Training] = {}
    reasons = []
    for job in jobs:
        training = there(job)
        if training is None or benchmark.record(job) is not None or benchmark.fold(job).is_dir():
            continue
        reason = "others start from its weights, which are not in a report" if job.name in lenders else ""
        if reason := reason or next(_differences(report, training, job, stored), "") or other_weights(job):
            reasons.append(f"{job.title}: {reason}")
        else:
            _write(report, training, benchmark, job)
            taken[job] = training
    if reasons and not taken:
        raise InputError(f"--reuse: no training of {report.folder} is the same here; {reasons[0]}.")
    for reason in reasons:
        print(f"trained again, not reused: {reason}", flush=True)
    if taken:
        print(f"{len(taken)} trainings are reused from {report.folder}{_other_versions(taken.values())}", flush=True)
    return list(taken)


# --- parts ------------------------------------------------------------------------------------------------------------


def _differences(report: Published, training: Training, job: Job, stored: Mapping[str, Any]) -> Iterator[str]:
    """Why the training is not that of the job, in words."""
    there, here = report.prepared["splits"].get(job.compared, []), stored["splits"][job.compared]
    if there[job.fold : job.fold + 1] != [here[job.fold]]:
        yield f"fold {job.fold} has other cases there"
    declared = report.prepared.get("declared", {})  # reports from before have none
    if declared.get(job.dataset, stored["declared"][job.dataset]) != stored["declared"][job.dataset]:
        yield f"dataset.json of {job.dataset} declares other labels, channels, landmarks or annotated labels there"
    words = shlex.split(training.command)
    if words[: len(job.training())] != job.training() or ("-pretrained_weights" in words) != bool(job.start):
        yield f"its command is {training.command} there, and {shlex.join(job.training())} here"
    if training.plans is None or not training.plans.is_file():
        yield "its plans are not in the report"
    elif different := _first_difference(
        read_json(training.plans), Folders().everywhere(plans_of(job.dataset, job.plans))
    ):
        yield f"its plans differ in {different}"
    elif other := other_network(training.about, job):
        yield f"its network has {other}"
    epochs = len(training.about.get("epoch_seconds", []))
    if job.epochs is not None and epochs != job.epochs:
        yield f"it has {epochs} epochs there, and {job.epochs} here"


def _first_difference(one: Any, other: Any, path: str = "") -> str:
    """Path of the first entry that differs between two JSON values; empty if none does."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if found := _first_difference(one.get(key), other.get(key), f"{path}.{key}" if path else key):
                return found
        return ""
    return "" if one == other else path


def _write(report: Published, training: Training, benchmark: BenchmarkFolder, job: Job) -> None:
    """Write the files of a finished job, its record last."""
    folder = benchmark.of(job)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"metrics.csv": report.results.cases}
    if report.spec.metrics.interfaces:
        tables["interfaces.csv"] = report.results.interfaces.rename(columns={"label": "labels"})
    for name, table in tables.items():
        own = (table["arm"] == job.arm) & (table["group"] == training.group)
        own &= (table["fold"] == job.fold) & (table["seed"] == job.seed)
        left_out = [*(column for column in IDENTITY if column != "case"), "subject"]
        write_text(folder / name, as_csv(table[own].drop(columns=left_out, errors="ignore"), SCORE_DIGITS))
    if training.log is not None:
        shutil.copyfile(training.log, benchmark.log(job))
    record = {
        "job": job.name,
        "key": job.key,
        "data": job.data,
        "command": training.command,
        "training": dict(training.about),
        "memory": dict(training.memory),
        "evaluation": {"definitions": list(report.results.definitions)},
        "versions": dict(training.versions),
        "hardware": dict(training.hardware),
        "reused_from": str(report.folder),
    }
    write_json(folder / "record.json", record)


def _other_versions(taken: Iterable[Training]) -> str:
    """Packages whose versions differ from those installed here, in words."""
    here = versions()
    found = {}
    for training in taken:
        for package, version in training.versions.items():
            if version != here.get(package):
                found[package] = f"{package} {version}, here {here.get(package, 'none')}"
    return f" (made with {'; '.join(found.values())})" if found else ""
