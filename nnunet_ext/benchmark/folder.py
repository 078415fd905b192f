"""The folder of a benchmark: its layout, and the state of its jobs.

::

    benchmark.json                         the benchmark as prepared: spec, plans, splits, jobs
    jobs/<job>/record.json                 written last: this job is done
    jobs/<job>/metrics.csv, summary.json   scores of every case and class
    jobs/<job>/log.txt                     all output
    jobs/<job>/memory.jsonl                one line for every attempt that ended
    jobs/<job>/predictions/                predictions of held-out cases, if these are scored
    results/seed_<S>/                      nnUNet_results of all trainings with this seed
    results/seed_<S>.from_<arm>/           the same for trainings that start from another arm's final weights
    nnUNet_raw/, nnUNet_preprocessed/      data that the benchmark brings itself

A job is done when its record exists. Everything else is read from nnU-Net's own files, so a job can be killed at any
moment.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnunet_ext.benchmark.spec import Scored, Spec
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.files import file_name, write_json
from nnunet_ext.refusals import sentence

PREPARED = "benchmark.json"


@dataclass(frozen=True)
class Job:
    """One training with its evaluation.

    ``key`` changes with the settings that the result depends on, ``data`` with the files (empty in folders of earlier
    versions, which did not look), and ``unlabelled`` with the images without labels that the training draws ("none":
    it draws none; empty as for ``data``). ``group`` is the data set of the comparison, if the
    training uses another one, and ``among`` the configuration of the comparison, likewise. ``truth`` is the data set or
    folder whose label maps are the references, if these are not the comparison's. ``scored`` is as in
    :class:`~nnunet_ext.benchmark.spec.Spec`. ``start`` is the arm whose final weights, of the same fold and seed, the
    training starts from.
    """

    arm: str
    trainer: str
    plans: str
    dataset: str
    configuration: str
    fold: int
    seed: int
    device: str
    epochs: int | None
    key: str
    group: str = ""
    truth: str = ""
    scored: Scored = "validation"
    start: str = ""
    among: str = ""
    data: str = ""
    unlabelled: str = ""

    @property
    def name(self) -> str:
        """Name of the job's folder, unique within a benchmark."""
        return f"{self.compared}.{self.compared_configuration}.{file_name(self.arm)}.fold_{self.fold}.seed_{self.seed}"

    @property
    def compared(self) -> str:
        """The data set of the comparison."""
        return self.group or self.dataset

    @property
    def compared_configuration(self) -> str:
        """The configuration of the comparison."""
        return self.among or self.configuration

    @property
    def title(self) -> str:
        return f"{self.arm}, {self.compared} {self.compared_configuration}, fold {self.fold}, seed {self.seed}"

    def same_as(self, other: Job) -> bool:
        """Whether the result of ``other`` is that of this job: the same settings, and the same data if both know it."""
        files = ((self.data, other.data), (self.unlabelled, other.unlabelled))
        return self.key == other.key and all(own == its or not own or not its for own, its in files)

    def training(self) -> list[str]:
        """The command that trains, as a user would type it."""
        model = ["-tr", self.trainer, "-p", self.plans, "-device", self.device]
        return ["nnUNetv2_train", self.dataset, self.configuration, str(self.fold), *model]

    def prediction(self, images: Path, output: Path) -> list[str]:
        """The command that predicts with the trained fold."""
        model = ["-d", self.dataset, "-c", self.configuration, "-f", str(self.fold), "-tr", self.trainer]
        # without workers, because there are few cases
        how = ["-p", self.plans, "-device", self.device, "-npp", "0", "-nps", "0"]
        return ["nnUNetv2_predict", "-i", str(images), "-o", str(output), *model, *how]


class BenchmarkFolder:
    """Paths and state of a benchmark; files are always written as a whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()

    # -- the benchmark as prepared -------------------------------------------------------------------------------

    @property
    def prepared(self) -> Path:
        return self.folder / PREPARED

    @property
    def lock(self) -> Path:
        """The lock held by the process that starts jobs here."""
        return self.folder / ".lock"

    def save(self, spec: Spec, jobs: list[Job], **about: Any) -> None:
        """Write ``benchmark.json``; ``about`` holds further JSON values, stored as they are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.prepared, {**about, "spec": spec.as_dict(), "jobs": [asdict(job) for job in jobs]})

    def load(self) -> tuple[Spec, list[Job], dict[str, Any]]:
        """Read the specification, the jobs, and the rest of ``benchmark.json``.

        Raises:
            InputError: the folder holds no benchmark, or its file cannot be read.
        """
        if not self.prepared.is_file():
            raise InputError(f"{self.folder} holds no {PREPARED}; start with: nnunet-ext benchmark run.")
        try:
            content = json.loads(self.prepared.read_text(encoding="utf-8"))
            return Spec.from_dict(content.pop("spec")), [Job(**job) for job in content.pop("jobs")], content
        except ValidationError as error:
            reason = sentence(error, Spec, f"{self.prepared}, spec").removesuffix(".")
            raise InputError(f"{reason}; choose another --folder, or restore the file.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.prepared} cannot be read ({error}); choose another --folder, or restore the file."
            ) from None

    # -- data ----------------------------------------------------------------------------------------------------

    @property
    def raw(self) -> Path:
        """``nnUNet_raw`` of data sets that the benchmark makes."""
        return self.folder / "nnUNet_raw"

    def use_data(self, spec: Spec) -> None:
        """Point nnU-Net's variables of this process to the data; call this before nnunetv2 is imported.

        Raises:
            InputError: a variable is not set.
        """
        register()
        os.environ.setdefault("nnUNet_results", str(self.folder / "results"))
        if spec.brings_its_data:
            preprocessed = self.folder / "nnUNet_preprocessed"
            for folder in (self.raw, preprocessed):
                folder.mkdir(parents=True, exist_ok=True)
            os.environ["nnUNet_raw"] = spec.raw if spec.raw and not spec.drawn else str(self.raw)
            os.environ["nnUNet_preprocessed"] = str(preprocessed)
            os.environ["nnUNet_results"] = str(self.folder / "results")
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            if not os.environ.get(name):
                raise InputError(f"{name} is not set; export it to the folder that holds your data.")

    # -- jobs ----------------------------------------------------------------------------------------------------

    def of(self, job: Job) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / job.name

    def results(self, job: Job) -> Path:
        """``nnUNet_results`` of a job; trainings that differ only in seed or start need separate folders."""
        start = f".from_{file_name(job.start)}" if job.start else ""
        return self.folder / "results" / f"seed_{job.seed}{start}"

    def fold(self, job: Job) -> Path:
        """Folder that nnU-Net writes checkpoints and validation predictions to."""
        model = f"{job.trainer}__{job.plans}__{job.configuration}"
        return self.results(job) / job.dataset / model / f"fold_{job.fold}"

    def predictions(self, job: Job) -> Path:
        """Folder of the predictions to score; with held-out cases it exists only when all are predicted."""
        return self.fold(job) / "validation" if job.scored == "validation" else self.of(job) / "predictions"

    def record(self, job: Job) -> dict[str, Any] | None:
        """Record of a finished job; None if it is not done."""
        file = self.of(job) / "record.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def start_of(self, job: Job) -> Job | None:
        """The job whose final weights ``job`` starts from."""
        if not job.start:
            return None
        same = ("compared", "compared_configuration", "fold", "seed")
        jobs = self.load()[1]
        return next(o for o in jobs if o.arm == job.start and all(getattr(o, k) == getattr(job, k) for k in same))

    def can_start(self, job: Job) -> bool:
        """Whether the job whose final weights ``job`` starts from is done; True if it starts from none."""
        start = self.start_of(job)
        return start is None or self.record(start) is not None

    def log(self, job: Job) -> Path:
        return self.of(job) / "log.txt"
