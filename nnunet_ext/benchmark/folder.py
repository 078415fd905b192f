"""The folder of a benchmark: what lies where, and what is done.

::

    benchmark.json                         the benchmark as prepared: spec, plans, splits, jobs
    jobs/<job>/record.json                 written last: this job is done
    jobs/<job>/metrics.csv, summary.json   every case and class
    jobs/<job>/log.txt                     everything that was printed
    jobs/<job>/memory.jsonl                one line for every attempt that ended
    results/seed_<S>/                      nnUNet_results of all trainings with this seed

A job is done when its record is there; everything else is read from what nnU-Net itself leaves, so that a job can be
killed at any moment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.spec import Spec
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json

PREPARED = "benchmark.json"


@dataclass(frozen=True)
class Job:
    """One training with its evaluation. ``key`` changes with everything that the result depends on.

    ``group``: the data set of the comparison, where the training is on another one. ``truth``: the data set or folder
    whose label maps are the references, where they are not those of the comparison's data set.
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

    @property
    def name(self) -> str:
        """Unique within a benchmark, and a folder name."""
        arm = "".join(letter if letter.isalnum() else "_" for letter in self.arm)
        return f"{self.compared}.{self.configuration}.{arm}.fold_{self.fold}.seed_{self.seed}"

    @property
    def compared(self) -> str:
        """The data set of the comparison."""
        return self.group or self.dataset

    @property
    def title(self) -> str:
        return f"{self.arm}, {self.compared} {self.configuration}, fold {self.fold}, seed {self.seed}"

    def command(self) -> list[str]:
        """What a user would type."""
        return [
            "nnUNetv2_train",
            self.dataset,
            self.configuration,
            str(self.fold),
            "-tr",
            self.trainer,
            "-p",
            self.plans,
            "-device",
            self.device,
        ]


class BenchmarkFolder:
    """Paths and state; writes nothing but whole files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()

    # -- the benchmark as prepared -------------------------------------------------------------------------------

    @property
    def prepared(self) -> Path:
        return self.folder / PREPARED

    def save(self, spec: Spec, jobs: list[Job], **about: Any) -> None:
        """``about``: JSON values, kept as they are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.prepared, {**about, "spec": spec.as_dict(), "jobs": [asdict(job) for job in jobs]})

    def load(self) -> tuple[Spec, list[Job], dict[str, Any]]:
        """Spec, jobs, and the rest of the file.

        Raises:
            InputError: no benchmark lies here, or its file cannot be read.
        """
        if not self.prepared.is_file():
            raise InputError(f"{self.folder} holds no {PREPARED}; start with: nnunet-ext benchmark run.")
        try:
            content = json.loads(self.prepared.read_text(encoding="utf-8"))
            return Spec.from_dict(content.pop("spec")), [Job(**job) for job in content.pop("jobs")], content
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.prepared} cannot be read ({error}); choose another --folder, or restore the file."
            ) from None

    # -- jobs ----------------------------------------------------------------------------------------------------

    def of(self, job: Job) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / job.name

    def results(self, job: Job) -> Path:
        """``nnUNet_results`` of a job: trainings that differ in nothing but the seed need folders of their own."""
        return self.folder / "results" / f"seed_{job.seed}"

    def fold(self, job: Job) -> Path:
        """Where nnU-Net writes checkpoints and validation predictions."""
        model = f"{job.trainer}__{job.plans}__{job.configuration}"
        return self.results(job) / job.dataset / model / f"fold_{job.fold}"

    def record(self, job: Job) -> dict[str, Any] | None:
        """What a finished job recorded; None if it is not done."""
        file = self.of(job) / "record.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def log(self, job: Job) -> Path:
        return self.of(job) / "log.txt"
